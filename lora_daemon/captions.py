"""Captions: changed by one short transaction each, every revision kept, written through to files.

A caption is safe once its transaction is; the side-car beside the picture follows in the
background and is never the only place a text exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import Sequence

import msgspec

from lora_daemon import sidecars
from lora_daemon.candidates import put_candidate
from lora_daemon.catalog import Catalog, caption_of, item_of
from lora_daemon.jobs import Jobs
from lora_daemon.service import Context, Daemon
from lora_daemon.store import Change
from shared import wire
from shared.errors import Code, LoraError
from shared.filenames import from_text, to_text

_VERBS: dict[wire.CaptionState, str] = {
    "unreviewed": "reset",
    "accepted": "acceptance",
    "edited": "edit",
    "rejected": "rejection",
    "flagged": "flag",
}


class Captions:
    """Answers ChangeCaption."""

    def __init__(self, daemon: Daemon, catalog: Catalog, jobs: Jobs) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self.writer = Writer(daemon, catalog, jobs)

    async def change(self, context: Context, request: wire.ChangeCaption) -> wire.Item:
        """Raises LoraError: CONFLICT with data.current, NOT_FOUND, BAD_REQUEST, TOO_LARGE."""
        if request.text is None and request.state is None:
            raise LoraError(Code.BAD_REQUEST, "Give a text, a state, or both.")
        if len((request.text or "").encode()) > sidecars.MAX_CAPTION:
            raise LoraError(
                Code.TOO_LARGE,
                f"A caption has at most {sidecars.MAX_CAPTION} bytes; this one has "
                f"{len((request.text or '').encode())}. The text encoder reads 75 tokens.",
            )
        row = self._catalog.item_row(request.dataset, request.item)
        if row["rev"] != request.if_rev:
            raise changed_since(row)
        text = row["text"] if request.text is None else request.text
        edited = text != row["text"]
        state = request.state or ("edited" if edited else row["state"])
        if not edited and state == row["state"]:
            return item_of(row)
        what = f"{_VERBS['edited' if edited else state]} of {row['name']}"
        with self._store.change(context.by) as change:
            op = new_op(change, row["dataset"], what)
            source: wire.Source = "person" if edited else row["source"]
            item = self.put(change, op, row, text, state, source)
            self._store.remember(change, context.key, item)
        if edited:
            self.writer.enqueue(item.id)
        return item

    def describe(
        self, by: str, dataset: str, model: str, written: Sequence[tuple[str, str]],
        state: wire.CaptionState,
    ) -> int:  # fmt: skip
        """Take in a captioner's texts, as (item, text), wherever the caption is still empty; a
        rejected picture stays as it is. Where a caption is, the text is a candidate beside it.
        Returns how many are captions. Raises LoraError(STORAGE)."""
        taken = list[str]()
        with self._store.change(by) as change:
            for item, text in written:
                rows = self._store.query(
                    "SELECT * FROM items WHERE id = ? AND dataset = ?", (item, dataset)
                )
                if not rows:
                    continue
                put_candidate(change, rows[0], model, text)
                if rows[0]["text"].strip() or rows[0]["state"] == "rejected":
                    continue
                op = new_op(change, dataset, f"captioning of {rows[0]['name']}")
                self.put(change, op, rows[0], text, state, "captioner")
                taken.append(item)
        for item in taken:
            self.writer.enqueue(item)
        return len(taken)

    def put(
        self,
        change: Change,
        op: int,
        row: sqlite3.Row,
        text: str,
        state: wire.CaptionState,
        source: wire.Source,
    ) -> wire.Item:
        """A new revision of the caption in ``row``, and the events that tell of it."""
        pending = 1 if text != row["text"] else row["pending"]
        caption = wire.Caption(
            text=text, state=state, rev=row["rev"] + 1, source=source, by=change.by, at=change.at
        )
        put_revision(change, op, row["id"], caption)
        change.execute("UPDATE items SET pending = ? WHERE id = ?", (pending, row["id"]))
        change.emit(wire.CaptionChanged(dataset=row["dataset"], item=row["id"], caption=caption))
        change.emit(wire.DatasetChanged(dataset=self._catalog.dataset(row["dataset"])))
        return msgspec.structs.replace(item_of(row), caption=caption)


def new_op(change: Change, dataset: str, what: str, undoes: int | None = None) -> int:
    """Open what one undo takes back; ``undoes``: the operation that this takes back, or redoes.

    A change of its own ends what this person could do again.
    """
    if undoes is None:
        change.execute(
            "UPDATE ops SET undone = 2 WHERE dataset = ?1 AND by = ?2 AND undone = 1"
            f" AND op > {LAST_STANDING}", (dataset, change.by),
        )  # fmt: skip
    cursor = change.execute(
        "INSERT INTO ops (dataset, by, at, what, undoes) VALUES (?, ?, ?, ?, ?)",
        (dataset, change.by, change.at, what, undoes),
    )
    return int(cursor.lastrowid or 0)


# The last change of person ?2 in dataset ?1 that is not taken back.
LAST_STANDING = (
    "(SELECT coalesce(max(op), 0) FROM ops"
    " WHERE dataset = ?1 AND by = ?2 AND undoes IS NULL AND undone = 0)"
)


def put_revision(change: Change, op: int, item: str, caption: wire.Caption) -> None:
    """Make ``caption`` the item's present one and keep it among its revisions. ``op`` 0: import."""
    values = (caption.text, caption.state, caption.source, caption.by, caption.at)
    change.execute(
        "INSERT INTO revisions (text, state, source, by, at, item, rev, op)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, item, caption.rev, op),
    )
    change.execute(
        "UPDATE items SET text = ?, state = ?, source = ?, by = ?, at = ?, rev = ? WHERE id = ?",
        (*values, caption.rev, item),
    )


