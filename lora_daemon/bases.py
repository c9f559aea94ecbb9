"""The bases that LoRAs are trained on and used with, as rows that refer to files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from lora_daemon import base_look, download, hub, starter
from lora_daemon.download import Fetched
from lora_daemon.jobs import Jobs
from lora_daemon.service import Context, Daemon
from shared import wire
from shared.addresses import check, shown
from shared.errors import Code, LoraError, not_found
from shared.filenames import to_text, typed
from shared.wire import BaseModel, Objective

_PACKAGE = Path(__file__).parent

_base = msgspec.msgpack.Decoder(BaseModel).decode


class Bases:
    """Answers AddBase, InspectBase and RemoveBase."""

    def __init__(self, daemon: Daemon, jobs: Jobs) -> None:
        self._store = daemon.store
        self._models = daemon.workspace.models
        self._jobs = jobs

    def all(self) -> list[BaseModel]:
        return [_base(r["base"]) for r in self._store.query("SELECT base FROM bases ORDER BY name")]

    async def find(self, name: str) -> BaseModel:
        """A usable base, by its name or by a path.

        Raises LoraError: NOT_FOUND suggesting names, INVALID_FILE if it is not whole.
        """
        for base in self.all():
            if base.name == name:
                if base.problem:
                    raise LoraError(Code.INVALID_FILE, base.problem)
                return base
        if name.startswith(("/", "~")):
            return await asyncio.to_thread(_look, _absolute(name), "", None)
        raise not_found("base", name, [base.name for base in self.all()])

    async def look_again(self) -> None:
        """Look whether the bases are still there, and still what they were."""
        for base in self.all():
            now = await asyncio.to_thread(_again, base)
            if now != base:
                self._put(now, "daemon")

    async def register(self, path: Path, name: str) -> None:
        """Enter a base that comes with lora-tui. Raises LoraError(INVALID_FILE)."""
        self._put(await asyncio.to_thread(_look, path, name, None), "daemon")

    async def add(self, context: Context, request: wire.AddBase) -> BaseModel:
        """Raises LoraError: NOT_FOUND, UNREACHABLE (the network), INVALID_FILE saying what it is
        instead or lacks, ALREADY_EXISTS, STORAGE, BAD_REQUEST."""
        name, came_from = request.name.strip(), ""
        passed_over: list[str] = []
        for other in self.all():
            if other.name == name and not other.hub and not request.path:
                raise _taken(other)
        if request.hub is not None:
            path, came_from = await hub.job(self._jobs, context, request.hub)
            name = name or (path.stem if path.is_file() else request.hub.id.rpartition("/")[2])
        elif request.address is not None:
            path, fetched = await self._fetched(context, request, request.address)
            came_from, passed_over = fetched.origin, fetched.passed_over
        else:
            path = _absolute(request.path)
            for known in self.all():
                if known.path == to_text(path):  # now told what it predicts
                    came_from, passed_over = known.hub, known.passed_over
        base = await asyncio.to_thread(_look, path, name, request.predicts)
        base = msgspec.structs.replace(base, hub=came_from, passed_over=passed_over)
        for other in self.all():
            renewed = came_from and _source(other.hub) == _source(came_from)
            if other.name == base.name and other.path != base.path and not renewed:
                raise _taken(other)
        self._put(base, context.by)
        return base

    async def _fetched(
        self, context: Context, request: wire.AddBase, wanted: wire.FromAddress
    ) -> tuple[Path, Fetched]:
        check(wanted.url)
        order = download.AddressOrder(wanted, to_text(self._models), request.predicts)
        module, title = "lora_daemon.by_address", shown(wanted.url)
        return await download.job(self._jobs, context, title, module, order)

    async def inspect(self, context: Context, request: wire.InspectBase) -> BaseModel:
        """Raises LoraError: NOT_FOUND, INVALID_FILE saying what it is instead or lacks."""
        for base in self.all():
            if base.name == request.base:
                now = await asyncio.to_thread(_again, base)
                if now != base:
                    self._put(now, "daemon")
                return now
        return await self.find(request.base)

    async def remove(self, context: Context, request: wire.RemoveBase) -> wire.Done:
        """Raises LoraError: NOT_FOUND, WRONG_STATE for what comes with lora-tui."""
        known = {base.name: base for base in self.all()}
        if request.base not in known:
            raise not_found("base", request.base, known)
        if Path(typed(known[request.base].path)).is_relative_to(_PACKAGE):
            raise LoraError(
                Code.WRONG_STATE, f"{request.base} comes with lora-tui and cannot be removed."
            )
        with self._store.change(context.by) as change:
            change.execute("DELETE FROM bases WHERE name = ?", (request.base,))
            change.emit(wire.BaseRemoved(base=request.base))
            self._store.remember(change, context.key, wire.Done())
        return wire.Done()

    def _put(self, base: BaseModel, by: str) -> None:
        with self._store.change(by) as change:
            change.execute(
                "INSERT OR REPLACE INTO bases (name, base) VALUES (?, ?)",
                (base.name, wire.encoder.encode(base)),
            )
            change.emit(wire.BaseChanged(base=base))


def _look(path: Path, name: str, predicts: Objective | None) -> BaseModel:
    """The base at a path; without a name, by that of its folder or file.

    What comes with lora-tui is checked against its checksums: a changed weight still loads.
    """
    found = base_look.look(path, predicts)
    if path.is_relative_to(_PACKAGE / "starter"):
        try:
            starter.verify(within=path.name)
        except starter.StarterDamagedError as error:
            raise LoraError(Code.INVALID_FILE, str(error)) from error
    return BaseModel(
        name=name or to_text(path.stem if found.layout == "file" else path.name),
        path=to_text(path),
        family=found.family,
        resolution=found.resolution,
        size=found.size,
        problem="",
        layout=found.layout,
        objective=found.objective,
        told=predicts is not None,
        guessed=found.guessed,
        zero_snr=found.zero_snr,
        precision=found.precision,
        carried=found.carried,
    )


def _again(base: BaseModel) -> BaseModel:
    """A base as it is now."""
    try:
        now = _look(Path(typed(base.path)), base.name, base.objective if base.told else None)
    except LoraError as error:
        return msgspec.structs.replace(base, problem=error.message)
    return msgspec.structs.replace(now, hub=base.hub, passed_over=base.passed_over)


def _taken(other: BaseModel) -> LoraError:
    return LoraError(
        Code.ALREADY_EXISTS,
        f"There is a base {other.name} already, of {other.path}. Give this one another name.",
    )


def _source(hub: str) -> str:
    """Where a base came from, of the Hub without the commit."""
    return hub if "://" in hub else hub.partition("@")[0]


def _absolute(path: str) -> Path:
    """A path that somebody gave. A file keeps its own name, also where it is a link to another."""
    given = Path(typed(os.path.expanduser(path)))  # noqa: PTH111
    if not given.is_absolute():
        raise LoraError(
            Code.BAD_REQUEST,
            f"{path!r} is not an absolute path, and the daemon does not know your directory.",
        )
    return given if given.is_file() else given.resolve()
