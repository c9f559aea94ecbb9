"""What the app needs of a connection, and the loop that follows one and takes it up again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from textual.message import Message

from shared import wire
from shared.errors import Code, LoraError
from shared.notices import Notice

R = TypeVar("R")
Progress = Callable[[int, int, str], None]  # done, total, message


class Connection(Protocol):
    """The part of ``shared.client.Client`` that screens use."""

    state: wire.State
    welcome: wire.Welcome | None
    connected: bool

    async def call(
        self,
        request: wire.Request[R],
        *,
        key: str = "",
        on_progress: Progress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> R: ...

    async def fetch(self, request: wire.Request[R]) -> tuple[R, list[bytes]]: ...

    def notices(self) -> AsyncIterator[Notice]: ...

    async def close(self) -> None: ...


Connect = Callable[[], Awaitable[Connection]]


class LinkMade(Message):
    """There is a connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection


class LinkLost(Message):
    """There is none; ``reason`` is for the person. The loop goes on trying."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class Noticed(Message):
    """The daemon told something."""

    def __init__(self, notice: Notice) -> None:
        super().__init__()
        self.notice = notice


async def follow(connect: Connect, post: Callable[[Message], object]) -> None:
    """Connect, post every notice, and connect again for as long as the app lives."""
    wait = 0.25
    while True:
        try:
            connection = await connect()
        except LoraError as error:
            post(LinkLost(error.message))
            if error.code is Code.INCOMPATIBLE:
                wait = 5.0
        else:
            wait = 0.25
            post(LinkMade(connection))
            try:
                async for notice in connection.notices():
                    post(Noticed(notice))
            except LoraError as error:
                post(LinkLost(error.message))
            await connection.close()  # at the app's end it is the app that closes it
        await asyncio.sleep(wait)
        wait = min(wait * 1.6, 3.0)
