"""The order of the work: what is trained, asked and painted next."""

from __future__ import annotations

import lora_daemon.engine  # noqa: F401  first: it settles how OpenMP's threads wait

# isort: split
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from bench.pairs.painting import Arms, Painter
from bench.pairs.plan import PLAIN, STRENGTHS, Group, Pair, Part, Taught, pairs
from bench.pairs.product import Product
from bench.pairs.reading import Reading, uses
from bench.pairs.training import train
from lora_daemon.engine import device
from lora_daemon.engine.bases import best_device, load
from lora_daemon.starter import base_dir
from shared.pictures import LoraUse

Arm = tuple[Group, Sequence[LoraUse]]


class Campaign:
    """One work folder. ``say``: hears what is being done. ``share``: (k, n): the kth of n processes
    does every nth group of prompts, for pairs of the same group share the pictures of the base."""

    def __init__(
        self, work: Path, say: Callable[[str], None], share: tuple[int, int] = (0, 1)
    ) -> None:
        device.use_threads()
        device.settle()
        self._work, self._say, self._share = work, say, share
        base = load(base_dir(), best_device(), "fp32")
        self._painter = Painter(base, Arms(work))
        self._product = Product(work, self._painter)

    def go(self, part: Part, number: int, *, ask: bool = True) -> None:
        """Whatever is missing of a part, up to so many pictures an arm: pair by pair, so that the
        first has its losses while LoRAs of the last are not trained yet. ``ask``: what the product
        says of them and recommends."""
        groups = list(dict.fromkeys(pair.group for pair in pairs(part)))
        mine, of = self._share
        every = [pair for pair in pairs(part) if groups.index(pair.group) % of == mine]
        for at, strength in enumerate(STRENGTHS):
            for pair in every:
                for taught in pair.both:
                    self._train(taught)
                self._paint(f"{part}, {pair.name} at {strength}", number, self._arms(pair, at))
                if ask:
                    self._ask(pair, strength, remedies=at == 0)
            if ask and at == 0:
                self._remedies(part, every, number)

    def _train(self, taught: Taught) -> None:
        began = time.monotonic()
        train(self._work, taught)
        if time.monotonic() - began > 1:
            self._say(f"{taught.name}: trained, {time.monotonic() - began:.0f} s")

    def _arms(self, pair: Pair, at: int) -> Iterator[Arm]:
        content, style = uses(self._work, pair, STRENGTHS[at])
        for arm in ([], [content], [style], [content, style]):
            yield pair.group, arm

    def _ask(self, pair: Pair, strength: tuple[float, float], *, remedies: bool) -> None:
        wanted = uses(self._work, pair, strength)
        if self._product.known(pair.group, wanted, remedies=remedies) is None:
            said = self._product.ask(pair.group, wanted, remedies=remedies)
            self._say(f"{pair.name} at {strength}: {said.asked.sentence}")

    def _remedies(self, part: Part, every: Sequence[Pair], number: int) -> None:
        """Plain weights, what the product recommends, and how both obey where the base's own
        objects are asked for."""
        reading = Reading(self._work, self._painter.arms, self._product)
        for pair in every:
            if part == "development":
                self._product.zip(uses(self._work, pair, STRENGTHS[0]))
            better = reading.remedies(pair).values()
            arms: list[Arm] = [(pair.group, uses(self._work, pair, one)) for one in PLAIN]
            arms += ((pair.group, one) for one in better)
            self._paint(f"{part}, remedies of {pair.name}", number, arms)
            others = Group("", pair.style.shows)
            plain = {one for found in reading.remedied(pair) for one in found.plain}
            arms = [(others, uses(self._work, pair, one)) for one in sorted(plain)]
            arms += ((others, one) for one in better)
            self._paint(f"{part}, obedience of {pair.name}", number // 2, arms)

    def _paint(self, title: str, number: int, arms: Iterable[Arm]) -> None:
        began = time.monotonic()
        painted = sum(self._painter.upto(number, group, loras) for group, loras in arms)
        if painted:
            rate = painted / (time.monotonic() - began)
            self._say(f"{title}: {painted} painted, up to {number} an arm, {rate:.2f}/s")
