"""What the rows on the disk say of a pair: losses with their scores, and remedies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bench.pairs.figures import Margins, Told, crossed, kept, obeyed, won_back
from bench.pairs.painting import Arms, Row
from bench.pairs.plan import JUDGED, LORAS, PLAIN, STRENGTHS, Group, Pair
from bench.pairs.product import Said
from bench.pairs.training import file_of
from shared.pictures import LoraUse

Weights = tuple[float, float]


class Asked(Protocol):
    """The product, or what it said before."""

    def known(self, group: Group, uses: Sequence[LoraUse], *, remedies: bool) -> Said | None: ...
    def zipped(self, uses: Sequence[LoraUse]) -> Path: ...


@dataclass(frozen=True)
class Directed:
    """What one LoRA of a pair loses beside the other at some weights, and what was foretold.

    ``score``: the product's; ``others``: what else could be asked, by name. NaN: not said.
    """

    pair: Pair
    weights: Weights
    of: int
    told: Told
    score: float
    others: dict[str, float]


@dataclass(frozen=True)
class Remedied:
    """A remedy for a pair at (1, 1) against plain weights. ``plain``: those chosen on
    one half of the seeds and scored on the other, for both. ``kept``: of each LoRA's effect alone,
    by the mix as asked, the plain weights and the remedy. ``won``: of what the weaker LoRA loses
    at the plain weights; NaN: nothing to speak of. ``obeys``: share of what was asked for, with
    plain weights and with the remedy; NaN: not painted yet."""

    pair: Pair
    kind: str
    recommended: bool
    plain: tuple[Weights, Weights]
    kept: tuple[list[float], list[float], list[float]]
    won: float
    obeys: tuple[float, float]
    pictures: int


def uses(work: Path, pair: Pair, weights: Weights) -> list[LoraUse]:
    """A pair at these weights: the content, the style."""
    return [
        LoraUse(lora=str(file_of(work, taught)), weight=float(weight))
        for taught, weight in zip(pair.both, weights, strict=True)
    ]


def score(said: Said, of: int) -> float:
    """What LoRA ``of`` is foretold to lose, frozen on the development pairs: how far it is
    recognised in company, on the pair's own prompts. NaN: alone it shows too little."""
    lost = said.asked.losses[of]
    return math.nan if lost is None else lost


def scores(said: Said, of: int) -> dict[str, float]:
    """What else could foretell it: the ratio of norms, which is the baseline, and others."""
    by = 1 - of
    found = {
        "norms": said.norms[by] / said.norms[of],
        "survival": 1 - said.asked.survival[of],
        "learnt": 1 - said.learnt.survival[of],
        "energies": math.sqrt(said.asked.energy[by] / said.asked.energy[of]),
        "overlap": math.nan,
        "touched": math.nan,
    }
    if said.files is not None:
        found["overlap"] = 1 - said.files.whole.keeps(of)
        found["touched"] = said.files.whole.touched[of][by]
    return found


