"""Runs as the database and their directories have them: rows, notes, log, series, removal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from lora_daemon import series
from lora_daemon.service import Context, Daemon
from lora_daemon.store import Change
from shared import wire
from shared.decimate import decimate
from shared.errors import Code, LoraError, not_found

ACTIVE: tuple[wire.RunState, ...] = ("starting", "training", "paused", "interrupted")
MAX_POINTS = 20_000
_TRASH = ".removed-"

_decode = msgspec.msgpack.Decoder(wire.Run).decode
_decode_picture = msgspec.msgpack.Decoder(wire.Picture).decode


class Runs:
    """Every real change of a run is journalled. Answers GetRun, GetSeries and RemoveRun."""

    def __init__(self, daemon: Daemon) -> None:
        self._store = daemon.store
        self._workspace = daemon.workspace
        self._waiting: list[tuple[str, Callable[[wire.Run], bool], asyncio.Future[None]]] = []

    # ── rows ────────────────────────────────────────────────────────────────────────────────────

    def all(self) -> list[wire.Run]:
        """In the order of the queue."""
        return [
            _decode(r["run"]) for r in self._store.query("SELECT run FROM runs ORDER BY position")
        ]

    def get(self, run: str) -> wire.Run:
        """By id or name; of several with one name, the latest. Raises LoraError(NOT_FOUND)."""
        rows = self._store.query("SELECT run FROM runs WHERE id = ?", (run,))
        if rows:
            return _decode(rows[0]["run"])
        named = [one for one in self.all() if one.name == run]
        if named:
            return max(named, key=lambda one: one.created)
        raise not_found("run", run, [one.id for one in self.all()])

    def ids(self, names: Iterable[str]) -> list[str]:
        """Of runs by id or name, of a whole sweep by the sweep's. Raises LoraError(NOT_FOUND)."""
        found: list[str] = []
        for name in names:
            swept = [one.id for one in self.all() if one.group == name]
            found += swept or [self.get(name).id]
        return list(dict.fromkeys(found))

    def directory(self, run: str) -> Path:
        return self._workspace.run(run)

    def last_place(self) -> int:
        """Of the last run in the queue; 0 if there is none."""
        return int(self._store.query("SELECT coalesce(max(position), 0) AS m FROM runs")[0]["m"])

    def places(self, runs: list[str]) -> list[int]:
        """The places that these runs have in the queue, in order."""
        rows = self._store.query("SELECT id, position FROM runs ORDER BY position")
        return [row["position"] for row in rows if row["id"] in runs]

    def insert(self, change: Change, run: wire.Run) -> None:
        change.execute(
            "INSERT INTO runs (id, position, run) VALUES (?, ?, ?)",
            (run.id, run.place, wire.encoder.encode(run)),
        )
        change.emit(wire.RunChanged(run=run))

    def update(self, run: str, by: str = "engine", **fields: Any) -> wire.Run:
        """Change a run's row and tell everybody; nothing if it is so already."""
        before = self.get(run)
        if all(getattr(before, name) == value for name, value in fields.items()):
            return before
        after = msgspec.structs.replace(before, **fields, rev=before.rev + 1)
        with self._store.change(by) as change:
            self.put(change, after)
        self.announce(after)
        return after

    def put(self, change: Change, run: wire.Run) -> None:
        change.execute(
            "UPDATE runs SET run = ?, position = CASE WHEN ? THEN ? ELSE position END WHERE id = ?",
            (wire.encoder.encode(run), run.place, run.place, run.id),
        )
        change.emit(wire.RunChanged(run=run))

    def announce(self, run: wire.Run) -> None:
        """Wake those who wait for this change."""
        for waiting in list(self._waiting):
            name, condition, future = waiting
            if name == run.id and not future.done() and condition(run):
                future.set_result(None)

    async def until(
        self, run: str, condition: Callable[[wire.Run], bool], seconds: float
    ) -> wire.Run:
        """The run once ``condition`` holds, or as it is after ``seconds``."""
        if not condition(self.get(run)):
            future = asyncio.get_running_loop().create_future()
            waiting = (run, condition, future)
            self._waiting.append(waiting)
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(future, seconds)
            finally:
                self._waiting.remove(waiting)
        return self.get(run)

    # ── notes and log ───────────────────────────────────────────────────────────────────────────

    def note(self, run: str, kind: str, text: str, path: str = "") -> bool:
        """Keep what the run's owner should know; False if it is known."""
        with self._store.change("engine") as change:
            cursor = change.execute(
                "INSERT OR IGNORE INTO notes (run, kind, path, text) VALUES (?, ?, ?, ?)",
                (run, kind, path, text),
            )
            return cursor.rowcount > 0

    def log(self, run: str, text: str) -> None:
        """A line in the run's own log. A full disk loses the line, not the run."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
        with contextlib.suppress(OSError), (self.directory(run) / "log.txt").open("a") as file:
            file.write(line)

    def log_lines(self, run: str, lines: int) -> list[str]:
        """The end of a run's log. Raises LoraError(NOT_FOUND)."""
        text = _text(self.directory(self.get(run).id) / "log.txt")
        return text.splitlines()[-lines:] if lines > 0 else []

    # ── requests ────────────────────────────────────────────────────────────────────────────────

    async def detail(self, context: Context, request: wire.GetRun) -> wire.RunDetail:
        run = self.get(request.run)
        directory = self.directory(run.id)
        notes = self._store.query("SELECT * FROM notes WHERE run = ?", (run.id,))
        samples = self._store.query(
            "SELECT picture FROM pictures WHERE run = ? ORDER BY id", (run.id,)
        )
        kept = self._store.query(
            "SELECT * FROM checkpoints WHERE run = ? ORDER BY step, final", (run.id,)
        )
        return wire.RunDetail(
            run=run,
            recipe=await asyncio.to_thread(_text, directory / "recipe.toml"),
            directory=str(directory),
            samples=[_decode_picture(row["picture"]) for row in samples],
            checkpoints=[
                wire.Checkpoint(
                    step=row["step"],
                    epoch=row["epoch"],
                    path=str(directory / row["path"]),
                    size=row["size"],
                    final=bool(row["final"]),
                )
                for row in kept
            ],
            skipped=[(row["path"], row["text"]) for row in notes if row["kind"] == "skipped"],
            warnings=[row["text"] for row in notes if row["kind"] == "warning"],
        )

    async def series(self, context: Context, request: wire.GetSeries) -> wire.Series:
        run = self.get(request.run)
        path = self.directory(run.id) / "metrics.csv"
        limit = max(2, min(request.points, MAX_POINTS))
        return wire.Series(points=await asyncio.to_thread(read_series, path, request.after, limit))

    async def remove(self, context: Context, request: wire.RemoveRun) -> wire.Done:
        """Raises LoraError: NOT_FOUND, WRONG_STATE while it is at work."""
        run = self.get(request.run)
        if run.state in ACTIVE:
            raise LoraError(
                Code.WRONG_STATE, f"{run.id} is {run.state}: stop it before you remove it."
            )
        if waiting := [one.id for one in self.all() if run.id in one.after and not one.started]:
            raise LoraError(
                Code.WRONG_STATE,
                f"{', '.join(waiting)} waits for {run.id}. Say what else it is to wait for: "
                f"`lora-tui run after {waiting[0]}`.",
            )
        loras = self._store.query("SELECT name FROM loras WHERE run = ?", (run.id,))
        pictures = self._store.query("SELECT id FROM pictures WHERE run = ?", (run.id,))
        with self._store.change(context.by) as change:
            for (name,) in loras:
                change.execute("DELETE FROM loras WHERE name = ?", (name,))
                change.emit(wire.LoraRemoved(lora=name))
            for (picture,) in pictures:
                change.execute("DELETE FROM pictures WHERE id = ?", (picture,))
                change.emit(wire.PictureRemoved(picture=picture))
            change.execute("DELETE FROM runs WHERE id = ?", (run.id,))
            change.emit(wire.RunRemoved(run=run.id))
            self._store.remember(change, context.key, wire.Done())
        await asyncio.to_thread(self._discard, run.id)
        return wire.Done()

    def _discard(self, run: str) -> None:
        trash = self._workspace.runs / f"{_TRASH}{run}"
        with contextlib.suppress(OSError):
            self.directory(run).rename(trash)
            shutil.rmtree(trash, ignore_errors=True)

    def sweep(self) -> None:
        """Finish removals that an earlier daemon began."""
        for trash in self._workspace.runs.glob(f"{_TRASH}*"):
            shutil.rmtree(trash, ignore_errors=True)


def size_of(directory: Path) -> int:
    """Bytes of the files under ``directory``."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(folder) / name).lstat().st_size
    return total


def read_series(path: Path, after: int, limit: int) -> list[wire.LivePoint]:
    """``metrics.csv`` from step ``after`` + 1 on, at most ``limit`` points."""
    try:
        points = [
            wire.LivePoint(one.step, one.loss, one.learning_rate, one.grad_norm, one.time)
            for one in series.points(path)
            if one.step > after
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    return decimate(points, limit, lambda point: point.loss)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
