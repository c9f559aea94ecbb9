"""The daemon's socket: sessions by identity, requests as tasks, events and live values out."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable

import msgspec
import zmq

from lora_daemon.calls import Calls, raw
from lora_daemon.service import Handlers
from lora_daemon.sessions import Sent, Session
from lora_daemon.store import Store
from shared import __version__, wire
from shared.errors import Code, Failure, LoraError
from shared.frames import Frames
from shared.state import parts

log = logging.getLogger(__name__)

MAX_CALLS = 256  # in flight for one client
MAX_REPLAY = 2_000  # events; a client further behind gets a snapshot
PIPE = 32  # messages ZeroMQ may hold for one client beside our own queue, which counts bytes
PROGRESS_EVERY = 0.1  # seconds between two Progress messages of one call
GRACE = 500  # milliseconds for the last messages to leave


class Server:
    """One ROUTER. All of it runs on the daemon's event loop; nothing here waits for a client."""

    def __init__(self, store: Store, handlers: Handlers) -> None:
        self._store = store
        self._calls = Calls(store, handlers)
        self._sessions: dict[bytes, Session] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BLOB)
        self._socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        self._socket.setsockopt(zmq.SNDHWM, PIPE)
        self._socket.setsockopt(zmq.RCVHWM, PIPE)
        self._frames: Frames | None = None
        self._watching: asyncio.Task[None] | None = None
        self.closing = False  # only reading is allowed any more
        self._leaving: list[bytes] | None = None  # what is said to whoever comes now
        self.state: Callable[[], wire.State] = wire.State
        self.live: Callable[[], list[wire.AnyLive]] = list

    def bind(self, endpoint: str) -> None:
        """Listen on ``endpoint``. Raises LoraError(STORAGE, BAD_REQUEST)."""
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise LoraError(
                Code.STORAGE, f"Could not listen on {endpoint}: {error.strerror}."
            ) from None

    def start(self) -> None:
        """Begin to read; from here on clients are served."""
        self._store.announce = self.announce
        self._frames = Frames(self._socket, self._read)
        self._watching = asyncio.create_task(self._watch())

    async def close(self, reason: str) -> None:
        """Tell every client that the daemon leaves, and close the socket."""
        self.closing = True
        self._leaving = wire.pack(wire.Leaving(reason=reason))
        for session in list(self._sessions.values()):
            session.put(self._leaving)
            self._end(session)
        await self._calls.close()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._frames is not None:
            self._frames.close()
        self._context.destroy(linger=GRACE)

    def clients(self) -> list[wire.ClientInfo]:
        """Who is attached, longest first. What only asks and leaves, as a command does, is not."""
        return [session.info for session in self._sessions.values() if session.subscribed]

    def looks(self, session: str, at: wire.Looking | None) -> None:
        """A client has a picture before it, or none any more: tell the others."""
        for one in self._sessions.values():
            if one.info.session == session and one.info.looking != at:
                one.info = msgspec.structs.replace(one.info, looking=at)
                self._attached(one)

    def publish(self, value: wire.AnyLive) -> None:
        """Send a live value to every subscribed client, conflated (Hub)."""
        for session in list(self._sessions.values()):
            session.live(value)

    def announce(self, entry: wire.Journalled) -> None:
        """Send a durable event to every subscribed client. Never raises: the change is made."""
        try:
            frames = wire.pack(entry)
        except LoraError:  # clients see the gap, come back, and get a snapshot
            log.exception("event %d could not be sent", entry.seq)
            return
        for session in list(self._sessions.values()):
            if session.subscribed:
                session.put(frames)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────

    def _read(self, message: list[bytes]) -> None:
        identity, *frames = message
        try:
            self._receive(identity, frames)
        except Exception:
            log.exception("a message from %s could not be handled", identity.hex())

    def _receive(self, identity: bytes, frames: list[bytes]) -> None:
        session = self._sessions.get(identity)
        try:
            message, _ = wire.unpack_client(frames)
        except LoraError as error:
            log.warning("refused %s: %s", identity.hex(), error)
            unread = wire.unread_call(frames) if session is not None else None
            if session is not None and unread is not None:
                session.heard = time.monotonic()
                session.put(wire.pack(wire.Failed(id=unread[0], failure=_unread(unread[1], error))))
                return
            self._refuse(identity, error, say_hello=False)
            if session is not None:
                self._drop(session, "it sent nonsense")
            return
        if isinstance(message, wire.Hello):
            self._hello(identity, message)
        elif session is None:
            stranger = LoraError(Code.UNREACHABLE, "This daemon does not know you: say hello.")
            self._refuse(identity, stranger, say_hello=True)
        else:
            session.heard = time.monotonic()
            self._attend(session, message)

    def _attend(
        self, session: Session, message: wire.Call | wire.CancelCall | wire.Ping | wire.Bye
    ) -> None:
        match message:
            case wire.Call():
                self._call(session, message)
            case wire.CancelCall(id=number):
                if session.keys.get(number):
                    self._calls.cancel(session.keys[number])
                elif number in session.calls:
                    session.calls[number].cancel()
            case wire.Ping():
                session.put(wire.pack(wire.Pong()))
            case wire.Bye():
                self._drop(session, "goodbye")

    # ── sessions ────────────────────────────────────────────────────────────────────────────────

    def _hello(self, identity: bytes, hello: wire.Hello) -> None:
        version = min(hello.protocol[1], wire.PROTOCOL[1])
        if version < max(hello.protocol[0], wire.PROTOCOL[0]):
            error = incompatible(hello)
            log.warning("refused %s: %s", hello.client, error)
            self._refuse(identity, error, say_hello=False)
            return
        if self._leaving is not None:  # a welcome would look like a daemon started again
            self._send(identity, self._leaving)
            return
        if identity in self._sessions:
            self._end(self._sessions[identity])
        info = wire.ClientInfo(
            session=uuid.uuid4().hex[:12],
            name=hello.client[:100] or "somebody",
            host=hello.host[:100],
            terminal=hello.terminal[:100],
            since=time.time(),
        )
        session = Session(
            identity,
            info,
            subscribed=hello.subscribe,
            send=self._send,
            refill=self._refill,
            lost=lambda session: self._drop(session, "its connection is gone"),
        )
        self._sessions[identity] = session
        welcome = wire.Welcome(
            protocol=version,
            incarnation=self._store.incarnation,
            head_seq=self._store.head_seq,
            session=info.session,
            version=__version__,
        )
        session.put(wire.pack(welcome))
        log.info("%s attached from %s %s", info.name, info.host, info.terminal)
        if session.subscribed and not self._replay(session, hello.resume):
            self._snapshot(session)
        self._greet(session)
        self._attached(session)

    def _replay(self, session: Session, resume: wire.Resume | None) -> bool:
        """Put the events the client missed; False if it needs a snapshot instead."""
        if resume is None or resume.incarnation != self._store.incarnation:
            return False
        if not 0 <= self._store.head_seq - resume.seq <= MAX_REPLAY:
            return False
        entries = self._store.events_after(resume.seq)
        if entries is None:
            return False
        for entry in entries:
            session.put(wire.pack(entry))
        return True

    def _snapshot(self, session: Session) -> None:
        seq = self._store.head_seq
        pieces = list(parts(self.state()))
        messages = [
            wire.Snapshot(seq=seq, state=piece, more=number < len(pieces))
            for number, piece in enumerate(pieces, 1)
        ]
        session.snapshot([wire.pack(message) for message in messages])

    def _greet(self, session: Session) -> None:
        if session.subscribed:
            for value in self.live():
                session.live(value)

    def _refill(self, session: Session) -> None:
        """A client reads again after its queue was dropped."""
        log.warning("%s (%s) reads again: resync", session.info.name, session.info.session)
        if session.subscribed:
            self._snapshot(session)
            self._greet(session)
            session.live(wire.Attached(clients=self.clients()))

    def _attached(self, changed: Session) -> None:
        if changed.subscribed:
            self.publish(wire.Attached(clients=self.clients()))

    def _drop(self, session: Session, why: str) -> None:
        if self._sessions.get(session.identity) is session:
            log.info("%s detached: %s", session.info.name, why)
            self._end(session)
            if not self.closing:
                self._attached(session)

    def _end(self, session: Session) -> None:
        """Forget a session. What it asked to be changed goes on; what it asked to read does not."""
        if self._sessions.get(session.identity) is not session:
            return  # its farewell found it gone already
        del self._sessions[session.identity]
        session.close()
        for task in list(session.calls.values()):
            task.cancel()

    async def _watch(self) -> None:
        """Drop sessions that have fallen silent."""
        while True:
            await asyncio.sleep(wire.LIVENESS / 4)
            oldest = time.monotonic() - wire.LIVENESS
            for session in [s for s in self._sessions.values() if s.heard < oldest]:
                self._drop(session, f"silent for {wire.LIVENESS:.0f} s")

    # ── requests ────────────────────────────────────────────────────────────────────────────────

    def _call(self, session: Session, call: wire.Call) -> None:
        if call.id in session.calls:
            return  # sent again after a Resync while the first is still running
        failure: LoraError | None = None
        if len(session.calls) >= MAX_CALLS:
            text = f"You have {MAX_CALLS} requests in flight; wait for some of them."
            failure = LoraError(Code.BUSY, text, retryable=True)
        elif self.closing and call.request.changes:
            text = "The daemon is leaving and takes no more changes. Try again when it is back."
            failure = LoraError(Code.BUSY, text, retryable=True)
        if failure is not None:
            session.put(wire.pack(wire.Failed(id=call.id, failure=failure.failure())))
            return
        key = self._calls.effect_key(call.request, call.key)
        session.keys[call.id] = key
        session.calls[call.id] = asyncio.create_task(self._answer(session, call, key))

    async def _answer(self, session: Session, call: wire.Call, key: str) -> None:
        told = 0.0

        def progress(done: int, total: int, message: str = "") -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= PROGRESS_EVERY or done == total:
                told = now
                news = wire.Progress(id=call.id, done=done, total=total, message=message)
                session.put(wire.pack(news))

        try:
            reply = await self._calls.run(
                call.request,
                by=session.info.name,
                key=key,
                durable=bool(call.key),
                progress=progress,
                session=session.info.session,
            )
            frames = wire.pack(wire.Answer(id=call.id, result=raw(reply)), reply.blobs)
        except LoraError as error:
            frames = wire.pack(wire.Failed(id=call.id, failure=error.failure()))
        except asyncio.CancelledError:
            cancelled = LoraError(Code.CANCELLED, "Cancelled.").failure()
            frames = wire.pack(wire.Failed(id=call.id, failure=cancelled))
        finally:
            session.calls.pop(call.id, None)
            session.keys.pop(call.id, None)
        session.put(frames)

    # ── writing ─────────────────────────────────────────────────────────────────────────────────

    def _refuse(self, identity: bytes, error: LoraError, *, say_hello: bool) -> None:
        refused = wire.Refused(failure=error.failure(), say_hello=say_hello)
        self._send(identity, wire.pack(refused))

    def _send(self, identity: bytes, frames: list[bytes]) -> Sent:
        """Hand a message to ZeroMQ if the client's pipe has room; never waits."""
        if self._frames is None:
            return Sent.GONE
        try:
            self._frames.send([identity, *frames])
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError:
            return Sent.GONE
        return Sent.YES


