"""Edits of many captions: worked out beside, looked at, then made in one transaction.

What is to change is a database of its own (bulk_process.py); taking an edit back makes such a one
too. So what was shown is what is done, whatever is large stays on the disk, and both end in the
same few statements.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import sqlite3
import sys
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lora_daemon import bulk_process, sidecars
from lora_daemon.bulk_changes import Changes
from lora_daemon.catalog import MOST_LISTED, PAGE_BYTES, Catalog, caption_of
from lora_daemon.service import Context, Daemon
from lora_daemon.store import Change, explained, read_only
from lora_daemon.views import Views
from lora_daemon.writing import Writer
from shared import edits, wire
from shared.errors import Code, LoraError

KEPT = 8  # previews; of 100 000 captions each takes some 40 MB in the cache
FEW = 2_000  # captions that are worked out in a thread, which is sooner ready than a process
STUCK = 10.0  # seconds on a few captions until a regular expression is given up


@dataclass
class Preview:
    """An edit that was worked out."""

    dataset: str
    what: str
    changes: Path
    total: int


class Bulk:
    """Answers PreviewEdit, ListDifferences and ApplyEdit."""

    def __init__(self, daemon: Daemon, catalog: Catalog, views: Views, writer: Writer) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self._views = views
        self._writer = writer
        self._changes = Changes(self._store, catalog)
        self._folder = daemon.workspace.cache / "edits"
        self._previews: OrderedDict[str, Preview] = OrderedDict()

    def start(self) -> None:
        """Previews do not outlive the daemon that made them."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # ── before ──────────────────────────────────────────────────────────────────────────────────

    async def preview(self, context: Context, request: wire.PreviewEdit) -> wire.EditPreview:
        """Raises LoraError: NOT_FOUND, BAD_REQUEST (an EditError or FilterError, or a regular
        expression that takes for ever), STORAGE."""
        if not request.edits and request.state is None:
            raise LoraError(Code.BAD_REQUEST, "Give edits, a state, or both.")
        edits.editor(request.edits)
        dataset = self._catalog.row(request.dataset)["id"]
        rows = await self.rows(dataset, request)
        target = self._target()
        question = bulk_process.Question(
            database=read_only(self._store.database),
            target=str(target),
            rows=rows.tolist(),
            edits=request.edits,
            state=request.state,
            longest=sidecars.MAX_CAPTION,
        )
        try:
            counts = await _work_out(question, context)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        words = [edits.told(edit) for edit in request.edits]
        words += [f"set {request.state}"] if request.state else []
        found = Preview(dataset, ", ".join(words), target, counts.changed)
        self._previews[target.stem] = found
        while len(self._previews) > KEPT:
            self._previews.popitem(last=False)[1].changes.unlink(missing_ok=True)
        return wire.EditPreview(
            preview=target.stem,
            what=found.what,
            changed=counts.changed,
            unchanged=counts.unchanged,
            too_long=counts.too_long,
        )

    async def differences(
        self, context: Context, request: wire.ListDifferences
    ) -> wire.Differences:
        """A page; shorter than asked where captions are very long. Raises LoraError(NOT_FOUND)."""
        if request.offset < 0 or request.limit < 0:
            raise LoraError(Code.BAD_REQUEST, "offset and limit count captions: 0 or more.")
        found = self._preview(request.preview)
        return await asyncio.to_thread(
            _page, found, self._store.database, request.offset, min(request.limit, MOST_LISTED)
        )

    async def rows(
        self, dataset: str, request: wire.PreviewEdit | wire.FramePictures
    ) -> array[int]:  # fmt: skip
        """The places in the table ``items`` of the pictures that a request means. Raises
        LoraError(NOT_FOUND)."""
        if request.places:
            return self._views.chosen(dataset, request.view, request.places)
        if not request.items:
            return await self._views.places(dataset, request.filter, request.view)
        wanted = json.dumps(request.items)
        found = self._store.query(
            "WITH wanted AS (SELECT value FROM json_each(?2))"
            " SELECT rowid AS place, id, name FROM items"
            " WHERE dataset = ?1 AND (id IN wanted OR name IN wanted) ORDER BY name",
            (dataset, wanted),
        )
        known = {row["id"] for row in found} | {row["name"] for row in found}
        if missing := [item for item in request.items if item not in known]:
            raise LoraError(Code.NOT_FOUND, f"There is no picture {missing[0]!r} in this dataset.")
        return array("q", (row["place"] for row in found))

    def _preview(self, name: str) -> Preview:
        found = self._previews.get(name)
        if found is None or not found.changes.exists():
            raise LoraError(
                Code.NOT_FOUND,
                "This preview is forgotten: others came after it, or the daemon is a new one. "
                "Nothing was changed. Preview the edit again.",
            )
        return found

    def _target(self) -> Path:
        """Where the next changes go."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LoraError.storage("make the folder", self._folder, error) from None
        return self._folder / f"{secrets.token_hex(8)}.sqlite3"

    # ── now ─────────────────────────────────────────────────────────────────────────────────────

    async def apply(self, context: Context, request: wire.ApplyEdit) -> wire.Edited:
        """Raises LoraError: NOT_FOUND for a forgotten preview or dataset, STORAGE."""
        found = self._preview(request.preview)

        def work(change: Change) -> tuple[wire.Edited, list[str]]:
            self._catalog.row(found.dataset)
            edited = self._changes.make(change, found.dataset, found.what, found.total)
            self._store.remember(change, context.key, edited)
            return edited, self._changes.texts()

        edited, texts = await self._store.aside(context.by, work, found.changes)
        self._writer.enqueue(*texts)
        return edited

    async def take_back(self, context: Context, op: sqlite3.Row, *, redo: bool) -> wire.Undone:
        """Undo or redo an operation on many captions. Raises LoraError: CONFLICT, STORAGE."""
        target = self._target()
        database = read_only(self._store.database)

        def work(change: Change) -> tuple[wire.Undone, list[str]] | None:
            edited = self._changes.make(change, op["dataset"], op["what"], total, undoes=op["op"])
            done = 0 if redo else 1
            change.execute(
                "UPDATE ops SET undone = ? WHERE op = ?", (done if edited.changed else 2, op["op"])
            )
            if not edited.changed:
                conflicts.append(edited)
                return None
            (first,) = self._store.query("SELECT item FROM aside.changes ORDER BY place LIMIT 1")
            answer = wire.Undone(
                item=self._catalog.item(op["dataset"], first["item"]),
                what=op["what"],
                changed=edited.changed,
                conflicts=edited.conflicts,
                kept=edited.kept,
            )
            self._store.remember(change, context.key, answer)
            return answer, self._changes.texts()

        conflicts = list[wire.Edited]()
        try:
            total = await asyncio.to_thread(_reversed, str(target), database, op, redo)
            undone = await self._store.aside(context.by, work, target)
        except sqlite3.Error as error:
            raise explained(error, target) from None
        finally:
            target.unlink(missing_ok=True)
        if undone is None:
            raise _nothing_left(op["what"], conflicts[0])
        answer, texts = undone
        self._writer.enqueue(*texts)
        return answer


def _page(found: Preview, database: Path, offset: int, limit: int) -> wire.Differences:
    with contextlib.closing(
        sqlite3.connect(found.changes.absolute().as_uri() + "?mode=ro", uri=True)
    ) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("ATTACH ? AS here", (read_only(database),))
        (conflicts,) = connection.execute(
            "SELECT count(*) FROM changes c LEFT JOIN here.items i ON i.rowid = c.row"
            " WHERE i.rev IS NOT c.rev"
        ).fetchone()
        rows = connection.execute(
            "SELECT c.place, c.item, c.rev AS seen, c.text AS old_text, c.state AS old_state,"
            " c.new_text, c.new_state, c.name AS called, i.* FROM changes c"
            " LEFT JOIN here.items i ON i.rowid = c.row ORDER BY c.place LIMIT ? OFFSET ?",
            (limit, offset),
        )
        page, size = list[wire.Difference](), 0
        for row in rows:
            size += (len(row["old_text"]) + len(row["new_text"])) * 4 + 300
            if page and size > PAGE_BYTES:
                break
            page.append(
                wire.Difference(
                    item=row["item"],
                    name=row["called"],
                    rev=row["seen"],
                    text=row["old_text"],
                    state=row["old_state"],
                    new_text=row["new_text"],
                    new_state=row["new_state"],
                    current=caption_of(row) if row["rev"] not in (None, row["seen"]) else None,
                )
            )
    return wire.Differences(differences=page, total=found.total, conflicts=conflicts)


def _reversed(target: str, database: str, op: sqlite3.Row, redo: bool) -> int:
    """The changes that take ``op`` back, or make it again; how many captions it had.

    A caption that somebody else has changed since gets a revision that it never had, so that it is
    told as one that changed meanwhile.
    """
    here, there = ("b", "a") if redo else ("a", "b")
    with contextlib.closing(bulk_process.opened(target, database)) as connection:
        connection.execute("BEGIN")
        cursor = connection.execute(
            "INSERT INTO changes (row, item, name, rev, text, state, new_text, new_state, source)"
            f" SELECT i.rowid, i.id, i.name,"
            f" CASE WHEN i.by = ? AND i.text = {here}.text AND i.state = {here}.state"
            "  THEN i.rev ELSE 0 END,"
            f" i.text, i.state, {there}.text, {there}.state, {there}.source"
            " FROM here.revisions a"
            " JOIN here.revisions b ON b.item = a.item AND b.rev = a.rev - 1"
            " JOIN here.items i ON i.id = a.item WHERE a.op = ? ORDER BY i.rowid",
            (op["by"], op["op"]),
        )
        connection.execute("COMMIT")
        return cursor.rowcount


def _nothing_left(what: str, edited: wire.Edited) -> LoraError:
    if not edited.kept:
        return LoraError(
            Code.WRONG_STATE, f"Your {what} was of pictures that are no longer in the dataset."
        )
    first = edited.kept[0]
    wanted = msgspec.structs.replace(first.current, text=first.text, state=first.state)
    return LoraError(
        Code.CONFLICT,
        f"Your {what} was not touched: each of its captions was changed by somebody else since.",
        data={
            "current": msgspec.to_builtins(first.current),
            "wanted": msgspec.to_builtins(wanted),
            "kept": msgspec.to_builtins(edited.kept),
        },
    )


async def _work_out(question: bulk_process.Question, context: Context) -> bulk_process.Counts:
    regex = any(isinstance(edit, edits.ReplaceRegex) for edit in question.edits)
    if regex or len(question.rows) > FEW:
        return await _in_process(question, context)
    try:
        return await asyncio.to_thread(bulk_process.answer, question, lambda _: None)
    except sqlite3.Error as error:
        raise explained(error, Path(question.target)) from None


async def _in_process(question: bulk_process.Question, context: Context) -> bulk_process.Counts:
    total = len(question.rows)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", bulk_process.__name__,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        process.stdin.write(msgspec.json.encode(question))
        process.stdin.write_eof()
        last = b""
        while True:
            async with asyncio.timeout(STUCK):
                line = await process.stdout.readline()
            if not line:
                break
            last = line
            if line.strip().isdigit():
                context.progress(int(line), total, f"{int(line)} of {total} captions")
        problem = await process.stderr.read()
        status = await process.wait()
    except TimeoutError:
        raise LoraError(
            Code.BAD_REQUEST,
            f"The edit was given up after {STUCK:.0f} seconds on a few captions. One repeat inside "
            "another, such as (a+)+, takes for ever on some: make the regular expression simpler.",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status and b"disk" in problem.splitlines()[-1]:
        raise LoraError(
            Code.STORAGE,
            f"The edit could not be worked out in {Path(question.target).parent}: the disk is full "
            "or fails. Nothing was changed. Free some space and try again.",
            retryable=True,
        )
    if status:
        raise RuntimeError(f"the edit failed: {problem.decode(errors='replace')}")
    return msgspec.json.decode(last, type=bulk_process.Counts)
