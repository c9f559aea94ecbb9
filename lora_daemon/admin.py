"""The daemon's own requests: its status, its log, the whole state, who looks at what, its end."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from lora_daemon.domain import Domain
from lora_daemon.server import Server
from lora_daemon.service import Context, Daemon, Handlers
from lora_daemon.store import migrations
from shared import __version__, paths, wire

MAX_TAIL = 1024 * 1024  # bytes of a log that are looked at from its end


class Admin:
    """Registers the handlers. ``stop`` begins the daemon's end and returns at once."""

    def __init__(
        self,
        daemon: Daemon,
        server: Server,
        domain: Domain,
        handlers: Handlers,
        stop: Callable[[bool], None],
    ) -> None:
        self._daemon, self._server, self._domain, self._stop = daemon, server, domain, stop
        self._started = time.time()
        self._versions = {
            "python": platform.python_version(),
            "protocol": "–".join(dict.fromkeys(map(str, wire.PROTOCOL))),
            "schema": str(len(migrations())),
            "pyzmq": zmq.pyzmq_version(),
            "zeromq": zmq.zmq_version(),
            "msgspec": importlib.metadata.version("msgspec"),
        }
        handlers.add(wire.GetStatus, self.status)
        handlers.add(wire.GetLog, self.log)
        handlers.add(wire.GetState, self.state)
        handlers.add(wire.Look, self.look)
        handlers.add(wire.Stop, self.stop)

    async def status(self, _: Context, __: wire.GetStatus) -> wire.Status:
        domain = self._domain.status()
        torch = next(({"torch": one.torch} for one in domain.workers if one.torch), {})
        workspace = self._daemon.workspace
        return wire.Status(
            pid=os.getpid(),
            endpoint=paths.endpoint(workspace.root),
            home=str(workspace.root),
            version=__version__,
            versions=self._versions | torch,
            incarnation=self._daemon.store.incarnation,
            head_seq=self._daemon.store.head_seq,
            started=self._started,
            clients=self._server.clients(),
            worker=domain.workers[0],
            devices=domain.devices,
            jobs=domain.jobs,
            runs=domain.runs,
            warnings=domain.warnings,
            workers=domain.workers,
        )

    async def log(self, _: Context, request: wire.GetLog) -> wire.LogLines:
        lines = max(0, min(request.lines, 10_000))
        if request.run:
            return wire.LogLines(lines=self._domain.run_log(request.run, lines))
        return wire.LogLines(lines=tail(self._daemon.workspace.log, lines))

    async def state(self, _: Context, __: wire.GetState) -> wire.State:
        return self._domain.state()

    async def look(self, context: Context, request: wire.Look) -> wire.Done:
        self._server.looks(context.session, request.at)
        if request.at is not None:
            self._domain.looked_at(request.at)
        return wire.Done()

    async def stop(self, _: Context, request: wire.Stop) -> wire.Done:
        self._stop(request.now)
        return wire.Done()


def tail(path: Path, lines: int) -> list[str]:
    """The last ``lines`` lines of a text file, of at most its last MiB; none if it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_TAIL))
            found = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    return found[-lines:] if lines else []
