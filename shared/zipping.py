"""What ZipLoRA's coefficients are learnt by where nobody says otherwise (``engine.columns``)."""

from __future__ import annotations

from collections.abc import Sequence

STEPS = 100  # of Adam, as in the paper (https://arxiv.org/abs/2311.13600)
RATE = 0.02
PENALTY = 0.3  # λ, of the overlap
PICTURES = 4  # of each LoRA that is learnt from; one more is kept back to measure by


def sentence(names: Sequence[str], before: Sequence[float], after: Sequence[float]) -> str:
    """What a person needs to know: how far each LoRA is from what it does alone, as a share of that
    (0: all kept; 1: as if it were not there), as a plain sum and with the coefficients."""
    told = ", ".join(
        f"{name} {then:.0%} → {now:.0%}"
        for name, then, now in zip(names, before, after, strict=True)
    )
    better = sum(one**2 for one in after) < sum(one**2 for one in before)
    moral = "" if better else " The plain sum is no worse: merge without --method ziplora."
    return f"Off from what each does alone, on a picture not learnt from: {told}.{moral}"
