"""One import of a folder: read in threads, committed in batches, reported as it goes."""

from __future__ import annotations

import asyncio
import functools
import itertools
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import msgspec

from lora_daemon import folder, newer, unpacking
from lora_daemon.caption_tables import Tables
from lora_daemon.catalog import Catalog
from lora_daemon.folder import Look
from lora_daemon.jobs import Jobs
from lora_daemon.newer import GONE
from lora_daemon.outside import follow
from lora_daemon.pictures import Examined
from lora_daemon.revisions import columns, keep_revision
from lora_daemon.service import Daemon
from lora_daemon.sidecars import TABLE
from lora_daemon.stoppable import Told, stoppable
from lora_daemon.store import Change
from lora_daemon.writing import Writer
from shared import wire
from shared.filenames import to_text

THREADS = 2
CHUNK = 25  # pictures a thread reads before it reports
AHEAD = 2 * THREADS  # chunks under way
BATCH = 200  # pictures in a transaction, unless a second has passed
TOLD = 200  # problems and warnings in the answer

Progress = Callable[[int, int, str], None]


class Import:
    """The work behind ImportDataset. ``watchers`` hear of its progress."""

    def __init__(
        self,
        daemon: Daemon,
        catalog: Catalog,
        jobs: Jobs,
        writer: Writer,
        *,
        source: Path,  # what is unpacked into ``root``, if that is another folder
        root: Path,
        dataset: sqlite3.Row | str,  # the row if it is known, else the name of a new one
        by: str,
        columns: unpacking.Columns,
        table: str = "",  # path of one more table of captions
        origin: str = "",  # what the source is called, if not by its path
    ) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self._jobs = jobs
        self._writer = writer
        self.root = root
        self.name = dataset if isinstance(dataset, str) else str(dataset["name"])
        self._id = "" if isinstance(dataset, str) else str(dataset["id"])
        self._by = by
        self._source = source
        self._columns = columns
        self._table = table
        self._origin = origin
        self._tables = Tables()
        self.watchers: list[Progress] = []
        self._known: dict[str, sqlite3.Row] = {}
        self._moved: dict[str, sqlite3.Row] = {}  # content → the row of a picture that is gone
        self._renamed: set[str] = set()  # items that were found again under another name
        self._added = self._updated = 0
        self._problems: list[tuple[str, str]] = []
        self._warnings: list[str] = []

    async def run(self) -> wire.Imported:
        """Raises LoraError: INVALID_FILE for a folder without pictures, STORAGE."""
        again = "What was read stays; import again to go on."
        with self._jobs.open("import", f"import of {self.name}", cancelled=lambda: again) as job:
            answer = await self._run(job)
            self._jobs.end(job, "done", f"{answer.added} new, {answer.updated} changed")
        return answer

    async def _run(self, job: str) -> wire.Imported:
        if self._source != self.root:
            await self._unpack(job)
        found = await asyncio.to_thread(folder.walk, self.root)
        if not found.names:
            raise folder.nothing_found(self.root, found)
        for where, why in found.unread:
            self._warn(f"The folder {where} could not be read ({why}); nothing in it was changed.")
        self._warn_of_collisions(found.names)
        used = [*found.tables, *([self._table] if self._table else [])]
        stamps = await asyncio.to_thread(newer.tables_now, self.root, used)
        await asyncio.to_thread(
            self._tables.read, self.root, found.tables, found.names,
            column=self._columns.text, extra=self._table,
        )  # fmt: skip
        self._warnings += self._tables.warnings
        if self._id:
            rows = self._store.query(f"SELECT {_COLUMNS} FROM items WHERE dataset = ?", (self._id,))
            self._known = {row["name"]: row for row in rows}
        here = set(found.names)
        gone = await asyncio.to_thread(
            folder.gone, self.root, [name for name in self._known if name not in here]
        )
        self._moved = {self._known[n]["content"]: self._known[n] for n in gone}
        self._moved.pop("", None)
        await self._read(job, found.names)
        self._remove(gone)
        with self._store.change(self._by) as change:
            newer.keep_tables(change, self._id, stamps)
        dataset = self._catalog.dataset(self._id)
        if dataset.empty:
            have = "picture has" if dataset.empty == 1 else "pictures have"
            self._warn(f"{dataset.empty} {have} no caption.")
        return wire.Imported(
            dataset=dataset,
            added=self._added,
            updated=self._updated,
            problems=self._problems[:TOLD],
            warnings=self._told(),
        )

    async def _unpack(self, job: str) -> None:
        def work(told: Told) -> list[str]:
            return unpacking.unpack(self._source, self.root, self._columns, told, self._origin)

        tell = functools.partial(self._tell, job)
        self._warnings += await stoppable(work, tell)

    def _tell(self, job: str, done: int, total: int, message: str) -> None:
        self._jobs.progress(job, done, total, message)
        for progress in self.watchers:
            progress(done, total, message)

    async def _read(self, job: str, names: list[str]) -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(THREADS, "import")
        try:
            chunks = _chunks(names)
            running = [
                loop.run_in_executor(pool, self._look, chunk)
                for chunk in itertools.islice(chunks, AHEAD)
            ]
            done, batch, since = 0, list[Look](), time.monotonic()
            while running:
                looks = await running.pop(0)
                if chunk := next(chunks, None):
                    running.append(loop.run_in_executor(pool, self._look, chunk))
                batch += looks
                done += len(looks)
                if len(batch) >= BATCH or not running or time.monotonic() - since > 1:
                    await self._store.quiet()
                    self._commit(batch)
                    batch, since = [], time.monotonic()
                self._tell(job, done, len(names), f"{done} of {len(names)} pictures")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _look(self, names: list[str]) -> list[Look]:
        looks = []
        for name in names:
            row = self._known.get(name)
            known = folder.Known(row["size"], row["mtime"], row["problem"]) if row else None
            look = folder.look(self.root, name, known)
            sidecar = self._tables.fill(name, look.sidecar)
            looks.append(msgspec.structs.replace(look, sidecar=sidecar))
        return looks

    def _commit(self, looks: list[Look]) -> None:
        with self._store.change(self._by) as change:
            if not self._id:
                self._id = f"d{secrets.token_hex(4)}"
                change.execute(
                    "INSERT INTO datasets (id, name, path, created) VALUES (?, ?, ?, ?)",
                    (self._id, self.name, to_text(self.root), change.at),
                )
            for look in looks:
                row = self._known.get(look.name) or self._take_moved(change, look)
                if row is None:
                    self._insert(change, look)
                else:
                    self._update(change, row, look)
                if look.sidecar.warning:
                    self._warn(f"{_beside(look.name, look.sidecar.name)} {look.sidecar.warning}.")
            change.emit(wire.DatasetChanged(dataset=self._catalog.dataset(self._id)))

    def _take_moved(self, change: Change, look: Look) -> sqlite3.Row | None:
        """A picture that was renamed keeps its caption."""
        content = look.examined.content if look.examined else ""
        row = self._moved.pop(content, None) if content else None
        if row is not None:
            change.execute(
                "UPDATE items SET name = ?, sidecar = '', written = '' WHERE id = ?",
                (look.name, row["id"]),
            )
            self._renamed.add(row["id"])
        return row

    def _insert(self, change: Change, look: Look) -> None:
        item, seen, sidecar = secrets.token_hex(8), look.examined or Examined(), look.sidecar
        caption = wire.Caption(
            text=sidecar.text, state="unreviewed", rev=1, source="file", by="import", at=change.at
        )
        change.execute(
            "INSERT INTO items (id, dataset, name, content, width, height, size, mtime, problem,"
            " text, state, source, by, at, rev, sidecar, written)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                item, self._id, look.name, seen.content, seen.width, seen.height, seen.size,
                seen.mtime, seen.problem, *columns(caption), sidecar.name, sidecar.digest,
            ),
        )  # fmt: skip
        keep_revision(change, 0, item, caption)
        self._added += 1
        if seen.problem:
            self._problems.append((look.name, seen.problem))

    def _update(self, change: Change, row: sqlite3.Row, look: Look) -> None:
        seen = look.examined
        updated = row["id"] in self._renamed
        if seen is not None:
            newer.take(change, row["id"], seen)
            updated |= (seen.content, seen.problem) != (row["content"], row["problem"])
            if seen.problem:
                self._problems.append((look.name, seen.problem))
        updated |= self._update_caption(change, row, look)
        self._updated += updated

    def _update_caption(self, change: Change, row: sqlite3.Row, look: Look) -> bool:
        """Take over a side-car that was changed outside."""
        known = "" if row["id"] in self._renamed else row["written"]
        outcome = follow(self._store, self._catalog, change, row["id"], known, look.sidecar)
        if outcome == "gone" and known and not known.startswith(TABLE):
            self._warn(f"The caption file of {look.name} is gone; its caption is kept.")
        if outcome == "both":
            self._warn(
                f"{_beside(look.name, look.sidecar.name)} was changed outside, and its caption was "
                "changed here: the one here stays, the file's is among its candidates."
            )
        return outcome in ("taken", "both")

    def _remove(self, gone: list[str]) -> None:
        """Forget pictures that are gone, but never a caption that a person worked on."""
        ids = [self._known[name]["id"] for name in gone]
        left = [
            row
            for item in ids
            if item not in self._renamed
            for row in self._store.query("SELECT * FROM items WHERE id = ?", (item,))
        ]
        worked = [row for row in left if row["source"] != "file" or row["state"] != "unreviewed"]
        plain = [row for row in left if row not in worked]
        if not left:
            return
        with self._store.change(self._by) as change:
            change.executemany("DELETE FROM items WHERE id = ?", [(row["id"],) for row in plain])
            change.executemany(
                "UPDATE items SET problem = ? WHERE id = ?",
                [(GONE, row["id"]) for row in worked],
            )
            change.emit(wire.DatasetChanged(dataset=self._catalog.dataset(self._id)))
        if plain:
            are = "picture is" if len(plain) == 1 else "pictures are"
            self._warn(
                f"{len(plain)} {are} gone from the folder and taken out: "
                f"{', '.join(row['name'] for row in plain[:5])}{', …' if plain[5:] else ''}"
            )
        self._problems += [(row["name"], GONE) for row in worked]

    def _warn_of_collisions(self, names: list[str]) -> None:
        stems = Counter(name.rpartition(".")[0] for name in names)
        for stem in [stem for stem, count in stems.items() if count > 1][:10]:
            self._warn(
                f"Several pictures are called {stem}: they share one caption file, which follows "
                "only the one edited first."
            )
        folded: dict[str, list[str]] = {}
        for stem in stems:
            folded.setdefault(stem.casefold(), []).append(stem)
        for alike in [alike for alike in folded.values() if alike[1:]][:10]:
            self._warn(
                f"{' and '.join(alike)} differ in case only: macOS and Windows take them for one "
                "name. An export makes them differ."
            )

    def _warn(self, text: str) -> None:
        self._warnings.append(text)

    def _told(self) -> list[str]:
        more = len(self._warnings) - TOLD
        return self._warnings[:TOLD] + ([f"… and {more} more."] if more > 0 else [])


_COLUMNS = "id, name, content, size, mtime, problem, written"


def _chunks(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]


def _beside(picture: str, sidecar: str) -> str:
    if not sidecar:
        return f"What the table of captions has for {picture}"
    return str(PurePosixPath(picture).with_name(sidecar))
