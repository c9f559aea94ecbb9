"""The weight that a LoRA is recommended at, and what it was measured by.

Without somebody who looks, a picture can be asked by two networks: does the base with the LoRA
explain it better than the base alone? Both predict the noise in it; what the LoRA takes off the
base's error is the *effect* (a likelihood ratio: Li et al., https://arxiv.org/abs/2303.16203, with
the LoRA as the class). Pictures painted at rising weights have ever more of it, until the LoRA is
all there; beyond, they break. *Drift* is how far unrelated prompts are moved meanwhile. So the
weight to take is the earliest that cannot be told from the best.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
MOST = 16  # weights
PICTURES = 6  # of the LoRA's own prompts, at each weight
STEPS, CFG = 10, 5.0  # of these pictures, by DDIM
TOLERANCE = 0.1  # of the best effect, or one standard error where that is more
UNRELATED = (
    "a photograph of a city street",
    "a bowl of fruit on a table",
    "a portrait of an old man",
    "mountains behind a lake at sunset",
)


class Weighed(msgspec.Struct, frozen=True, kw_only=True):
    """One weight. ``effect``: of pictures of the LoRA's own prompts, the share of the base's error
    that the LoRA takes off, less that on the base's own pictures; ``drift``: ‖Δε‖ / ‖ε‖ on
    unrelated prompts."""

    weight: float
    effect: float
    drift: float


class Advised(msgspec.Struct, frozen=True, kw_only=True):
    """The weight to begin with on a base, and why. ``leak``: how far the LoRA moves predictions at
    that weight by its prompts without ``trigger``, relative to with it; None: no prompt has it."""

    base: str
    weight: float
    reason: str
    weights: list[Weighed]
    prompts: list[str]
    at: float = 0.0  # Unix seconds
    trigger: str = ""
    leak: float | None = None


def advised(
    base: str, prompts: Sequence[str], plain: Sequence[float],
    effects: Sequence[tuple[float, Sequence[float]]], drifts: Sequence[float],
) -> Advised:  # fmt: skip
    """``plain``: of each picture that the base painted, what the LoRA takes off the base's error;
    ``effects``: (weight, the same of the pictures painted at it), by rising weight; ``drifts``: at
    each weight."""
    gained = [
        [own - before for own, before in zip(found, plain, strict=True)] for _, found in effects
    ]
    means = [statistics.fmean(one) for one in gained]
    best = max(range(len(means)), key=lambda at: means[at])
    chosen = best
    for at in range(best):
        behind = [a - b for a, b in zip(gained[best], gained[at], strict=True)]
        error = statistics.stdev(behind) / math.sqrt(len(behind)) if len(behind) > 1 else 0.0
        if means[best] - means[at] <= max(TOLERANCE * means[best], error):
            chosen = at
            break
    weighed = [
        Weighed(weight=weight, effect=mean, drift=drift)
        for (weight, _), mean, drift in zip(effects, means, drifts, strict=True)
    ]
    return Advised(
        base=base,
        weight=weighed[chosen].weight,
        reason=_reason(weighed, chosen, best, means[best]),
        weights=weighed,
        prompts=list(prompts),
    )


def _reason(weighed: Sequence[Weighed], chosen: int, best: int, most: float) -> str:
    if most <= 0:
        return (
            "At no weight do pictures of its own prompts show what it learnt; the largest effect "
            "is taken. Is it for another base?"
        )
    one, top = weighed[chosen], weighed[best]
    if chosen != best:
        text = (
            f"The earliest weight with as good as all of its effect: {one.effect / most:.0%} of "
            f"that at {top.weight:g}, and {one.drift:.0%} drift on unrelated prompts in place of "
            f"{top.drift:.0%}."
        )
    else:
        text = f"The largest effect of those tried, at {one.drift:.0%} drift on unrelated prompts."
        if best == len(weighed) - 1:
            text += " It still grows there: more may be better."
    return text
