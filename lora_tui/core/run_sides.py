"""What is known of some runs, asked of the daemon, to be held side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from lora_tui.core import run_table
from lora_tui.core.run_table import Side
from shared import wire
from shared.errors import Code, LoraError

R = TypeVar("R")
POINTS = 3000  # of each loss series
PIXELS = 384  # of a sample on the sheet

Fetch = Callable[[wire.Request[Any]], Awaitable[tuple[Any, list[bytes]]]]


class Ask(Protocol):
    """How the daemon is asked: a client's ``call``, or the app's."""

    async def __call__(self, request: wire.Request[R], /) -> R: ...


async def gathered(ask: Ask, runs: Iterable[wire.Run], *, norms: bool = False) -> list[Side]:
    """The runs as they are now; one that was deleted meanwhile is left out. ``norms``: ‖ΔW‖ of
    each LoRA too, which reads the files. Raises LoraError: UNREACHABLE and its like."""
    sides = []
    for run in runs:
        try:
            sides.append(await _side(ask, run.id, norms))
        except LoraError as error:
            if error.code is not Code.NOT_FOUND:
                raise
    return sides


async def _side(ask: Ask, run: str, norms: bool) -> Side:
    detail = await ask(wire.GetRun(run=run))
    series = await ask(wire.GetSeries(run=run, points=POINTS))
    which, norm = None, None
    try:
        which = (await ask(wire.GetWhich(run=run))).found
        if norms and detail.run.lora:
            card = (await ask(wire.GetLoraCard(lora=detail.run.lora, spectrum=True))).found
            norm = card.spectrum.energy**0.5 if card.spectrum is not None else None
    except LoraError as error:
        if error.code is Code.UNREACHABLE:
            raise
        # no base, no LoRA yet: the rest is shown
    return Side(
        run=detail.run, recipe=detail.recipe, points=series.points, samples=detail.samples,
        which=which, norm=norm,
    )  # fmt: skip


async def samples_of(fetch: Fetch, sides: Sequence[Side]) -> dict[str, bytes]:
    """The latest samples of each prompt, encoded, by their ids; what is gone is left out."""
    found: dict[str, bytes] = {}
    for _, across in run_table.pairs(sides):
        for one in across:
            if one is None:
                continue
            ask = wire.GetPicture(picture=one.id, width=PIXELS, height=PIXELS)
            try:
                _, blobs = await fetch(ask)
            except LoraError:
                continue
            if blobs:
                found[one.id] = blobs[0]
    return found
