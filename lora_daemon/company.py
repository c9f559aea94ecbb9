"""A mix on a base, and how far each of its LoRAs is recognised in pictures beside the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from lora_daemon.probe_plan import Row
from shared import company
from shared.pictures import PictureSpec

Seen = Callable[[PictureSpec, Row, list[Row]], Awaitable[list[float]]]
"""Paints a picture with LoRAs: the log error of each other setting on it."""


class Company:
    """``mix``: as asked, which recognises; ``specs``: the pictures that are painted of each
    setting."""

    def __init__(self, mix: Row, specs: Sequence[PictureSpec], seen: Seen) -> None:
        self._mix, self._specs, self._seen = mix, specs, seen
        self._base: dict[int, float] = {}
        self._alone: dict[int, float] = {}

    async def losses(self) -> list[float | None]:
        """What each LoRA is foretold to lose; to be asked before ``kept``. Raises LoraError."""
        self._base = await self._recognised({}, self._mix)
        mixed = await self._recognised(self._mix, self._mix)
        for one, use in self._mix.items():
            self._alone |= await self._recognised({one: use}, [one])
        return self._lost(mixed)

    async def kept(self, other: Row) -> list[float | None]:
        """What of each LoRA the pictures of another setting have. Raises LoraError."""
        lost = self._lost(await self._recognised(other, self._mix))
        return [None if one is None else 1 - one for one in lost]

    def _lost(self, seen: dict[int, float]) -> list[float | None]:
        return [company.loss(self._alone[one], seen[one], self._base[one]) for one in self._mix]

    async def _recognised(self, painted: Row, whose: Iterable[int]) -> dict[int, float]:
        """M of each LoRA in ``whose`` on what is painted, the mean over the pictures."""
        found = dict.fromkeys(whose, 0.0)
        rows = [
            self._mix,
            *({n: use for n, use in self._mix.items() if n != one} for one in found),
        ]
        for spec in self._specs:
            together, *without = await self._seen(spec, painted, rows)
            for one, apart in zip(found, without, strict=True):
                found[one] += (apart - together) / len(self._specs)
        return found
