"""One socket to a daemon, from hello until it is lost; the client makes a new one after that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import zmq

from shared import wire
from shared.errors import LoraError
from shared.frames import Frames

log = logging.getLogger(__name__)

BEAT = 1.0  # seconds between two looks at the silence
GRACE = 200  # milliseconds for a goodbye to leave

Receive = Callable[[wire.DaemonMessage, list[bytes]], None]


class Link:
    """A DEALER socket read for good, with a heartbeat, and an eye on its connection.

    ``receive`` is called with every message, in order. ``lost`` is done, with the reason, once
    the daemon is silent or gone; the link is then good for nothing but ``close``.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, receive: Receive
    ) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._receive = receive
        self._silent = self._unsent = 0.0  # seconds since something came, went
        self._socket = context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.setsockopt(zmq.MAXMSGSIZE, max(wire.MAX_BLOB, wire.MAX_HEADER))
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(endpoint)
        self._frames = Frames(self._socket, self._read)
        # only the end of the connection is reported
        self._watch = Frames(self._monitor, lambda _: self.lose("the connection ended"))
        self._heart = asyncio.create_task(self._beat())

    def send(self, frames: list[bytes]) -> None:
        """Hand a message to ZeroMQ. Never waits: a pipe that is full means a lost daemon."""
        if self.lost.done():
            return
        self._unsent = 0.0
        try:
            self._frames.send(frames)
        except zmq.ZMQError as error:
            self.lose(f"the daemon takes no messages ({error.strerror})")

    def lose(self, reason: str) -> None:
        """Give the daemon up for lost."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self, last: wire.Bye | None = None) -> None:
        """Stop all tasks and close the socket, after a goodbye if there is one to say."""
        if last is not None:
            self.send(wire.pack(last))
        self.lose("closed")
        self._heart.cancel()
        await asyncio.gather(self._heart, return_exceptions=True)
        self._frames.close()
        self._watch.close()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=GRACE if last is not None else 0)

    def _read(self, frames: list[bytes]) -> None:
        self._silent = 0.0
        try:
            message, blobs = wire.unpack_daemon(frames)
        except LoraError as error:
            self.lose(error.message)
            return
        try:
            self._receive(message, blobs)
        except Exception:
            log.exception("a message of the daemon could not be handled")

    async def _beat(self) -> None:
        while not self.lost.done():
            await asyncio.sleep(BEAT)
            # Counted in beats, not by the clock: after a suspended laptop or a busy second the
            # messages that wait are read before anybody is called silent.
            self._silent += BEAT
            self._unsent += BEAT
            if self._silent >= wire.LIVENESS:
                self.lose(f"the daemon is silent for {wire.LIVENESS:.0f} s")
            elif self._unsent >= wire.PING_EVERY or self._silent >= wire.PING_EVERY:
                self.send(wire.pack(wire.Ping()))
