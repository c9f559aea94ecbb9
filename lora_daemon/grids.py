"""A grid of pictures, painted one after another into a folder and laid out as one labelled sheet.

A picture's file is named by what decides its pixels, so one that is there is not painted again: a
grid that was cut short, or to which a value was added, goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lora_daemon import grid_sheet, pipe
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.painting import Painting, Resolved
from lora_daemon.service import Context, Daemon
from shared import grids, wire
from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.files import publish


@dataclass(frozen=True)
class _Planned:
    """A cell as the worker gets it."""

    cell: grids.Cell
    made: Resolved
    path: Path


class Grids:
    """Answers PaintGrid."""

    def __init__(self, daemon: Daemon, library: Library, jobs: Jobs, painting: Painting) -> None:
        self._workspace = daemon.workspace
        self._library = library
        self._jobs = jobs
        self._painting = painting
        self._under_way: set[Path] = set()

    async def paint(self, context: Context, request: wire.PaintGrid) -> wire.Grid:
        """Raises LoraError: NOT_FOUND (base, LoRA), BAD_REQUEST, BUSY, OUT_OF_MEMORY,
        WORKER_FAILED, STORAGE, CANCELLED."""
        axes = [grids.read(text) for text in request.axes]
        folder = self._workspace.outputs / "grids" / _named(request)
        if folder in self._under_way:
            raise LoraError(
                Code.BUSY, f"{folder.name} is being painted already. Name this one otherwise."
            )
        self._under_way.add(folder)
        try:
            planned = [await self._plan(cell, folder) for cell in grids.cells(request.spec, axes)]
            return await self._paint(context, folder, axes, planned)
        finally:
            self._under_way.discard(folder)

    async def _plan(self, cell: grids.Cell, folder: Path) -> _Planned:
        made = await self._painting.resolved(cell.spec)
        name = f"{_words(' '.join(cell.labels))}-{_digest(made)}.png"
        return _Planned(cell, made, folder / name)

    async def _paint(
        self, context: Context, folder: Path, axes: list[grids.Axis], planned: list[_Planned]
    ) -> wire.Grid:
        total = len(planned)
        missing = await asyncio.to_thread(_missing, folder, planned)
        done = total - len(missing)

        def kept() -> str:
            return f"{done} of {total} pictures are kept; the same grid goes on with the others."

        with self._jobs.open("grid", f"grid {folder.name}", total, cancelled=kept) as job:
            notes: dict[str, None] = {}
            self._jobs.progress(job, done, total)
            for one in missing:
                notes |= dict.fromkeys((await self._one(one, job)).notes)
                done += 1
                self._jobs.progress(job, done, total)
                context.progress(done, total, f"{done} of {total} pictures")
            picture = await asyncio.to_thread(_lay_out, folder, axes, planned)
            known = [one for one in self._library.pictures() if one.path == picture.path]
            if not known:
                self._library.add_picture(picture, context.by)
            picture = msgspec.structs.replace([*known, picture][0], notes=list(notes))
            self._jobs.end(job, "done", picture.path)
        return wire.Grid(folder=str(folder), picture=picture, painted=len(missing), pictures=total)

    async def _one(self, one: _Planned, job: str) -> pipe.Painted:
        paint = one.made.order(f"{job}-{secrets.token_hex(4)}", one.path, patient=True)
        return await self._painting.make(paint, lambda *_: None)


def _missing(folder: Path, planned: list[_Planned]) -> list[_Planned]:
    """What is still to be painted, each file once, base after base, so that each is loaded once."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {one.path: one for one in planned if not one.path.exists()}
    return sorted(files.values(), key=lambda one: one.made.base.name)


def _lay_out(folder: Path, axes: list[grids.Axis], planned: list[_Planned]) -> wire.Picture:
    """The sheet and its list, from the pictures in the folder."""
    parameters = "\n".join(
        f"{axis}: {', '.join(one.label(value) for value in one.values)}"
        for axis, one in zip("XYZ", axes, strict=False)
    )
    together = hashlib.sha256("".join(one.path.name for one in planned).encode()).hexdigest()
    sheet = folder / f"grid-{together[:8]}.png"
    width, height = grid_sheet.draw(
        sheet,
        [[axis.label(value) for value in axis.values] for axis in axes],
        {one.cell.at: one.path for one in planned},
        parameters,
    )
    listed = [
        {"file": one.path.name, "labels": one.cell.labels, "spec": one.made.spec} for one in planned
    ]
    publish(sheet.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(listed)) + b"\n")
    first = planned[0].made.spec
    return wire.Picture(
        id=f"p{secrets.token_hex(6)}", path=str(sheet), run="", step=0,
        prompt=first.prompt, seed=first.seed, width=width, height=height, parameters=parameters,
        created=time.time(),
    )  # fmt: skip


def _named(request: wire.PaintGrid) -> str:
    """The grid's folder: the name it was given, else its prompt's first words and a few digits of
    everything that does not vary."""
    if request.name:
        return _words(request.name)
    fixed = hashlib.sha256(msgspec.json.encode(request.spec)).hexdigest()[:6]
    return f"{_words(request.spec.prompt)}-{fixed}"


def _words(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text[:80]).strip("-.")[:60] or "grid"


def _digest(made: Resolved) -> str:
    """Ten digits of everything that decides the pixels, the files' age and size included."""
    files = []
    for path in made.files():
        try:
            status = path.stat()
        except OSError as error:
            raise LoraError.storage("read", path, error) from None
        files.append((to_text(path), status.st_size, status.st_mtime_ns))
    said = msgspec.json.encode((made.spec, made.base.path, made.base.objective, files))
    return hashlib.sha256(said).hexdigest()[:10]
