"""What a probe on the base says: how much of each LoRA's effect is left in the mix, and why.

δᵢ is what LoRA i alone does to the base's noise prediction at some step of some picture, by how far
that moves the picture there; δ_mix what all of them do together. LoRA i survives by
Σ⟨δ_mix, δᵢ⟩ / Σ‖δᵢ‖², summed over the samples: 1 is all of it. Everything here follows from inner
products of such deltas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from shared.conflicts import FELT, Place
from shared.pictures import LoraUse
from shared.recipe import Sampler

STEPS = 8  # of the pictures that are probed
SAMPLER: Sampler = "DDIM"
AT = (1, 3, 5, 7)  # steps that are asked, one in each band
BANDS = len(AT)  # equal parts of the steps
WELL = 0.9  # what a LoRA keeps without anybody missing something
PROMPTS = 4  # at most

Kind = Literal["weights", "blocks", "steps", "guidance"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Products = Sequence[Sequence[float]]  # ⟨δₖ, δₗ⟩ of one sample's rows


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the denoising steps, and what survives there of each LoRA. ``energy``: Σ‖δᵢ‖²."""

    begin: float
    end: float
    energy: list[float]
    survival: list[float]


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """Other weights for the same LoRAs, and what survives of each effect as it was asked for.

    weights: one factor a LoRA. blocks: one a LoRA and block. steps: each LoRA in its part of the
    denoising steps. guidance: pictures guided further along one of them, or along all.
    ``predicted`` from the first probe, ``measured`` by another. ``kept``: what of each is
    recognised in pictures made so, as a share of what it shows alone, if losses were asked for.
    """

    kind: Kind
    loras: list[LoraUse]
    predicted: list[float]
    measured: list[float]
    kept: list[float | None] = []


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. ``blocks``: what a block of a LoRA adds, switched on where all the rest is;
    row i, column j of ``overlap`` is what j's block adds to the effect of i, as a share of it.

    ``losses``: the share of what each LoRA shows alone that it is foretold to lose beside the
    others, if that was asked (``shared.company``); None where alone it shows too little.
    ``seen``: pictures of each kind, by which. ``instead``: survival where another mix was
    asked about. ``remedies``: the best first, those
    alone that help.
    """

    base: str
    loras: list[str]
    weights: list[float]
    prompts: list[str]
    samples: int
    sentence: str
    energy: list[float]
    survival: list[float]
    bands: list[Band]
    blocks: list[Place]
    instead: list[float]
    remedies: list[Remedy]
    notes: list[str]
    losses: list[float | None] = []
    seen: int = 0


def added(sample: Products, mix: int, off: Sequence[int]) -> list[list[float]]:
    """The products with δ_mix − δ in place of the rows in ``off``, each a mix without something: so
    that a row is what that something adds to the mix."""
    size, turned = len(sample), set(off)

    def product(k: int, j: int) -> float:
        if k in turned:
            return (
                (sample[mix][j] - sample[k][j])
                if j not in turned
                else (sample[mix][mix] - sample[mix][j] - sample[k][mix] + sample[k][j])
            )
        return sample[k][mix] - sample[k][j] if j in turned else sample[k][j]

    return [[product(k, j) for j in range(size)] for k in range(size)]


def energy(samples: Sequence[Products], row: int) -> float:
    """Σ‖δ‖² of a row."""
    return sum(one[row][row] for one in samples)


def survival(samples: Sequence[Products], mix: int, count: int) -> list[float]:
    """What of each of the first ``count`` rows is left in row ``mix``; 1 where nothing was."""
    found = []
    for row in range(count):
        whole = energy(samples, row)
        found.append(sum(one[mix][row] for one in samples) / whole if whole > 0 else 1.0)
    return found


def bands(samples: Sequence[Products], at: Sequence[int], mix: int, count: int) -> list[Band]:
    """``at``: the band of each sample."""
    found = []
    for band in range(BANDS):
        own = [one for one, where in zip(samples, at, strict=True) if where == band]
        found.append(
            Band(
                begin=band / BANDS, end=(band + 1) / BANDS,
                energy=[energy(own, row) for row in range(count)],
                survival=survival(own, mix, count),
            )
        )  # fmt: skip
    return found


def places(
    samples: Sequence[Products], rows: dict[tuple[int, str], int], count: int
) -> list[Place]:  # fmt: skip
    """``rows``: (LoRA, block) → the row of what that block of it adds."""
    whole = [energy(samples, row) for row in range(count)]
    found = []
    for block in dict.fromkeys(block for _, block in rows):
        own = [rows.get((lora, block)) for lora in range(count)]
        overlap = [
            [
                sum(one[row][of] for one in samples) / whole[of]
                if row is not None and whole[of] > 0
                else 0.0
                for row in own
            ]
            for of in range(count)
        ]
        found.append(
            Place(
                block=block, met=int(sum(row is not None for row in own) > 1),
                energy=[0.0 if row is None else energy(samples, row) for row in own],
                overlap=overlap, touched=[[0.0] * count for _ in range(count)],
            )
        )  # fmt: skip
    return found


def loss(survived: Sequence[float]) -> float:
    """How far from what was asked for a mix is: Σ(1 − Sᵢ)². What is doubled is as wrong as what is
    gone."""
    return sum((1 - one) ** 2 for one in survived)


def sentence(
    base: str, names: Sequence[str], survived: Sequence[float], found: Sequence[Band],
    blocks: Sequence[Place], stages: dict[str, str],
) -> str:  # fmt: skip
    """What a person needs to know first."""
    said = ", ".join(f"{name} {one:.0%}" for name, one in zip(names, survived, strict=True))
    if all(WELL <= one <= 2 - WELL for one in survived):
        return f"On {base} each LoRA keeps its effect in the mix ({said}): they do not fight."
    worst = min(range(len(names)), key=lambda lora: survived[lora])
    if survived[worst] >= WELL:
        most = max(range(len(names)), key=lambda lora: survived[lora])
        return (
            f"On {base} they add to each other: {names[most]} is as strong as at "
            f"{survived[most]:.0%} ({said}). Lower weights may do."
        )
    others = ", ".join(
        f"{name} {one:.0%}" for at, (name, one) in enumerate(zip(names, survived, strict=True))
        if at != worst
    )  # fmt: skip
    kept = (
        f"{survived[worst]:.0%} of its effect" if survived[worst] > 0 else "nothing of its effect"
    )
    text = f"On {base} {names[worst]} keeps {kept} in the mix, {others}."
    lost = [one.energy[worst] * (1 - one.survival[worst]) for one in found]
    if max(lost) > 0.4 * sum(lost) > 0:
        text += f" It loses most in the {_ORDINALS[lost.index(max(lost))]} quarter of the steps"
    else:
        text += " It loses in all steps alike"
    return f"{text}{_blamed(names, worst, blocks, stages)}."


_ORDINALS = ("first", "second", "third", "last")


def _blamed(
    names: Sequence[str], worst: int, blocks: Sequence[Place], stages: dict[str, str]
) -> str:  # fmt: skip
    """Which block of which other LoRA takes most."""
    taken = [
        (place.overlap[worst][by], place.block, by)
        for place in blocks
        for by in range(len(names))
        if by != worst
    ]
    if not taken or min(taken)[0] > -FELT:
        return ""
    share, block, by = min(taken)
    where = f"{stages[block]} ({block})" if stages.get(block) else block
    return f", most of it ({-share:.0%}) to {names[by]} in {where}"
