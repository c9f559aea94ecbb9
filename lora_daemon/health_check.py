"""One health check of a dataset: files that are not measured yet are, then all are compared."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import msgspec

from lora_daemon import folder
from lora_daemon.catalog import Catalog
from lora_daemon.jobs import Jobs
from lora_daemon.picture_measures import PROCESS, Measured, measure
from lora_daemon.store import Change, Store, read_only
from shared import wire
from shared.errors import Code, LoraError
from shared.filenames import from_text, to_text

BATCH = 200  # pictures in a transaction, unless so many seconds have passed:
EVERY = 2.0
NO_CAPTIONS = ("readme", "license", "licence", "notes", "urls", "classes")  # text files, mostly

Progress = Callable[[int, int, str], None]


class HealthCheck:
    """The work behind CheckHealth. ``watchers`` hear of its progress. What it has measured when it
    is cancelled, or killed, stays: the next one goes on from there."""

    def __init__(self, store: Store, catalog: Catalog, jobs: Jobs, dataset: str, by: str) -> None:
        self._store = store
        self._catalog = catalog
        self._jobs = jobs
        self._dataset = dataset
        self._by = by
        self._batch: list[Measured] = []
        self._since = time.monotonic()
        self._names: dict[str, str] = {}  # content → name, of what is to be measured
        self._done = 0
        self.watchers: list[Progress] = []
        self.problems: list[tuple[str, str]] = []  # name, why it could not be measured

    async def run(self) -> None:
        """Raises LoraError: WRONG_STATE without the engine's libraries, WORKER_FAILED, STORAGE."""
        if importlib.util.find_spec("numpy") is None:
            raise LoraError(
                Code.WRONG_STATE,
                'Measuring pictures needs the engine: pip install "lora-tui[engine]".',
            )
        dataset = self._catalog.row(self._dataset)
        root = Path(from_text(dataset["path"]))
        left = "What was measured stays; check again to go on."
        title = f"health of {dataset['name']}"
        with self._jobs.open("check", title, cancelled=lambda: left) as job:
            await self._measure(job, root)
            self._tell(job, "comparing pictures")
            groups = await self._compare()
            orphans = await asyncio.to_thread(_orphans, root)
            await self._store.quiet()
            with self._store.change(self._by) as change:
                self._keep(change, groups, orphans)
            self._jobs.end(job, "done", f"{self._done} pictures measured")

    async def _measure(self, job: str, root: Path) -> None:
        rows = self._store.query(
            "SELECT content, min(name) AS name FROM items WHERE dataset = ? AND problem = ''"
            " AND looks IS NULL GROUP BY content ORDER BY name",
            (self._dataset,),
        )
        self._names = {row["content"]: row["name"] for row in rows}
        pictures = [
            (content, to_text(root / from_text(name))) for content, name in self._names.items()
        ]

        async def take(measured: Measured) -> None:
            self._batch.append(measured)
            self._done += 1
            self._tell(job, f"{self._done} of {len(pictures)} pictures")
            if len(self._batch) >= BATCH or time.monotonic() - self._since > EVERY:
                await self._store.quiet()
                self._commit()

        try:
            await measure(pictures, take)
        finally:
            self._commit()

    def _tell(self, job: str, message: str) -> None:
        total = len(self._names)
        self._jobs.progress(job, self._done, total, message)
        for progress in self.watchers:
            progress(self._done, total, message)

    def _commit(self) -> None:
        """Keep what was measured. Nobody waits for it: its event comes at the end."""
        batch, self._batch, self._since = self._batch, [], time.monotonic()
        if not batch:
            return
        self.problems += [(self._names[one.content], one.problem) for one in batch if one.problem]
        with self._store.change("daemon") as change:
            change.executemany(
                f"INSERT OR REPLACE INTO facts VALUES ({', '.join('?' * 5)})",
                [
                    (one.content, *msgspec.structs.astuple(one.facts))
                    for one in batch
                    if one.facts is not None
                ],
            )

    async def _compare(self) -> list[list[str]]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", PROCESS, "group",
            read_only(self._store.database), self._dataset,
            stdin=DEVNULL, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        try:
            answer, problem = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            lines = problem.decode(errors="replace").strip().splitlines() or ["it was ended"]
            raise LoraError(
                Code.WORKER_FAILED, f"The pictures could not be compared ({lines[-1]}). Try again."
            )
        return msgspec.json.decode(answer, type=list[list[str]])

    def _keep(self, change: Change, groups: list[list[str]], orphans: list[str]) -> None:
        change.execute("DELETE FROM near WHERE dataset = ?", (self._dataset,))
        change.executemany(
            "INSERT INTO near VALUES (?, ?, ?)",
            [
                (self._dataset, content, number)
                for number, group in enumerate(groups)
                for content in group
            ],
        )
        change.execute(
            "UPDATE checks SET at = ?, orphans = ? WHERE dataset = ?",
            (change.at, json.dumps(orphans, ensure_ascii=False), self._dataset),
        )
        change.emit(wire.DatasetChanged(dataset=self._catalog.dataset(self._dataset)))


def _orphans(root: Path) -> list[str]:
    """Caption files below ``root`` beside which no picture has their name.

    Raises LoraError(STORAGE).
    """
    found = folder.walk(root)
    stems = {str(PurePosixPath(name).with_suffix("")) for name in found.names}
    return [
        text
        for text in found.texts
        if str(PurePosixPath(text).with_suffix("")) not in stems
        and PurePosixPath(text).stem.lower() not in NO_CAPTIONS
    ]