def _unread(op: str, error: LoraError) -> Failure:
    """What a client is told whose call cannot be read."""
    if not op:
        return error.failure()
    return LoraError(
        Code.INCOMPATIBLE,
        f"This daemon (lora-tui {__version__}) does not know {op!r}: it is older than your client. "
        "`lora-tui daemon stop` ends it, and the next command starts the new one; a run goes on "
        "where it was.",
    ).failure()


def incompatible(hello: wire.Hello) -> LoraError:
    """The refusal of a client without a protocol version in common, saying what to install."""
    oldest, newest = hello.protocol
    theirs = f"{oldest}" if oldest == newest else f"{oldest}–{newest}"
    ours = "–".join(dict.fromkeys(map(str, wire.PROTOCOL)))
    newer = oldest > wire.PROTOCOL[1]
    if newer:
        advice = (
            f"Install lora-tui {hello.version or 'of the same version'} on the daemon's machine "
            f"and restart it (lora-tui daemon stop), or lora-tui {__version__} on yours."
        )
    else:
        advice = (
            f"Install lora-tui {__version__} on your machine: pip install lora-tui=={__version__}"
        )
    return LoraError(
        Code.INCOMPATIBLE,
        f"This daemon (lora-tui {__version__}) speaks protocol {ours}, your client "
        f"(lora-tui {hello.version or 'unknown'}) speaks {theirs}. {advice}",
        data={"daemon": list(wire.PROTOCOL), "client": [oldest, newest], "version": __version__},
    )
