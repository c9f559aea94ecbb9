"""One request that goes on behind the screens, of a kind that can be asked about and given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from lora_tui.screens.base import Place
from lora_tui.screens.dialogs import Confirm
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


def offer_to_give_up(place: Place, group: str, title: str, text: str) -> bool:
    """Ask whether to give up what is under way in ``group``; whether anything is."""
    if not running(place, group):
        return False
    place.app.push_screen(Confirm(title, text), lambda yes: cancel(place, group) if yes else None)
    return True


def cancel(place: Place, group: str) -> None:
    """Give it up, in the daemon too."""
    place.app.workers.cancel_group(place.app, group)
