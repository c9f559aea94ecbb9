"""How requests meet their code: a registry of handlers, and what each handler is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from lora_daemon.store import Store
from shared import wire
from shared.paths import Workspace

R = TypeVar("R")


class Hub(Protocol):
    """Where live values go: to every attached client, conflated (server.py)."""

    def publish(self, value: wire.AnyLive) -> None: ...


@dataclass(frozen=True)
class Daemon:
    """What the parts of the daemon share."""

    workspace: Workspace
    store: Store
    hub: Hub


@dataclass
class Context:
    """One request in flight."""

    by: str  # the client's name, for journals and captions
    key: str  # the client's retry key, to be given to ``store.change``/``remember``
    progress: Callable[[int, int, str], None]
    session: str = ""  # the client's, where the request is one that changes nothing
    blobs: list[bytes] = field(default_factory=list)  # attachments of the answer


Handler = Callable[[Context, Any], Awaitable[Any]]


class Handlers:
    """The handler of each request type. Exactly one each; the server refuses to start otherwise.

    A handler raises LoraError for the user; it is cancelled (asyncio) when the client cancels.
    """

    def __init__(self) -> None:
        self._by_type: dict[type, Handler] = {}

    def add(
        self,
        request: type[wire.Request[R]],
        handler: Callable[[Context, Any], Awaitable[R]],
    ) -> None:
        if request in self._by_type:
            raise ValueError(f"{request.__name__} has a handler already")
        self._by_type[request] = handler

    def __getitem__(self, request: type) -> Handler:
        return self._by_type[request]

    def missing(self) -> set[type]:
        """Request types of the wire that nobody handles."""
        from typing import get_args

        return set(get_args(wire.AnyRequest)) - set(self._by_type)
