"""What would win back what LoRAs lose to each other, worked out from a probe's inner products.

Least squares on the deltas. To first order the mix at other weights is δ_mix + Σ xₖ fₖ, where fₖ
is what LoRA k, or one block of it, adds to the mix, and 1 + xₖ the factor on its weight. Sought is
the x for which, sample by sample, what is left of each LoRA is nearest to all of it, at the least
change:

    min  Σᵢ 1/Eᵢ Σₛ (⟨δ_mix + Σ xₖ fₖ, δᵢ⟩ − ‖δᵢ‖²)² / ‖δᵢ‖²  +  μ ‖Σ xₖ fₖ‖² / ΣEᵢ  +  ν Σ xₖ²
    with −b ≤ xₖ ≤ b and Eᵢ = Σₛ ‖δᵢ‖².
"""  # fmt: skip

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from shared import blocks
from shared.pictures import LoraUse
from shared.probes import BANDS, KINDS, Kind, Products, Remedy, energy, loss, survival

WORTH = 0.01  # a loss below that needs no remedy, nor is one that gains no more worth a word
MOST = 10.0  # weight, up or down
MU, NU = 0.05, 5e-3
PLAIN = (0.7, 1.3)  # of a LoRA's weight, tried whatever a probe says
GUIDED = 0.5  # of cfg, further along a LoRA
SWEEPS = 300
FURTHEST = 0.5  # that a block is turned: beyond, pictures break before the probe shows it
LEAST = BANDS // 2  # bands that a LoRA takes part in: what is shown less, later steps take back
_NOTHING = 1e-9  # a sample's energy, of the mean, below which it says nothing
Span = tuple[int, int]  # bands: the first, and the first after


@dataclass(frozen=True)
class Idea:
    """Other weights, not yet tried."""

    kind: Kind
    loras: list[LoraUse]
    predicted: list[float]


def ideas(
    samples: Sequence[Products], at: Sequence[int], uses: Sequence[LoraUse], mix: int,
    whole: Sequence[int], parts: Mapping[tuple[int, str], int], config: Mapping[str, Any],
    *, cfg: float, plain: bool = False,
) -> list[Idea]:  # fmt: skip
    """What is worth trying: each least-squares solution whole and by half, for it holds to first
    order only, the parts of the steps, and pictures guided further along each LoRA, or along all,
    which is foretold as if it were so much more of its weight. ``whole``: the row of what each LoRA
    adds to the mix; ``parts``: (LoRA, block) → what that adds. ``plain``: and each LoRA at more and
    at less of its weight, which no probe thinks of."""
    count = len(uses)
    found = []
    x = factors(samples, count, mix, whole)
    for step in (1.0, 0.5):
        turned = [one * step for one in x]
        found.append(
            Idea(
                "weights", [_by(use, 1 + one) for use, one in zip(uses, turned, strict=True)],
                predicted(samples, count, mix, whole, turned),
            )
        )  # fmt: skip
    if parts:
        rows = list(parts.values())
        x = factors(samples, count, mix, rows, FURTHEST)
        for step in (1.0, 0.5):
            by = {place: 1 + step * one for place, one in zip(parts, x, strict=True)}
            loras = []
            for lora, use in enumerate(uses):
                own = {block: one for (whose, block), one in by.items() if whose == lora}
                loras.append(replace(use, blocks=blocks.scaled(own, use.blocks, config)))
            turned = [one * step for one in x]
            found.append(Idea("blocks", loras, predicted(samples, count, mix, rows, turned)))
    chosen, left = spans(samples, at, count, mix)
    if any(span != (0, BANDS) for span in chosen):
        loras = [
            replace(use, begin=begin / BANDS, end=end / BANDS)
            for use, (begin, end) in zip(uses, chosen, strict=True)
        ]
        found.append(Idea("steps", loras, left))
    for guided in (*([lora] for lora in range(count)), range(count)):
        loras = [
            replace(use, guidance=use.guidance + round(GUIDED * cfg, 2)) if lora in guided else use
            for lora, use in enumerate(uses)
        ]
        turned = [GUIDED * (lora in guided) for lora in range(count)]
        found.append(Idea("guidance", loras, predicted(samples, count, mix, whole, turned)))
    for lora, factor in itertools.product(range(count), PLAIN if plain else ()):
        turned = [(factor - 1) * (other == lora) for other in range(count)]
        found.append(
            Idea(
                "weights", [_by(use, 1 + one) for use, one in zip(uses, turned, strict=True)],
                predicted(samples, count, mix, whole, turned),
            )
        )  # fmt: skip
    return [one for one in found if one.loras != list(uses)]


def most(count: int) -> int:
    """Ideas that there can be, for so many LoRAs."""
    return 6 + (1 + len(PLAIN)) * count


def chosen(
    tried: Sequence[Idea], measured: Sequence[Products], before: Sequence[float]
) -> list[Remedy]:  # fmt: skip
    """Of each kind the better one that helps, the best first; among equals the simpler. Parts of
    the steps come last: what a LoRA has done, the steps without it may take back, and a probe on
    the base's own way does not see that.

    ``measured``: the samples of another probe, whose first rows are again what each LoRA was asked
    to do alone, then one row an idea.
    """
    count = len(before)
    found: dict[Kind, Remedy] = {}
    for number, idea in enumerate(tried):
        now = survival(measured, count + number, count)
        best = found.get(idea.kind)
        if loss(now) < (loss(before) - WORTH if best is None else loss(best.measured)):
            found[idea.kind] = Remedy(
                kind=idea.kind, loras=idea.loras, predicted=idea.predicted, measured=now
            )
    return sorted(
        found.values(),
        key=lambda one: (one.kind == "steps", round(loss(one.measured), 2), KINDS.index(one.kind)),
    )