def changed_since(row: sqlite3.Row, prefix: str = "") -> LoraError:
    """CONFLICT with the present caption in ``data.current``."""
    current = caption_of(row)
    return LoraError(
        Code.CONFLICT,
        f"{prefix}{row['name']} was changed by {current.by} in the meantime (revision "
        f"{current.rev}). Look at that text, then decide.",
        data={"current": msgspec.to_builtins(current)},
    )


WRITE_AFTER = 0.2  # seconds: an edit that is edited again is written once
WRITE_BATCH = 16
WRITE_TOLD = 200  # captions; fewer are written before anybody would look
_TITLE = "captions to their files"
_Written = tuple[str, str, str, str]  # side-car, digest, text, item


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
        self._behind: dict[str, tuple[str, str]] = {}  # item → (dataset, why its file is behind)

    def start(self) -> None:
        """Begin with what an earlier daemon left pending."""
        self._task = asyncio.create_task(self._run(), name="side-car writer")
        rows = self._store.query("SELECT id FROM items WHERE pending <> 0")
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
        lines = []
        for dataset in sorted({dataset for dataset, _ in self._behind.values()}):
            reasons = [why for where, why in self._behind.values() if where == dataset]
            name = self._store.query("SELECT name FROM datasets WHERE id = ?", (dataset,))
            if name:
                lines.append(
                    f"{len(reasons)} caption(s) of {name[0][0]} are safe in the workspace but not "
                    f"in their files. {reasons[0]}"
                )
        return lines

    def forget(self, dataset: str) -> None:
        self._behind = {k: v for k, v in self._behind.items() if v[0] != dataset}

    async def _run(self) -> None:
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
        rows = self._store.query("SELECT * FROM items WHERE id = ? AND pending <> 0", (item,))
        if not rows:
            return None
        (row,) = rows
        picture = self._catalog.path(row)
        sidecar = row["sidecar"] or to_text(picture.stem + sidecars.SUFFIXES[0])
        texts = self._store.query("SELECT text FROM revisions WHERE item = ?", (item,))
        try:
            digest = await asyncio.to_thread(
                sidecars.write,
                picture.with_name(from_text(sidecar)),
                row["text"],
                row["written"],
                {text.strip() for (text,) in texts},
            )
        except sidecars.Differs:
            why = (
                f"The caption file of {row['name']} holds a text that is not known here and was "
                "left as it is: import the folder again to keep both."
            )
            self._behind[item] = (row["dataset"], why)
            return None
        except OSError as error:
            why = LoraError.storage("write the caption file of", row["name"], error).message
            self._behind[item] = (row["dataset"], why)
            return None
        self._behind.pop(item, None)
        return sidecar, digest, row["text"], item

    def _record(self, done: list[_Written]) -> None:
        """What a kill before this leaves is healed: the file then holds a text that is known."""
        with self._store.change("daemon") as change:
            change.executemany(
                "UPDATE items SET sidecar = ?, written = ?, pending = (text <> ?) WHERE id = ?",
                [tuple(values) for values in done],
            )
