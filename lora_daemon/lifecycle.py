"""The daemon's life: one per workspace by a lock held throughout, from start to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import fcntl
import gc
import logging
import os
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

import msgspec

from lora_daemon.admin import Admin
from lora_daemon.detach import redirect_output
from lora_daemon.domain import Domain
from lora_daemon.server import Server
from lora_daemon.service import Daemon, Handlers
from lora_daemon.store import Store
from shared import __version__, launch, paths, wire
from shared.errors import Code, LoraError
from shared.files import publish

log = logging.getLogger(__name__)

LOG_SIZE = 2 * 1024 * 1024  # bytes; four older ones are kept
PRUNE_EVERY = 3600.0  # seconds


@dataclass(frozen=True)
class Options:
    """How a daemon is to run."""

    workspace: paths.Workspace
    endpoint: str = ""  # listened on besides the workspace's own socket
    detached: bool = False


def run(options: Options, ready: Callable[[], None], domain: type[Domain] = Domain) -> None:
    """Serve until told to end; ``ready`` is called once clients are answered.

    Raises LoraError: ALREADY_EXISTS when another daemon has the workspace, STORAGE when it cannot
    be written, BAD_REQUEST for an endpoint that would be open to strangers.
    """
    check_endpoint(options.endpoint)
    workspace = options.workspace
    os.umask(0o077)
    lock = take(workspace)
    try:
        log_to(workspace.log, detached=options.detached)
        store = Store(workspace.database)
        marker = workspace.database.with_suffix(".marker")
        try:
            store.recognise(marker)
            asyncio.run(_Life(options, store, domain).serve(ready))
        finally:
            with contextlib.suppress(LoraError):
                store.mark(marker)
            store.close()
            with contextlib.suppress(OSError):
                workspace.status.unlink(missing_ok=True)
                workspace.socket.unlink(missing_ok=True)
    finally:
        os.close(lock)


def take(workspace: paths.Workspace) -> int:
    """The workspace's lock, an open file to be kept for life; its directories are made.

    Raises LoraError(ALREADY_EXISTS) with ``data.pid`` of the daemon that has it, or STORAGE.
    """
    try:
        workspace.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths.private(workspace.lock.parent)
        paths.private(workspace.socket.parent)
        workspace.log.parent.mkdir(exist_ok=True)
        lock = os.open(workspace.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LoraError.storage("use the workspace", workspace.root, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
        os.close(lock)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise LoraError.storage("lock the workspace", workspace.root, error) from None
        raise LoraError(
            Code.ALREADY_EXISTS,
            f"A daemon runs on {workspace.root} already (pid {holder or 'unknown'}). Clients find "
            "it by themselves; `lora-tui daemon stop` ends it.",
            data={"pid": int(holder) if holder.isdigit() else 0},
        ) from None
    return lock


def log_to(path: Path, *, detached: bool) -> None:
    """Send the log to ``path``, rotated; and to stderr unless detached. Raises LoraError."""
    try:
        file = RotatingFileHandler(path, maxBytes=LOG_SIZE, backupCount=4, encoding="utf-8")
        if detached:
            redirect_output(path.with_suffix(".stderr"))
    except OSError as error:
        raise LoraError.storage("write the log", path, error) from None
    faulthandler.enable()
    logging.raiseExceptions = False  # a full disk must not stop us through the log
    handlers: list[logging.Handler] = [file] if detached else [file, logging.StreamHandler()]
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=handlers, force=True)


def check_endpoint(endpoint: str) -> None:
    """Refuse an address that strangers could reach. Raises LoraError(BAD_REQUEST)."""
    if not endpoint or endpoint.startswith("ipc://"):
        return
    host = endpoint.removeprefix("tcp://").rpartition(":")[0]
    if endpoint.startswith("tcp://") and (host in ("localhost", "[::1]") or host[:4] == "127."):
        return
    raise LoraError(
        Code.BAD_REQUEST,
        f"{endpoint} could be reached by others, and this version has no keys to tell clients "
        "apart. Use ipc:// or tcp://127.0.0.1:PORT; from another machine forward the socket: "
        "ssh -L /tmp/lora.sock:REMOTE_SOCKET HOST, then --endpoint ipc:///tmp/lora.sock.",
    )


class _Life:
    """The parts of one daemon, and the order in which they begin and end."""

    def __init__(self, options: Options, store: Store, domain: type[Domain]) -> None:
        self._options = options
        self._store = store
        self._domain_type = domain
        self._stop = asyncio.Event()
        self._now = asyncio.Event()

    async def serve(self, ready: Callable[[], None]) -> None:
        workspace, store = self._options.workspace, self._store
        handlers = Handlers()
        server = Server(store, handlers)
        domain: Domain | None = None
        pruning = asyncio.create_task(self._prune())
        try:
            daemon = Daemon(workspace, store, server)
            domain = self._domain_type(daemon, handlers)
            Admin(daemon, server, domain, handlers, self.stop)
            if missing := handlers.missing():
                names = ", ".join(sorted(kind.__name__ for kind in missing))
                raise RuntimeError(f"nobody handles {names}")
            server.state, server.live = domain.state, domain.live
            self._listen_to_signals()
            self._bind(server)
            server.start()
            await domain.start()
            self._write_status()
            log.info("ready: pid %d, %s", os.getpid(), paths.endpoint(workspace.root))
            ready()
            gc.freeze()  # what is here stays: no use in the collector walking it
            await self._stop.wait()
        finally:
            log.info("leaving%s", " at once" if self._now.is_set() else "")
            server.closing = True
            pruning.cancel()
            if domain is not None:
                await self._close(domain)
            await server.close("The daemon was stopped.")
            log.info("gone")

    def _bind(self, server: Server) -> None:
        """Listen. ZeroMQ removes whatever is at the path: ours by the lock, another's not."""
        server.bind(paths.endpoint(self._options.workspace.root))
        more = self._options.endpoint
        if more.startswith("ipc://"):
            refuse_taken(Path(more.removeprefix("ipc://")))
        elif more:
            log.warning("%s lets in every user of this machine", more)
        if more:
            server.bind(more)

    def stop(self, now: bool = False) -> None:
        """Begin to leave; a second call, or ``now``, does not wait for the step boundary."""
        if now or self._stop.is_set():
            self._now.set()
        self._stop.set()

    async def _close(self, domain: Domain) -> None:
        """Suspend what runs. A request to hurry cancels the patient close and closes now."""
        hurry = asyncio.create_task(self._now.wait())
        patient = asyncio.create_task(domain.close(now=self._now.is_set()))
        try:
            await asyncio.wait({hurry, patient}, return_when=asyncio.FIRST_COMPLETED)
            if not patient.done():
                patient.cancel()
                await asyncio.gather(patient, return_exceptions=True)
                await domain.close(now=True)
            else:
                patient.result()
        except Exception:
            log.exception("not everything could be closed in order")
        finally:
            hurry.cancel()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a log-out is no reason to end
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _write_status(self) -> None:
        workspace = self._options.workspace
        status = {
            "pid": os.getpid(),
            "endpoint": paths.endpoint(workspace.root),
            "home": str(workspace.root),
            "version": __version__,
            "protocol": wire.PROTOCOL,
            "incarnation": self._store.incarnation,
            "started": time.time(),
        }
        publish(workspace.status, msgspec.json.format(msgspec.json.encode(status)) + b"\n")

    async def _prune(self) -> None:
        while True:
            try:
                self._store.prune()
            except LoraError as error:
                log.warning("could not prune the journal: %s", error)
            await asyncio.sleep(PRUNE_EVERY)


def refuse_taken(path: Path) -> None:
    """Raise LoraError(ALREADY_EXISTS) if ``path`` is something else than a dead socket."""
    try:
        dead = stat.S_ISSOCK(path.lstat().st_mode) and not launch.listening(path)
    except OSError:
        return
    if not dead:
        raise LoraError(
            Code.ALREADY_EXISTS,
            f"{path} is taken: choose another path for --endpoint, or remove it.",
        )
