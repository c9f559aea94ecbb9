"""Requests meet their handlers: one effect per key, errors in words, tracebacks in the log only."""

from __future__ import annotations

import asyncio
import errno
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lora_daemon.service import Context, Handlers
from lora_daemon.store import Store
from shared import wire
from shared.errors import Code, LoraError

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@dataclass(frozen=True)
class Reply:
    """A handler's answer, encoded."""

    result: bytes  # msgpack
    blobs: list[bytes] = field(default_factory=list)


@dataclass
class _Effect:
    """A changing request in flight; retries with its key listen to the same task."""

    task: asyncio.Task[Reply]
    listeners: list[Progress]


class Calls:
    """Runs requests. A request that changes something outlives the client that asked."""

    def __init__(self, store: Store, handlers: Handlers) -> None:
        self._store = store
        self._handlers = handlers
        self._effects: dict[str, _Effect] = {}

    @staticmethod
    def effect_key(request: wire.AnyRequest, key: str) -> str:
        """What the effect of ``request`` is remembered by; empty if it has none."""
        if not request.changes:
            return ""
        return f"{request.__struct_config__.tag}:{key or uuid.uuid4().hex}"

    async def run(
        self, request: wire.AnyRequest, *, by: str, key: str, durable: bool, progress: Progress,
        session: str = "",
    ) -> Reply:  # fmt: skip
        """Answer ``request``. ``key`` is its ``effect_key``; ``durable``: remember it by that.

        Raises LoraError; anything else was a fault of ours and has become Code.INTERNAL.
        """
        if not key:
            context = Context(by=by, key="", progress=progress, session=session)
            return await self._handle(request, context)
        effect = self._effects.get(key)
        if effect is None:
            known = self._store.remembered(key) if durable else None
            if known is not None:
                return Reply(known)
            listeners: list[Progress] = []

            def tell(done: int, total: int, message: str) -> None:
                for listener in listeners:
                    listener(done, total, message)

            context = Context(by=by, key=key if durable else "", progress=tell)
            effect = _Effect(asyncio.create_task(self._handle(request, context)), listeners)
            self._effects[key] = effect
            effect.task.add_done_callback(lambda task: self._settled(key, task))
        effect.listeners.append(progress)
        try:
            return await asyncio.shield(effect.task)
        except asyncio.CancelledError:
            if effect.task.cancelled():
                raise LoraError(Code.CANCELLED, "Cancelled.") from None
            raise  # only this client stopped waiting; the effect goes on
        finally:
            effect.listeners.remove(progress)

    def cancel(self, key: str) -> None:
        """Give up the effect in flight under this ``effect_key``."""
        if key in self._effects:
            self._effects[key].task.cancel()

    async def close(self) -> None:
        """Cancel all effects in flight and wait for their clean-up."""
        tasks = [effect.task for effect in self._effects.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _settled(self, key: str, task: asyncio.Task[Reply]) -> None:
        del self._effects[key]
        if not task.cancelled():
            task.exception()  # retrieved here too: nobody may be waiting any more

    async def _handle(self, request: wire.AnyRequest, context: Context) -> Reply:
        try:
            if request.changes:
                await self._store.quiet()
            answer: Any = await self._handlers[type(request)](context, request)
            self._remember(context, answer)
            return Reply(wire.encoder.encode(answer), context.blobs)
        except LoraError:
            raise
        except OSError as error:
            if error.errno not in _DISK:
                raise _internal(request) from None
            raise LoraError.storage("use", error.filename or "the disk", error) from None
        except Exception:
            raise _internal(request) from None

    def _remember(self, context: Context, answer: Any) -> None:
        """Remember the answer of a handler that did not do so in the change itself."""
        if not context.key:
            return
        try:
            if self._store.remembered(context.key) is None:
                with self._store.change(context.by) as change:
                    self._store.remember(change, context.key, answer)
        except LoraError as error:  # what was asked for is done; say so
            log.warning("the answer to %s is not remembered: %s", context.key, error)


def _internal(request: wire.AnyRequest) -> LoraError:
    """Log the present exception with a reference, and the error that names only that."""
    reference = uuid.uuid4().hex[:8]
    name = type(request).__name__
    log.exception("%s failed unexpectedly [reference %s]", name, reference)
    return LoraError(
        Code.INTERNAL,
        f"The daemon met an error of its own in {name}. Its log tells more under the reference "
        f"{reference} (lora-tui daemon logs).",
        data={"reference": reference},
    )


def raw(reply: Reply) -> msgspec.Raw:
    """The reply's result as the Answer carries it."""
    return msgspec.Raw(reply.result)
