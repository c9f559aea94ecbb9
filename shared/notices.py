"""What a client tells its user interface, in order and within bounds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from shared import wire

MAX_WAITING = 5_000  # notices; a reader further behind starts anew from the present state


@dataclass(frozen=True)
class Connected:
    """The daemon answers (again)."""

    welcome: wire.Welcome


@dataclass(frozen=True)
class Disconnected:
    """The daemon is lost, or left (``left``); the client goes on trying. ``reason``: a phrase."""

    reason: str
    left: bool = False


@dataclass(frozen=True)
class StateReplaced:
    """Start anew from ``state``: a snapshot came, or the reader of the notices was too slow.

    Events in between are unknown, so whatever is shown of captions is to be asked for again.
    """

    state: wire.State
    seq: int


Notice = Connected | Disconnected | StateReplaced | wire.Journalled | wire.LiveUpdate


class Notices(AsyncIterator[Notice]):
    """One reader's queue of notices; ends when the client is closed."""

    def __init__(self) -> None:
        self._waiting: deque[Notice] = deque()
        self._some = asyncio.Event()
        self._closed = False

    def put(self, notice: Notice, present: StateReplaced) -> None:
        """Add ``notice``; if too many wait, ``present`` stands for all of them."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.clear()
            notice = present
        self._waiting.append(notice)
        self._some.set()

    def close(self) -> None:
        """Let the reader end after what waits."""
        self._closed = True
        self._some.set()

    async def __anext__(self) -> Notice:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._some.clear()
            await self._some.wait()
        return self._waiting.popleft()
