"""The side-car writer: captions go to the files beside their pictures, behind the requests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from pathlib import Path
from typing import NamedTuple

from lora_daemon import sidecars
from lora_daemon.catalog import Catalog
from lora_daemon.jobs import Jobs
from lora_daemon.outside import BEHIND, BOTH, follow
from lora_daemon.service import Daemon
from shared.errors import LoraError
from shared.filenames import from_text, to_text

WRITE_AFTER = 0.2  # seconds: an edit that is edited again is written once
WRITE_BATCH = 16
WRITE_TOLD = 200  # captions; fewer are written before anybody would look
_TITLE = "captions to their files"
_Written = tuple[str, str, str, str]  # side-car, digest, text, item


class _Behind(NamedTuple):
    """Why a caption is not in its file."""

    dataset: str
    why: str
    disk: bool  # does not take it; else the file holds something else


# The first condition is that of the index.
_BEHIND = f"SELECT * FROM items WHERE pending <> 0 AND pending = {BEHIND}"
_BOTH = (
    "SELECT d.name AS dataset, i.name FROM items i JOIN datasets d ON d.id = i.dataset"
    f" WHERE i.pending <> 0 AND i.pending = {BOTH} ORDER BY d.name, i.name"
)


class Writer:
    """Writes changed captions to their side-cars, one at a time, behind the requests.

    A text is only ever written over one that the database keeps. What cannot be written stays
    pending, is tried again at its next change and at the next start, and is told as a warning.
    """

    def __init__(self, daemon: Daemon, catalog: Catalog, jobs: Jobs) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self._jobs = jobs
        self._queue: dict[str, None] = {}  # items, in order
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._behind: dict[str, _Behind] = {}  # by item

    def start(self) -> None:
        """Begin with what an earlier daemon left pending."""
        rows = self._store.query(_BEHIND)
        files = [self._file(row) for row in rows]
        self._task = asyncio.create_task(self._run(files), name="side-car writer")
        self.enqueue(*(row["id"] for row in rows))

    def enqueue(self, *items: str) -> None:
        """Write these captions to their files, where they are not written yet."""
        self._queue.update(dict.fromkeys(items))
        if self._queue:
            self._idle.clear()
            self._wanted.set()

    async def drained(self) -> None:
        """Wait until every caption that can be written is."""
        await self._idle.wait()

    async def close(self) -> None:
        """Finish what is pending, for five seconds at most."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drained(), 5)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def warnings(self) -> list[str]:
        """One line a dataset whose files are behind its captions."""
        datasets = sorted({one.dataset for one in self._behind.values()})
        lines = [line for dataset in datasets for line in self.behind(dataset)]
        waiting: dict[str, list[str]] = {}
        for row in self._store.query(_BOTH):
            waiting.setdefault(row["dataset"], []).append(row["name"])
        return lines + [
            f"{len(names)} caption(s) of {dataset} were changed here and, by somebody else, in "
            f"their files ({', '.join(names[:3])}{', …' if names[3:] else ''}). The files are left "
            "alone: look at both texts in Review, where the file's is a candidate, and take, edit "
            "or accept one."
            for dataset, names in waiting.items()
        ]

    def behind(self, dataset: str) -> list[str]:
        """A line if files of the dataset are behind its captions."""
        reasons = [one for one in self._behind.values() if one.dataset == dataset]
        reasons.sort(key=lambda one: not one.disk)  # which holds for all the others, too
        name = self._store.query("SELECT name FROM datasets WHERE id = ?", (dataset,))
        if not reasons or not name:
            return []
        return [
            f"{len(reasons)} caption(s) of {name[0][0]} are safe in the workspace but not in their "
            f"files. {reasons[0].why}"
        ]

    def try_again(self) -> None:
        """What could not be written may be now."""
        self.enqueue(*self._behind)

    def forget(self, dataset: str) -> None:
        self._behind = {k: v for k, v in self._behind.items() if v.dataset != dataset}

    async def _run(self, left: list[Path]) -> None:
        """``left``: files that may have been half written when the last daemon was killed."""
        await asyncio.to_thread(sidecars.clean, left)
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await asyncio.sleep(WRITE_AFTER)
            done, job = 0, ""
            while self._queue:
                if not job and len(self._queue) > WRITE_TOLD:
                    job = self._jobs.begin("write", _TITLE)
                batch = list(itertools.islice(self._queue, WRITE_BATCH))
                for item in batch:
                    del self._queue[item]
                with contextlib.suppress(LoraError):  # the database fails: they stay pending
                    written = [one for item in batch if (one := await self._write(item))]
                    await self._store.quiet()
                    self._record(written)
                done += len(batch)
                if job:
                    self._jobs.progress(job, done, done + len(self._queue), _TITLE)
            if job:
                self._jobs.end(job, "done", f"{done} captions are in their files")
            self._idle.set()

    async def _write(self, item: str) -> _Written | None:
        rows = self._store.query(
            f"SELECT * FROM items WHERE id = ? AND pending = {BEHIND}", (item,)
        )
        if not rows:
            return None
        (row,) = rows
        path = self._file(row)
        texts = self._store.query("SELECT text FROM revisions WHERE item = ?", (item,))
        try:
            digest = await asyncio.to_thread(
                sidecars.write,
                path,
                row["text"],
                row["written"],
                {text.strip() for (text,) in texts},
            )
        except sidecars.Differs:
            await self._leave_alone(row, path)
            return None
        except OSError as error:
            why = LoraError.storage("write the caption file of", row["name"], error).message
            self._behind[item] = _Behind(row["dataset"], why, disk=True)
            return None
        self._behind.pop(item, None)
        return to_text(path.name), digest, row["text"], item

    def _file(self, row: sqlite3.Row) -> Path:
        """Where a picture's caption is, or goes."""
        picture = self._catalog.path(row)
        sidecar = row["sidecar"] or to_text(picture.stem + sidecars.SUFFIXES[0])
        return picture.with_name(from_text(sidecar))

    async def _leave_alone(self, row: sqlite3.Row, path: Path) -> None:
        """The file holds a text that is not known here: both are kept until a person decides."""
        found = await asyncio.to_thread(sidecars.read_file, path)
        await self._store.quiet()
        with self._store.change("file") as change:
            outcome = follow(self._store, self._catalog, change, row["id"], row["written"], found)
        self._behind.pop(row["id"], None)
        if outcome == "same":
            why = (
                f"The caption file of {row['name']} "
                + (found.warning or "is another picture's, too, of the same name")
                + ": it was left as it is."
            )
            self._behind[row["id"]] = _Behind(row["dataset"], why, disk=False)

    def _record(self, done: list[_Written]) -> None:
        """What a kill before this leaves is healed: the file then holds a text that is known."""
        with self._store.change("daemon") as change:
            change.executemany(
                "UPDATE items SET sidecar = ?, written = ?, pending = (text <> ?) WHERE id = ?",
                [tuple(values) for values in done],
            )
