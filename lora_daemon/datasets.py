"""Datasets: folders taken in by reference, and taken in again when they change."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path

from lora_daemon import folder, hub, unpacking
from lora_daemon.catalog import Catalog
from lora_daemon.importing import Import
from lora_daemon.jobs import Jobs
from lora_daemon.newer import forget_tables
from lora_daemon.service import Context, Daemon
from lora_daemon.writing import Writer
from shared import wire
from shared.errors import Code, LoraError
from shared.filenames import PACKED, to_text


class Datasets:
    """Answers ImportDataset and RemoveDataset."""

    def __init__(self, daemon: Daemon, catalog: Catalog, jobs: Jobs, writer: Writer) -> None:
        self._daemon = daemon
        self._store = daemon.store
        self._catalog = catalog
        self._jobs = jobs
        self._writer = writer
        self._imports: dict[str, tuple[Import, asyncio.Task[wire.Imported]]] = {}  # by path

    async def import_dataset(self, context: Context, request: wire.ImportDataset) -> wire.Imported:
        """Import a folder or what can be unpacked into one, or join the import of it under way.

        Cancelling the last request that waits cancels the import; what it has read stays.
        Raises LoraError: NOT_FOUND, INVALID_FILE, ALREADY_EXISTS, STORAGE; UNREACHABLE (the Hub).
        """
        if request.hub is not None:
            source = (await hub.job(self._jobs, context, request.hub))[0]
            name = request.name.strip() or request.hub.id.rpartition("/")[2]
        else:
            source = await asyncio.to_thread(folder.resolve, request.path, PACKED)
            name = request.name.strip() or unpacking.bare_name(source) or "pictures"
        root = source
        if (
            request.copy
            or request.hub is not None
            or await asyncio.to_thread(unpacking.is_packed, source)
        ):
            root = self._daemon.workspace.datasets / _safe(name)
        path = to_text(root)
        if path not in self._imports:
            dataset = self._claim(path, name)
            work = Import(
                self._daemon, self._catalog, self._jobs, self._writer,
                source=source, root=root, dataset=dataset, by=context.by,
                columns=unpacking.Columns(request.image_column, request.text_column),
                table=request.captions,
                origin=f"hf:{request.hub.id}" if request.hub is not None else "",
            )  # fmt: skip
            task = asyncio.create_task(work.run(), name=f"import {path}")
            self._imports[path] = (work, task)
            task.add_done_callback(lambda _: self._imports.pop(path))
        work, task = self._imports[path]
        work.watchers.append(context.progress)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            work.watchers.remove(context.progress)
            if not work.watchers and not task.done():
                task.cancel()
            raise

    async def remove(self, context: Context, request: wire.RemoveDataset) -> wire.Done:
        """Raises LoraError: NOT_FOUND, BUSY while it is being imported."""
        row = self._catalog.row(request.dataset)
        if row["path"] in self._imports:
            raise LoraError(
                Code.BUSY,
                f"{row['name']} is being imported. Cancel that or wait for it.",
                retryable=True,
            )
        await self._writer.drained()
        behind = self._store.query(
            "SELECT name, text FROM items WHERE dataset = ? AND pending <> 0 ORDER BY name",
            (row["id"],),
        )
        if behind:
            await asyncio.to_thread(self._keep, row["name"], behind)
        with self._store.change(context.by) as change:
            change.execute("DELETE FROM datasets WHERE id = ?", (row["id"],))
            forget_tables(change, row["id"])
            change.emit(wire.DatasetRemoved(dataset=row["id"]))
            self._store.remember(change, context.key, wire.Done())
        self._writer.forget(row["id"])
        return wire.Done()

    def importing(self, path: str) -> bool:
        """Whether this folder, as the database has it, is being imported."""
        return path in self._imports

    async def close(self) -> None:
        """End imports; they are taken up by importing again."""
        for _, task in list(self._imports.values()):
            task.cancel()
            await asyncio.wait([task])

    def _claim(self, path: str, name: str) -> sqlite3.Row | str:
        """The dataset row of this folder, or the name a new one may have."""
        if len(name) > 200:
            raise LoraError(Code.BAD_REQUEST, "A dataset's name has at most 200 characters.")
        rows = self._store.query("SELECT * FROM datasets WHERE path = ?", (path,))
        if rows:
            if name not in (rows[0]["name"], to_text(Path(path).name)):
                raise LoraError(
                    Code.ALREADY_EXISTS,
                    f"{path} is the dataset {rows[0]['name']} already. Import it under that "
                    "name, or remove that dataset first.",
                    data={"dataset": rows[0]["id"]},
                )
            return rows[0]
        taken = self._store.query("SELECT * FROM datasets WHERE name = ?", (name,))
        busy = [work for work, _ in self._imports.values() if work.name == name]
        if taken or busy:
            where = taken[0]["path"] if taken else to_text(busy[0].root)
            raise LoraError(
                Code.ALREADY_EXISTS,
                f"There is a dataset {name} already, of {where}. Give this one another name.",
            )
        return name

    def _keep(self, name: str, behind: list[sqlite3.Row]) -> None:
        """Captions that could not be written to their files outlive the dataset in one of ours."""
        target = self._daemon.workspace.root / "removed"
        target.mkdir(exist_ok=True)
        lines = (json.dumps({"file_name": n, "text": t}, ensure_ascii=False) for n, t in behind)
        (target / f"{_safe(name)}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl").write_text(
            "\n".join(lines)
        )


def _safe(name: str) -> str:
    """A file name from a dataset's name."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:80]
    return f"_{safe[1:]}" if safe.startswith(".") else safe
