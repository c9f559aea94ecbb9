"""The async client: one connection to a daemon, typed calls, a state that follows the journal."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import zmq

from shared import __version__, launch, paths, settings, wire
from shared.errors import Code, LoraError
from shared.link import Link
from shared.live import live_key
from shared.notices import Connected, Disconnected, Notice, Notices, StateReplaced
from shared.state import apply, joined

__all__ = ["Client", "Connected", "Disconnected", "Notice", "Notices", "StateReplaced"]

R = TypeVar("R")
Progress = Callable[[int, int, str], None]

WELCOME_WITHIN = 5.0  # seconds, then hello is said on a new socket
RETRY_FIRST, RETRY_LAST = 0.05, 2.0  # seconds between attempts to reach the daemon again
PATIENCE = 30.0  # seconds without a daemon after which calls fail
MAX_STARTS = 3  # of a daemon that dies again and again, before we leave it alone
SETTLED = 60.0  # seconds of a connection after which that count begins anew
MAX_OPEN = 100  # calls in flight; more wait here, where they fill nobody's queue


@dataclass
class _Call:
    frames: list[bytes]
    future: asyncio.Future[tuple[msgspec.Raw, list[bytes]]]
    on_progress: Progress | None


class Client:
    """A connection to the daemon that mends itself.

    With ``subscribe``, ``state`` is the daemon's at event ``seq``, ``live`` its latest live values
    by (kind, id), and ``notices()`` tells of every change in order. After a lost connection the
    client resumes from ``seq``, and sends unanswered calls again: a key makes that safe.
    """

    def __init__(self, endpoint: str, home: Path | None, hello: wire.Hello, start: bool) -> None:
        """Use ``connect`` instead."""
        self.endpoint = endpoint
        self.state = wire.State()
        self.seq = 0
        self.live: dict[tuple[str, str], wire.AnyLive] = {}
        self.welcome: wire.Welcome | None = None
        self.connected = False
        self._home = home  # None: an endpoint of the user's choice, never started by us
        self._hello = hello
        self._start = start
        self._starts = 0
        self._in_step = False  # state is the daemon's at seq
        self._part: wire.State | None = None  # of a snapshot that is not complete
        self._context = zmq.Context()
        self._link: Link | None = None
        self._welcomed: asyncio.Future[None] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count(1)
        self._room = asyncio.Semaphore(MAX_OPEN)
        self._readers: weakref.WeakSet[Notices] = weakref.WeakSet()  # those somebody reads
        self._given_up: LoraError | None = None  # why calls fail at once
        self._failure: LoraError | None = None  # of the last attempt to connect
        self._patience: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        endpoint: str = "",
        *,
        home: Path | None = None,
        name: str = "",
        terminal: str = "",
        subscribe: bool = False,
        start: bool = True,
        timeout: float = 30,  # noqa: ASYNC109
    ) -> Client:
        """Connect, and start the workspace's daemon if there is none (``start``).

        ``endpoint`` empty: LORA_TUI_ENDPOINT, else the socket of ``home`` (else LORA_TUI_HOME).
        Returns once the daemon has answered and, with ``subscribe``, the state is there.
        Raises LoraError: UNREACHABLE, INCOMPATIBLE, STORAGE.
        """
        if not endpoint and home is None:
            endpoint = os.environ.get("LORA_TUI_ENDPOINT", "")
        workspace = None if endpoint else (home or paths.home()).absolute()
        hello = wire.Hello(
            protocol=wire.PROTOCOL,
            client=name or settings.client_name(),
            host=settings.origin() or settings.host(),
            terminal=terminal or settings.terminal(),
            version=__version__,
            subscribe=subscribe,
        )
        address = endpoint or paths.endpoint(cast(Path, workspace))
        client = cls(address, workspace, hello, start and workspace is not None)
        try:
            async with asyncio.timeout(timeout):
                await client._establish(first=True)
                client._keeper = asyncio.create_task(client._keep())
                await client._ready
        except TimeoutError:
            await client.close()
            raise client._failure or client._unreachable("it does not answer") from None
        except BaseException:
            await client.close()
            raise
        return client

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Say goodbye. Calls that are still open fail; what they change goes on."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._patience is not None:
            self._patience.cancel()
        if self._link is not None:
            await self._link.close(wire.Bye() if self.connected else None)
            self._link = None
        self.connected = False
        self._give_up(LoraError(Code.UNREACHABLE, "This client is closed."))
        for reader in self._readers:
            reader.close()
        self._context.destroy(linger=0)

    def notices(self) -> Notices:
        """An async iterator over what happens from now on; it begins with the present state."""
        reader = Notices()
        present = StateReplaced(self.state, self.seq)
        reader.put(present, present)
        self._readers.add(reader)
        return reader

    async def call(
        self,
        request: wire.Request[R],
        *,
        key: str = "",
        on_progress: Progress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> R:
        """The answer to ``request``. Raises LoraError.

        ``key`` names the effect of a changing request: the same key has it once, however often it
        is asked for. Cancelling this call cancels the request. ``timeout`` in seconds.
        """
        return (await self.fetch(request, key=key, on_progress=on_progress, timeout=timeout))[0]

    async def fetch(
        self,
        request: wire.Request[R],
        *,
        key: str = "",
        on_progress: Progress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> tuple[R, list[bytes]]:
        """``call``, with the answer's attachments (pictures)."""
        number = next(self._numbers)
        if request.changes and not key:
            key = uuid.uuid4().hex
        asked = cast(wire.AnyRequest, request)
        frames = wire.pack(wire.Call(id=number, request=asked, key=key))
        try:
            async with asyncio.timeout(timeout), self._room:
                raw, blobs = await self._answer(number, frames, on_progress)
        except TimeoutError:
            text = f"The daemon gave no answer within {timeout:g} s."
            raise LoraError(Code.UNREACHABLE, text, retryable=True) from None
        return _decoder(type(request)).decode(raw), blobs

    async def _answer(
        self, number: int, frames: list[bytes], on_progress: Progress | None
    ) -> tuple[msgspec.Raw, list[bytes]]:
        if self._given_up is not None:
            raise self._given_up
        call = _Call(frames, asyncio.get_running_loop().create_future(), on_progress)
        self._calls[number] = call
        self._send(frames)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._send(wire.pack(wire.CancelCall(id=number)))
            raise
        finally:
            del self._calls[number]

    # ── the connection ──────────────────────────────────────────────────────────────────────────

    async def _keep(self) -> None:
        """Hold the connection: after each loss, until closed or refused for good."""
        while True:
            link = cast(Link, self._link)
            loop = asyncio.get_running_loop()
            began = loop.time()
            reason = await link.lost
            if loop.time() - began > SETTLED:
                self._starts = 0
            self.connected = False
            await link.close()
            self._link = None
            left = self._given_up is not None
            if not left:
                unreachable = self._unreachable(reason)
                self._patience = loop.call_later(PATIENCE, self._give_up, unreachable)
            self._tell(Disconnected(reason, left=left))
            try:
                await self._establish(first=False)
            except LoraError as error:
                self._give_up(error)
                if not self._ready.done():
                    self._ready.set_exception(error)
                return

    async def _establish(self, *, first: bool) -> None:
        """Reach the daemon and be welcomed.

        Raises LoraError when there is no use in trying on: INCOMPATIBLE, and when ``first`` also
        a daemon that cannot start, or that is absent and not ours to start.
        """
        delay = RETRY_FIRST
        while True:
            try:
                await self._approach(first)
                await self._greet()
                return
            except LoraError as error:
                self._failure = error
                gone = error.code is Code.UNREACHABLE and error.retryable
                if error.code is Code.INCOMPATIBLE or (first and not (gone and self._start)):
                    raise
                if self._patience is not None and not gone:
                    self._give_up(error)  # the daemon cannot start: the user must act
            await asyncio.sleep(delay)
            delay = min(RETRY_LAST, delay * 2)

    async def _approach(self, first: bool) -> None:
        """See to it that somebody listens. Raises LoraError(UNREACHABLE) or why it cannot start."""
        if not self.endpoint.startswith("ipc://"):
            return
        may_start = self._start and self._home is not None and (first or self._given_up is None)
        if launch.listening(Path(self.endpoint.removeprefix("ipc://"))):
            return
        if not may_start or self._starts >= MAX_STARTS:
            raise self._unreachable("nobody listens there", retryable=not first)
        self._starts += 1
        await launch.ensure(cast(Path, self._home))

    async def _greet(self) -> None:
        """Say hello on a new socket and wait for the welcome."""
        link = Link(self._context, self.endpoint, self._receive)
        welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._link, self._welcomed = link, welcomed
        resume = None
        if self._in_step and self.welcome is not None:
            resume = wire.Resume(incarnation=self.welcome.incarnation, seq=self.seq)
        link.send(wire.pack(msgspec.structs.replace(self._hello, resume=resume)))
        try:
            either: set[asyncio.Future[Any]] = {link.lost, welcomed}
            await asyncio.wait(either, timeout=WELCOME_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if not welcomed.done():
                reason = link.lost.result() if link.lost.done() else "it does not answer"
                raise self._unreachable(reason)
            welcomed.result()
        except BaseException:
            welcomed.cancel()
            self._link = None
            await link.close()
            raise

    def _unreachable(self, reason: str, *, retryable: bool = True) -> LoraError:
        if self._home is not None:
            text = (
                f"The daemon of {self._home} cannot be reached: {reason}. Start it with "
                "`lora-tui daemon start`; `lora-tui daemon logs` tells why it ended."
            )
        else:
            text = (
                f"No daemon can be reached at {self.endpoint}: {reason}. Is it running there, and "
                "the tunnel up (ssh -L LOCAL_SOCKET:REMOTE_SOCKET HOST)?"
            )
        return LoraError(Code.UNREACHABLE, text, retryable=retryable)

    def _give_up(self, error: LoraError) -> None:
        """Let calls fail from now on until the daemon answers again."""
        self._given_up = error
        self._fail_calls(error)

    def _fail_calls(self, error: LoraError) -> None:
        for call in self._calls.values():
            if not call.future.done():
                call.future.set_exception(error)

    def _send(self, frames: list[bytes]) -> None:
        """Send if connected; else ``_welcome`` sends what is still open."""
        if self.connected and self._link is not None:
            self._link.send(frames)

    # ── messages ────────────────────────────────────────────────────────────────────────────────

    def _receive(self, message: wire.DaemonMessage, blobs: list[bytes]) -> None:
        match message:
            case wire.Answer() | wire.Failed() | wire.Progress():
                self._reply(message, blobs)
            case wire.Journalled():
                self._event(message)
            case wire.LiveUpdate():
                for value in message.values:
                    self.live[live_key(value)] = value
                self._tell(message)
            case wire.Snapshot():
                self._snapshot(message)
            case wire.Welcome():
                self._welcome(message)
            case wire.Resync():
                self._in_step, self._part = False, None
                self._send_open_calls()
            case wire.Refused():
                self._refused(message)
            case wire.Leaving():
                text = (
                    "The daemon was stopped. Start it with `lora-tui daemon start`; "
                    "runs go on where they were."
                )
                self._give_up(LoraError(Code.UNREACHABLE, text, retryable=True))
                cast(Link, self._link).lose(message.reason)
            case wire.Pong():
                pass

    def _reply(self, reply: wire.Answer | wire.Failed | wire.Progress, blobs: list[bytes]) -> None:
        call = self._calls.get(reply.id)
        if call is None or call.future.done():
            return  # given up meanwhile, or answered twice after a Resync
        if isinstance(reply, wire.Answer):
            call.future.set_result((reply.result, blobs))
        elif isinstance(reply, wire.Failed):
            call.future.set_exception(LoraError.of(reply.failure))
        elif call.on_progress is not None:
            call.on_progress(reply.done, reply.total, reply.message)

    def _snapshot(self, part: wire.Snapshot) -> None:
        self._part = joined(self._part, part.state) if self._part else part.state
        if part.more:
            return
        self.state, self.seq, self._in_step, self._part = self._part, part.seq, True, None
        self._tell(StateReplaced(self.state, self.seq))
        self._get_ready()

    def _event(self, entry: wire.Journalled) -> None:
        if entry.seq != self.seq + 1:  # cannot happen; if it does, start anew and miss nothing
            self._in_step = False
            cast(Link, self._link).lose(f"event {entry.seq} came after {self.seq}")
            return
        self.seq = entry.seq
        self.state = apply(self.state, entry.event)
        self._tell(entry)

    def _welcome(self, welcome: wire.Welcome) -> None:
        self.welcome, self._part = welcome, None
        self.connected = True
        self._given_up = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._welcomed is not None and not self._welcomed.done():
            self._welcomed.set_result(None)
        self._tell(Connected(welcome))
        if not self._hello.subscribe:
            self._get_ready()
        self._send_open_calls()

    def _refused(self, refused: wire.Refused) -> None:
        error = LoraError.of(refused.failure)
        if self._welcomed is not None and not self._welcomed.done():
            self._welcomed.set_exception(error)
        else:
            cast(Link, self._link).lose(error.message)

    def _get_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _send_open_calls(self) -> None:
        for call in list(self._calls.values()):
            if not call.future.done():
                self._send(call.frames)

    def _tell(self, notice: Notice) -> None:
        present = StateReplaced(self.state, self.seq)
        for reader in self._readers:
            reader.put(notice, present)


@functools.cache
def _decoder(request: type[wire.Request[Any]]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(wire.answer_type(request))
