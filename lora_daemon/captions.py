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
from lora_daemon.catalog import Catalog, caption_of, item_of
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
    """Answers ChangeCaption and UndoCaption."""

    def __init__(self, daemon: Daemon, catalog: Catalog) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self.writer = Writer(daemon, catalog)

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
            raise _conflict(row)
        text = row["text"] if request.text is None else request.text
        edited = text != row["text"]
        state = request.state or ("edited" if edited else row["state"])
        if not edited and state == row["state"]:
            return item_of(row)
        what = f"{_VERBS['edited' if edited else state]} of {row['name']}"
        with self._store.change(context.by) as change:
            op = _op(change, row["dataset"], what)
            source: wire.Source = "person" if edited else row["source"]
            item = self._put(change, op, row, text, state, source)
            self._store.remember(change, context.key, item)
        if edited:
            self.writer.enqueue(item.id)
        return item

    def describe(
        self, by: str, dataset: str, written: Sequence[tuple[str, str]], state: wire.CaptionState
    ) -> int:
        """Take in a captioner's texts, as (item, text), wherever the caption is still empty; a
        rejected picture stays as it is. Returns how many there were. Raises LoraError(STORAGE)."""
        taken = list[str]()
        with self._store.change(by) as change:
            for item, text in written:
                rows = self._store.query(
                    "SELECT * FROM items WHERE id = ? AND dataset = ?", (item, dataset)
                )
                if not rows or rows[0]["text"].strip() or rows[0]["state"] == "rejected":
                    continue
                op = _op(change, dataset, f"captioning of {rows[0]['name']}")
                self._put(change, op, rows[0], text, state, "captioner")
                taken.append(item)
        for item in taken:
            self.writer.enqueue(item)
        return len(taken)

    async def undo(self, context: Context, request: wire.UndoCaption) -> wire.Undone:
        """Raises LoraError: WRONG_STATE when there is nothing, CONFLICT with data.current."""
        dataset = self._catalog.row(request.dataset)["id"]
        rows = self._store.query(_NEXT_REDO if request.redo else _NEXT_UNDO, (dataset, context.by))
        if not rows:
            verb = "do again" if request.redo else "take back"
            raise LoraError(Code.WRONG_STATE, f"There is nothing of yours to {verb} here.")
        op = rows[0]
        (after,) = self._store.query("SELECT * FROM revisions WHERE op = ?", (op["op"],))
        (before,) = self._store.query(
            "SELECT * FROM revisions WHERE item = ? AND rev = ?", (after["item"], after["rev"] - 1)
        )
        here, there = (before, after) if request.redo else (after, before)
        row = self._catalog.item_row(dataset, after["item"])
        same = row["text"] == here["text"] and row["state"] == here["state"]
        if row["by"] != context.by or not same:
            with self._store.change(context.by) as change:  # the next undo goes on before it
                change.execute("UPDATE ops SET undone = 2 WHERE op = ?", (op["op"],))
            raise _conflict(row, f"Your {op['what']} was not touched: ")
        with self._store.change(context.by) as change:
            new = _op(change, dataset, op["what"], undoes=op["op"])
            change.execute(
                "UPDATE ops SET undone = ? WHERE op = ?", (0 if request.redo else 1, op["op"])
            )
            item = self._put(change, new, row, there["text"], there["state"], there["source"])
            undone = wire.Undone(item=item, what=op["what"])
            self._store.remember(change, context.key, undone)
        if row["text"] != there["text"]:
            self.writer.enqueue(item.id)
        return undone

    def _put(
        self,
        change: Change,
        op: int,
        row: sqlite3.Row,
        text: str,
        state: wire.CaptionState,
        source: wire.Source,
    ) -> wire.Item:
        pending = 1 if text != row["text"] else row["pending"]
        caption = wire.Caption(
            text=text, state=state, rev=row["rev"] + 1, source=source, by=change.by, at=change.at
        )
        put_revision(change, op, row["id"], caption)
        change.execute("UPDATE items SET pending = ? WHERE id = ?", (pending, row["id"]))
        change.emit(wire.CaptionChanged(dataset=row["dataset"], item=row["id"], caption=caption))
        change.emit(wire.DatasetChanged(dataset=self._catalog.dataset(row["dataset"])))
        return msgspec.structs.replace(item_of(row), caption=caption)


_NEXT_UNDO = (
    "SELECT * FROM ops WHERE dataset = ? AND by = ? AND undoes IS NULL AND undone = 0"
    " ORDER BY op DESC LIMIT 1"
)
# Changes taken back since this user's last one that stands, the latest taken back first.
_NEXT_REDO = (
    "SELECT * FROM ops WHERE dataset = ?1 AND by = ?2 AND undoes IS NULL AND undone = 1"
    " AND op > (SELECT coalesce(max(op), 0) FROM ops"
    "           WHERE dataset = ?1 AND by = ?2 AND undoes IS NULL AND undone = 0)"
    " ORDER BY op LIMIT 1"
)


def _op(change: Change, dataset: str, what: str, undoes: int | None = None) -> int:
    cursor = change.execute(
        "INSERT INTO ops (dataset, by, at, what, undoes) VALUES (?, ?, ?, ?, ?)",
        (dataset, change.by, change.at, what, undoes),
    )
    return int(cursor.lastrowid or 0)


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


def _conflict(row: sqlite3.Row, prefix: str = "") -> LoraError:
    current = caption_of(row)
    return LoraError(
        Code.CONFLICT,
        f"{prefix}{row['name']} was changed by {current.by} in the meantime (revision "
        f"{current.rev}). Look at that text, then decide.",
        data={"current": msgspec.to_builtins(current)},
    )


WRITE_AFTER = 0.2  # seconds: an edit that is edited again is written once
WRITE_BATCH = 16
_Written = tuple[str, str, str, str]  # side-car, digest, text, item


class Writer:
    """Writes changed captions to their side-cars, one at a time, behind the requests.

    A text is only ever written over one that the database keeps. What cannot be written stays
    pending, is tried again at its next change and at the next start, and is told as a warning.
    """

    def __init__(self, daemon: Daemon, catalog: Catalog) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self._queue: dict[str, None] = {}  # items, in order
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._behind: dict[str, tuple[str, str]] = {}  # item → (dataset, why its file is behind)

    def start(self) -> None:
        """Begin with what an earlier daemon left pending."""
        self._task = asyncio.create_task(self._run(), name="side-car writer")
        for (item,) in self._store.query("SELECT id FROM items WHERE pending <> 0"):
            self.enqueue(item)

    def enqueue(self, item: str) -> None:
        self._queue[item] = None
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
            while self._queue:
                batch = list(itertools.islice(self._queue, WRITE_BATCH))
                for item in batch:
                    del self._queue[item]
                with contextlib.suppress(LoraError):  # the database fails: they stay pending
                    self._record([done for item in batch if (done := await self._write(item))])
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
