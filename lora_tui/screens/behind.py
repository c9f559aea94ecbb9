"""One request that goes on behind the screens, of a kind that can be asked about and given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from lora_tui.screens.base import Place
from shared.errors import LoraError
from shared.wire import Request

A = TypeVar("A")


def begin(
    place: Place, group: str, ask: Request[A], summed: Callable[[A], str], cancelled: str,
    seconds: float,
) -> None:  # fmt: skip
    """Send ``ask``; what comes of it is said for ``seconds``, whatever screen is open then."""
    lora = place.lora

    async def work() -> None:
        try:
            done = await lora.ask(ask)
        except LoraError as error:
            lora.notify(error.message, severity="error", timeout=12)
        except asyncio.CancelledError:
            lora.notify(cancelled)
            raise
        else:
            lora.notify(summed(done), timeout=seconds)

    lora.run_worker(work(), group=group)


def running(place: Place, group: str) -> bool:
    """Whether what was begun in ``group`` is under way."""
    return any(work.group == group and work.is_running for work in place.app.workers)


def cancel(place: Place, group: str) -> None:
    """Give it up, in the daemon too."""
    place.app.workers.cancel_group(place.app, group)