class Reading:
    """One work folder; ``product``: who knows what was said."""

    def __init__(self, work: Path, arms: Arms, product: Asked) -> None:
        self._work, self._arms, self._product = work, arms, product

    def losses(self, pair: Pair) -> Iterator[Directed]:
        """At all weights at which there are pictures and a score."""
        for at, weights in enumerate(STRENGTHS):
            wanted = uses(self._work, pair, weights)
            if not all(Path(use.lora).exists() for use in wanted):
                return
            said = self._product.known(pair.group, wanted, remedies=at == 0)
            for of in (0, 1):
                alone = [[use] for use in wanted]
                arms = [[], alone[of], wanted, alone[1 - of]]
                margins = [
                    self._margins(pair, self._arms.rows(pair.group, arm), of) for arm in arms
                ]
                told = Told(*margins)
                if said is not None and len(told):
                    yield Directed(
                        pair, weights, of, told, score(said, of), scores(said, of)
                    )  # fmt: skip

    def remedies(self, pair: Pair) -> dict[str, list[LoraUse]]:
        """What is said to help at (1, 1), by kind: first what the product recommends, or the mix as
        it is; for development then its other remedies, and the columns of ZipLoRA."""
        wanted = uses(self._work, pair, STRENGTHS[0])
        if not all(Path(use.lora).exists() for use in wanted):
            return {}
        said = self._product.known(pair.group, wanted, remedies=True)
        if said is None:
            return {}
        found = {str(one.kind): one.loras for one in said.asked.remedies} or {"none": wanted}
        if pair.content in LORAS["test"]:
            return dict(list(found.items())[:1])
        if (zipped := self._product.zipped(wanted)).exists():
            found["columns"] = [LoraUse(lora=str(zipped))]
        return found

    def remedied(self, pair: Pair) -> list[Remedied]:
        """Each remedy of which there are pictures, what the product recommends first."""
        found = self.remedies(pair).items()
        told = (
            self._remedied(pair, kind, better, recommended=at == 0)
            for at, (kind, better) in enumerate(found)
        )
        return [one for one in told if one is not None]

    def _remedied(
        self, pair: Pair, kind: str, better: Sequence[LoraUse], *, recommended: bool
    ) -> Remedied | None:  # fmt: skip
        group, wanted = pair.group, uses(self._work, pair, STRENGTHS[0])
        plains = {
            weights: self._arms.rows(group, uses(self._work, pair, weights)) for weights in PLAIN
        }
        new = self._arms.rows(group, better)
        alone = [self._arms.rows(group, [use]) for use in wanted]
        base = self._arms.rows(group)
        count = min(map(len, [*plains.values(), new, *alone, base]))
        if count < 2:
            return None

        def keeps(arm: Sequence[Row], half: int) -> list[float]:
            three = (
                [
                    self._margins(pair, rows[:count], of)
                    for rows in (base, alone[of], arm, alone[1 - of])
                ]
                for of in (0, 1)
            )
            return [kept(Told(*margins), half) for margins in three]

        plain = crossed(list(PLAIN), lambda weights, half: _least(keeps(plains[weights], half)))
        arms = [(plains[STRENGTHS[0]], plains[one], new) for one in plain]
        found = [[keeps(arm, half) for arm in arms[half]] for half in (0, 1)]
        won = []
        for half, (_, fair, now) in enumerate(found):
            # Which is the weaker one, the half says that chose; with the remedy it may be another.
            weak = [int(np.argmin(keeps(arm, 1 - half))) for arm in arms[half][1:]]
            won.append(won_back(now[weak[1]], fair[weak[0]]))
        asked, fair, now = (
            [statistics.fmean(one[arm][of] for one in found) for of in (0, 1)] for arm in range(3)
        )
        known = [one for one in won if not math.isnan(one)]
        return Remedied(
            pair=pair, kind=kind, recommended=recommended, plain=plain, kept=(asked, fair, now),
            won=statistics.fmean(known) if known else math.nan,
            obeys=self._obeys(pair, plain, better), pictures=count,
        )  # fmt: skip

    def _obeys(
        self, pair: Pair, plain: Sequence[Weights], better: Sequence[LoraUse]
    ) -> tuple[float, float]:
        hits: list[list[dict[str, bool]]] = [[], []]
        for group in (pair.group, Group("", pair.style.shows)):
            arms = [self._arms.rows(group, uses(self._work, pair, weights)) for weights in plain]
            new = self._arms.rows(group, better)
            count = min(len(new), *map(len, arms))
            if not count:
                return math.nan, math.nan
            for old in arms:
                hits[0] += self._hits(pair, group, old[:count])
            hits[1] += self._hits(pair, group, new[:count])
        return obeyed(hits[0]), obeyed(hits[1])

    def _hits(self, pair: Pair, group: Group, rows: Sequence[Row]) -> list[dict[str, bool]]:
        """Whether each thing that was asked is there, as far as the judge can tell in the style."""
        found = []
        for row, (_, wanted) in zip(rows, group.asked(len(rows)), strict=True):
            known = dict(zip(("object", "colour", "background"), wanted, strict=True))
            found.append({name: row.seen[name] == known[name] for name in JUDGED[pair.style.shows]})
        return found

    def _margins(self, pair: Pair, rows: Sequence[Row], of: int) -> Margins:
        attribute = "style" if of else "object"
        return np.array([row.margin(attribute, pair.both[of].shows) for row in rows])


def _least(values: Sequence[float]) -> float:
    return min(value if not math.isnan(value) else -math.inf for value in values)
