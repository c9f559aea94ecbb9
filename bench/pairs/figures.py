"""The campaign's arithmetic: what a LoRA loses, how sure that is, and whether a score foretells it.

Margins are the judge's logit of what is asked, less the largest of the others, one a picture. The
pictures of a prompt and seed are paired over all arms, and are drawn again together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lora_daemon.starter.evaluate import spearman

Margins = NDArray[np.float64]  # (pictures,)
Key = TypeVar("Key")

LEAST = 1.0  # logits that a LoRA alone has to be ahead of the base: less, and it shows nothing
DRAWS = 1000


@dataclass(frozen=True)
class Told:
    """The margins of one LoRA of a pair, of the same prompts and seeds, (pictures,) each."""

    base: Margins
    solo: Margins
    mix: Margins

    def __len__(self) -> int:
        return min(len(self.base), len(self.solo), len(self.mix))

    def of(self, rows: NDArray[np.int64]) -> float:
        """L = (solo − mix) / (solo − base), means over these rows; NaN where alone it shows
        nothing."""
        base, solo, mix = (float(one[rows].mean()) for one in (self.base, self.solo, self.mix))
        return (solo - mix) / (solo - base) if solo - base >= LEAST else math.nan

    @property
    def loss(self) -> float:
        return self.of(np.arange(len(self)))

    def halves(self) -> tuple[float, float]:
        """L of the even and of the odd pictures."""
        return self.of(np.arange(0, len(self), 2)), self.of(np.arange(1, len(self), 2))

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """95 % of L, pictures drawn again."""
        draw = np.random.default_rng(seed)
        count = len(self)
        return _middle([self.of(draw.integers(count, size=count)) for _ in range(DRAWS)])


def interval_of(
    found: Sequence[tuple[Told, float]], seed: int = 0
) -> tuple[float, float]:  # fmt: skip
    """95 % of Spearman's ρ between L and a score: directed values come two a pair, and pairs are
    drawn again, and in each its pictures. ``found``: both of a pair side by side."""
    draw = np.random.default_rng(seed)
    values = []
    for _ in range(DRAWS):
        losses, scores = [], []
        for pair in draw.integers(len(found) // 2, size=len(found) // 2):
            for told, score in found[2 * pair : 2 * pair + 2]:
                losses.append(told.of(draw.integers(len(told), size=len(told))))
                scores.append(score)
        values.append(spearman(losses, scores))
    return _middle(values)


def reliability(found: Sequence[Told]) -> float:
    """Split-half: Spearman's ρ of L on even and on odd pictures over the directed values, stepped
    up to all pictures (Spearman and Brown, 1910)."""
    halves = [one.halves() for one in found]
    rho = spearman([one for one, _ in halves], [other for _, other in halves])
    return 2 * rho / (1 + rho) if rho > -1 else math.nan


def _middle(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def crossed(
    choices: Sequence[Key], utility: Callable[[Key, int], float]
) -> tuple[Key, Key]:  # fmt: skip
    """What is best on the one half of the seeds, to be scored on the other: (for half 0, for half
    1). ``utility``: of a choice on a half. Among equals the first."""
    on = [max(choices, key=lambda one: utility(one, half)) for half in (0, 1)]
    return on[1], on[0]


def kept(told: Told, half: int) -> float:
    """What of a LoRA's effect alone is left, on a half of the seeds: 1 − L."""
    return 1 - told.of(np.arange(half, len(told), 2))


def won_back(remedy: float, plain: float) -> float:
    """Of what plain weights lose of the weaker LoRA, the share that a remedy has again; both as
    ``kept`` has it. NaN where nothing to speak of was lost."""
    return (remedy - plain) / (1 - plain) if plain < 1 - LOST else math.nan


LOST = 0.1  # of a LoRA's effect: less is not to be won back


def obeyed(rows: Sequence[Mapping[str, bool]]) -> float:
    """The share of what was asked for that the judge found, over all pictures and attributes."""
    every = [hit for row in rows for hit in row.values()]
    return sum(every) / len(every) if every else math.nan
