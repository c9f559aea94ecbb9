"""A ZeroMQ socket on the event loop: every message to one callback, sending that never waits.

pyzmq's own asyncio sockets make several futures a message; on a round trip of half a millisecond
that is a third of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

BATCH = 64  # messages taken at once before the loop's other work has its turn


class Frames:
    """Reads a socket for good. ``receive`` gets the frames of each message, in order.

    ZeroMQ's file descriptor tells of a change, not of a state: after each reading and each
    sending one has to look again, or a message waits until the next one comes.
    """

    def __init__(self, socket: zmq.Socket[bytes], receive: Callable[[list[bytes]], None]) -> None:
        self._socket = socket
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._closed = False
        self._loop.add_reader(socket.fileno(), self._read)
        self._look_again()

    def send(self, frames: list[bytes]) -> None:
        """Hand a message to ZeroMQ. Raises zmq.Again when its pipe is full, zmq.ZMQError when
        there is nobody to send it to."""
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        finally:
            if self._again is None and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                self._look_again()

    def close(self) -> None:
        """Read no more. The socket stays open."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket.fileno())
            if self._again is not None:
                self._again.cancel()

    def _look_again(self) -> None:
        self._again = self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._again = None
        for _ in range(BATCH):
            if self._closed:
                return
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._receive(frames)
        if not self._closed:
            self._look_again()
