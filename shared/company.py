"""What a LoRA is foretold to lose in a mix: how far it is recognised in company.

M(x), of a LoRA in a mix, is how much better the mix predicts the noise on a picture x than the mix
without that LoRA does: the log of the one's error over the other's. Of pictures of the same prompts
and seeds,

    loss = (M(alone) − M(mix)) / (M(alone) − M(base)),

which is 0 where the mix's pictures have as much of the LoRA as its own, and 1 where they have as
little as the base's. It has the form of what a judge finds lost, with the LoRA itself for a judge.
"""

from __future__ import annotations

from collections.abc import Sequence

PICTURES = 8  # of each kind: 32 foretold little better
MOST = 64
LEAST = 0.02  # of M(alone) − M(base), which was 0.1 to 1.2: less, and it knows nothing of its own
# Spearman's, with what a judge saw lost, over pairs of other LoRAs (docs/decisions/0033)
RHO = {"styles": 0.76, "contents": -0.19}
WORTH = 0.005  # a loss that rounds to nothing


def loss(alone: float, mixed: float, base: float) -> float | None:
    """From the means of M over the pictures of a LoRA alone, of the mix, of the base. Negative: the
    others help it. None: alone it shows nothing that it recognises."""
    shown = alone - base
    return (alone - mixed) / shown if shown >= LEAST else None


def sentence(names: Sequence[str], losses: Sequence[float | None]) -> str:
    """What a person needs to know first: who is foretold to lose how much beside whom."""
    parts = []
    for at, (name, lost) in enumerate(zip(names, losses, strict=True)):
        beside = _listed([*names[:at], *names[at + 1 :]])
        if lost is None:
            said = "shows too little alone to foretell anything"
        elif abs(lost) < WORTH:
            said = "is foretold to lose nothing of what it shows alone"
        elif lost > 0:
            said = f"is foretold to lose {lost:.0%} of what it shows alone"
        else:
            said = f"is foretold to show {-lost:.0%} more than alone"
        parts.append(f"beside {beside}, {name} {said}")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def worth(pictures: int) -> str:
    """What losses are, seen on so many pictures of each kind, and how far to trust them."""
    return (
        f"foretold from {pictures} pictures each of the base, of every LoRA alone and of the mix, "
        "by how far each LoRA recognises itself in them. That is no promise: over 25 pairs of "
        "other LoRAs the rank correlation with what a judge saw lost was "
        f"{RHO['styles']} for styles and {RHO['contents']} for contents. Look at the pictures."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