def recognised(
    tried: Sequence[Idea], measured: Sequence[Products], kept: Sequence[Sequence[float | None]],
    losses: Sequence[float | None],
) -> list[Remedy]:  # fmt: skip
    """As ``chosen``, by what pictures have of the LoRA that they have least of: those alone in
    which that is more than in the mix as it was asked for. Guidance comes last: it goes along the
    very thing by which a LoRA recognises itself, which is therefore no judge of it.

    ``kept``: of each idea, what of each LoRA is recognised in its pictures; ``losses``: what is
    missing in those of the mix. None: not recognised alone.
    """
    count = len(losses)
    before = least([None if one is None else 1 - one for one in losses])
    found: dict[Kind, Remedy] = {}
    for number, idea in enumerate(tried):
        best = found.get(idea.kind)
        if least(kept[number]) > (before + WORTH if best is None else least(best.kept)):
            found[idea.kind] = Remedy(
                kind=idea.kind, loras=idea.loras, predicted=idea.predicted,
                measured=survival(measured, count + number, count), kept=list(kept[number]),
            )  # fmt: skip
    return sorted(
        found.values(),
        key=lambda one: (
            one.kind == "guidance", -round(least(one.kept), 2), KINDS.index(one.kind)
        ),
    )  # fmt: skip


def least(kept: Sequence[float | None]) -> float:
    """What is left of the LoRA that keeps least: all of it is enough."""
    return min(1.0, *(one for one in kept if one is not None))


def _by(use: LoraUse, factor: float) -> LoraUse:
    """A use at so many times its weights."""

    def turned(weight: float) -> float:
        return min(max(round(weight * factor, 2), -MOST), MOST)

    text = None if use.text_weight is None else turned(use.text_weight)
    return replace(use, weight=turned(use.weight), text_weight=text)


def factors(
    samples: Sequence[Products], count: int, mix: int, rows: Sequence[int], bound: float = 1.0
) -> list[float]:  # fmt: skip
    """x for what is added in ``rows``; the first ``count`` rows are what each LoRA does alone."""
    size = len(rows)
    q = [[NU * (k == j) for j in range(size)] for k in range(size)]
    c = [0.0] * size
    wholes = [energy(samples, lora) for lora in range(count)]
    if not any(whole > 0 for whole in wholes):
        return c
    for one in samples:
        for k, j in itertools.product(range(size), repeat=2):
            q[k][j] += MU * one[rows[k]][rows[j]] / sum(wholes)
        for lora, whole in enumerate(wholes):
            own = one[lora][lora]
            if own <= _NOTHING * whole / len(samples):
                continue
            off = one[mix][lora] - own
            scale = 1 / (whole * own)
            g = [one[row][lora] for row in rows]
            for k in range(size):
                c[k] += scale * off * g[k]
                for j in range(size):
                    q[k][j] += scale * g[k] * g[j]
    return boxed(q, c, bound)


def boxed(q: Sequence[Sequence[float]], c: Sequence[float], bound: float = 1.0) -> list[float]:
    """The x in [−bound, bound]ⁿ with the least xᵀQx/2 + cᵀx, Q positive definite: coordinate by
    coordinate, which converges for such a function on a box (Tseng 2001)."""
    x = [0.0] * len(c)
    for _ in range(SWEEPS):
        moved = 0.0
        for k, row in enumerate(q):
            rest = c[k] + sum(a * b for a, b in zip(row, x, strict=True)) - row[k] * x[k]
            wanted = min(max(-rest / row[k], -bound), bound)
            moved = max(moved, abs(wanted - x[k]))
            x[k] = wanted
        if moved < 1e-9:
            break
    return x


def predicted(
    samples: Sequence[Products], count: int, mix: int, rows: Sequence[int], x: Sequence[float]
) -> list[float]:  # fmt: skip
    """What survives of each LoRA at δ_mix + Σ xₖ fₖ."""
    found = []
    for lora in range(count):
        whole = energy(samples, lora)
        left = sum(
            one[mix][lora] + sum(a * one[row][lora] for a, row in zip(x, rows, strict=True))
            for one in samples
        )
        found.append(left / whole if whole > 0 else 1.0)
    return found


def spans(
    samples: Sequence[Products], at: Sequence[int], count: int, mix: int
) -> tuple[list[Span], list[float]]:  # fmt: skip
    """The part of the steps that each LoRA had best take part in, and what would survive.

    Where a LoRA is away, the others are taken to add up. One LoRA after the other is given its best
    part, until nothing moves.
    """
    every = [(a, b) for a in range(BANDS) for b in range(a + LEAST, BANDS + 1)]
    chosen = [(0, BANDS)] * count

    def left(spans: Sequence[Span]) -> list[float]:
        return _left(samples, at, spans, mix)

    for _ in range(count + 1):
        before = list(chosen)
        for lora in range(count):
            options = [[*chosen[:lora], span, *chosen[lora + 1 :]] for span in every]
            best = min(options, key=lambda option: loss(left(option)))
            if loss(left(best)) < loss(left(chosen)) - 1e-9:
                chosen = best
        if chosen == before:
            break
    return chosen, left(chosen)


def _left(
    samples: Sequence[Products], at: Sequence[int], chosen: Sequence[Span], mix: int
) -> list[float]:  # fmt: skip
    count = len(chosen)
    sums = [0.0] * count
    for one, band in zip(samples, at, strict=True):
        here = [lora for lora, (a, b) in enumerate(chosen) if a <= band < b]
        for lora in range(count):
            whole = len(here) == count
            sums[lora] += one[mix][lora] if whole else sum(one[row][lora] for row in here)
    wholes = [energy(samples, lora) for lora in range(count)]
    return [a / whole if whole > 0 else 1.0 for a, whole in zip(sums, wholes, strict=True)]
