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

Margins = NDArray[np.float64]  # (pictures,)
Key = TypeVar("Key")

LEAST = 1.0  # logits that a LoRA alone has to be ahead of the base: less, and it shows nothing
DRAWS = 1000


@dataclass(frozen=True)
class Told:
    """The margins of one LoRA of a pair, of the same prompts and seeds, (pictures,) each.
    ``other``: where the other one is alone."""

    base: Margins
    solo: Margins
    mix: Margins
    other: Margins

    def __len__(self) -> int:
        return min(len(self.base), len(self.solo), len(self.mix), len(self.other))

    def of(self, rows: NDArray[np.int64]) -> float:
        """L = (solo − mix) / (solo − base), means over these rows; NaN where alone it shows
        nothing."""
        base, solo, mix = (float(one[rows].mean()) for one in (self.base, self.solo, self.mix))
        return (solo - mix) / (solo - base) if solo - base >= LEAST else math.nan

    @property
    def loss(self) -> float:
        return self.of(np.arange(len(self)))

    @property
    def apart(self) -> float:
        """L without what the other one does to these margins by itself: a pencil drawing is of
        clearer outlines than the picture that the base makes of "a pencil drawing"."""
        rows = slice(len(self))
        brought = self.other[rows] - self.base[rows]
        return Told(self.base, self.solo, self.mix[rows] - brought, self.other).loss

    def halves(self) -> tuple[float, float]:
        """L of the even and of the odd pictures."""
        return self.of(np.arange(0, len(self), 2)), self.of(np.arange(1, len(self), 2))

    def drawn(self, seed: int) -> Margins:
        """L of pictures drawn again, (``DRAWS``,)."""
        rows = np.random.default_rng(seed).integers(len(self), size=(DRAWS, len(self)))
        base, solo, mix = (one[rows].mean(axis=1) for one in (self.base, self.solo, self.mix))
        shown = solo - base
        return np.where(shown >= LEAST, (solo - mix) / np.maximum(shown, LEAST), math.nan)

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """95 % of L."""
        return _middle(self.drawn(seed))


def interval_of(found: Sequence[tuple[Told, float]], seed: int = 0) -> tuple[float, float]:
    """95 % of Spearman's ρ between L and a score: directed values come two a pair, and pairs are
    drawn again, and in each its pictures. ``found``: both of a pair side by side."""
    draw = np.random.default_rng(seed)
    losses = np.stack([told.drawn(seed + at) for at, (told, _) in enumerate(found)])
    scores = np.array([score for _, score in found])
    values = []
    for _ in range(DRAWS):
        first = 2 * draw.integers(len(found) // 2, size=len(found) // 2)
        rows = np.stack([first, first + 1]).flatten()
        values.append(spearman(losses[rows, draw.integers(DRAWS, size=len(rows))], scores[rows]))
    return _middle(np.array(values))


def spearman(first: Sequence[float] | Margins, second: Sequence[float] | Margins) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks. NaN for fewer than
    two, or where all are equal."""
    if len(first) < 2:
        return math.nan
    ranks = np.stack([_ranks(first), _ranks(second)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    spread = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / spread if spread else math.nan


def _ranks(values: Sequence[float] | Margins) -> Margins:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: Margins = np.cumsum(counts) - (counts - 1) / 2
    return means[which]


def reliability(found: Sequence[Told]) -> float:
    """Split-half: Spearman's ρ of L on even and on odd pictures over the directed values, stepped
    up to all pictures (Spearman and Brown, 1910)."""
    halves = [one.halves() for one in found]
    rho = spearman([one for one, _ in halves], [other for _, other in halves])
    return 2 * rho / (1 + rho) if rho > -1 else math.nan


def _middle(values: Margins) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
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
    """Of what plain weights lose of the weaker LoRA, the share that the weaker one has again with a
    remedy; both as ``kept`` has it. NaN where nothing to speak of was lost."""
    return (remedy - plain) / (1 - plain) if plain < 1 - LOST else math.nan


LOST = 0.1  # of a LoRA's effect: less is not to be won back


def obeyed(rows: Sequence[Mapping[str, bool]]) -> float:
    """The share of what was asked for that the judge found, over all pictures and attributes."""
    every = [hit for row in rows for hit in row.values()]
    return sum(every) / len(every) if every else math.nan
