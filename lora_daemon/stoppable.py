"""Long work in a thread that ends soon after nobody waits for it any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

from shared.errors import LoraError

T = TypeVar("T")
Told = Callable[[int, int, str], None]  # done, in all, what is being done


class Stopped(Exception):
    """What ``told`` raises in the thread to end its work."""


async def stoppable(work: Callable[[Told], T], tell: Told) -> T:
    """Run ``work(told)`` in a thread; ``told`` has ``tell`` called in this loop.

    Cancelled, it waits until the thread has heard of it at its next ``told``.
    """
    loop = asyncio.get_running_loop()
    stop = False

    def told(done: int, total: int, message: str) -> None:
        if stop:
            raise Stopped
        loop.call_soon_threadsafe(tell, done, total, message)

    running = asyncio.create_task(asyncio.to_thread(work, told))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop = True
        with contextlib.suppress(Stopped, LoraError):
            await running
        raise
