"""One attached client in the daemon: what waits to be sent to it, in order and within bounds."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from enum import Enum

from shared import wire
from shared.live import live_key, merge, sendable

MAX_QUEUED = 16 * 1024 * 1024  # bytes that wait for one client, besides the message being sent
LIVE_EVERY = 0.25  # seconds between two LiveUpdates to one client
RETRY_FIRST, RETRY_LAST = 0.001, 0.05  # seconds between attempts while a client's pipe is full


class Sent(Enum):
    """What became of a message handed to the socket."""

    YES = "yes"
    FULL = "full"  # the client does not read at the moment
    GONE = "gone"  # there is no such client any more


Send = Callable[[bytes, list[bytes]], Sent]


class Session:
    """A client that has said hello.

    ``put`` never blocks and never raises: what the client does not take at once waits here. More
    than MAX_QUEUED bytes waiting: all of it is dropped, and once the client reads again it gets a
    Resync and whatever ``refill`` puts, which is a fresh snapshot.
    """

    def __init__(
        self,
        identity: bytes,
        info: wire.ClientInfo,
        *,
        subscribed: bool,
        send: Send,
        refill: Callable[[Session], None],
        lost: Callable[[Session], None],
    ) -> None:
        self.identity = identity
        self.info = info
        self.subscribed = subscribed
        self.heard = time.monotonic()
        self.calls: dict[int, asyncio.Task[None]] = {}
        self.keys: dict[int, str] = {}  # of those calls that have an effect in flight
        self.stalled = False
        self.queued = 0  # bytes
        self._limit = MAX_QUEUED
        self._send, self._refill, self._lost = send, refill, lost
        self._queue: deque[list[bytes]] = deque()
        self._live: dict[tuple[str, str], wire.AnyLive] = {}
        self._live_sent = 0.0
        self._live_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._retry_delay = RETRY_FIRST
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def put(self, frames: list[bytes]) -> None:
        """Send a message after all that waits already."""
        if self._closed or self.stalled:
            return
        if not self._queue:
            sent = self._send(self.identity, frames)
            if sent is Sent.YES:
                return
            if sent is Sent.GONE:
                self._lost(self)
                return
        self._queue.append(frames)
        self.queued += sum(map(len, frames))
        if self.queued - sum(map(len, self._queue[0])) > self._limit:
            self._queue.clear()
            self.queued = 0
            self._live.clear()
            self.stalled = True
        self._retry()

    def snapshot(self, parts: list[list[bytes]]) -> None:
        """Send the whole state. It may be larger than what is allowed to wait else."""
        for frames in parts:
            self._limit += sum(map(len, frames))
            self.put(frames)

    def live(self, value: wire.AnyLive) -> None:
        """Send a live value soon; it replaces an unsent older one of the same thing."""
        if not self.subscribed or self.stalled or self._closed:
            return
        key = live_key(value)
        self._live[key] = merge(self._live.get(key), value)
        if self._live_timer is None:
            wait = max(0.0, self._live_sent + LIVE_EVERY - time.monotonic())
            self._live_timer = self._loop.call_later(wait, self._flush_live)

    def close(self) -> None:
        """Forget everything that waits, and stop all timers."""
        self._closed = True
        self._queue.clear()
        self._live.clear()
        for timer in (self._live_timer, self._retry_timer):
            if timer is not None:
                timer.cancel()
        self._live_timer = self._retry_timer = None

    def _flush_live(self) -> None:
        self._live_timer = None
        if self._closed or not self._live:
            return
        if self._queue:  # the client is behind: conflate on
            self._live_timer = self._loop.call_later(LIVE_EVERY, self._flush_live)
            return
        values = [sendable(value) for value in self._live.values()]
        self._live.clear()
        self._live_sent = time.monotonic()
        self.put(wire.pack(wire.LiveUpdate(values=values)))

    def _retry(self) -> None:
        if self._retry_timer is None:
            self._retry_timer = self._loop.call_later(self._retry_delay, self._pump)
            self._retry_delay = min(RETRY_LAST, self._retry_delay * 2)

    def _pump(self) -> None:
        """Hand on what waits until the client's pipe is full again."""
        self._retry_timer = None
        if self._closed:
            return
        if self.stalled:
            notice = wire.Resync(reason="You did not read for a while, so messages were dropped.")
            self._queue.append(wire.pack(notice))
        while self._queue:
            sent = self._send(self.identity, self._queue[0])
            if sent is Sent.GONE:
                self._lost(self)
                return
            if sent is Sent.FULL:
                if self.stalled:
                    self._queue.clear()
                self._retry()
                return
            self._retry_delay = RETRY_FIRST
            frames = self._queue.popleft()
            if self.stalled:
                self.stalled = False
                self.queued = 0
                self._refill(self)
                return
            self.queued -= sum(map(len, frames))
        self._limit = MAX_QUEUED
