"""Captions: changed by one short transaction each, every revision kept, written through to files.

A caption is safe once its transaction is; the side-car beside the picture follows in the
background and is never the only place a text exists.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from lora_daemon import sidecars
from lora_daemon.candidates import put_candidate
from lora_daemon.catalog import Catalog, caption_of, item_of
from lora_daemon.outside import BOTH
from lora_daemon.revisions import put_revision
from lora_daemon.service import Context, Daemon
from lora_daemon.store import Change
from lora_daemon.writing import Writer
from shared import wire
from shared.errors import Code, LoraError

_VERBS: dict[wire.CaptionState, str] = {
    "unreviewed": "reset",
    "accepted": "acceptance",
    "edited": "edit",
    "rejected": "rejection",
    "flagged": "flag",
}


class Captions:
    """Answers ChangeCaption."""

    def __init__(self, daemon: Daemon, catalog: Catalog, writer: Writer) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self.writer = writer

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
        chosen = row["pending"] == BOTH  # against what is in the file
        if not edited and state == row["state"] and not chosen:
            return item_of(row)
        what = f"{_VERBS['edited' if edited else state]} of {row['name']}"
        with self._store.change(context.by) as change:
            op = new_op(change, row["dataset"], what)
            source: wire.Source = "person" if edited else row["source"]
            item = self.put(change, op, row, text, state, source)
            self._store.remember(change, context.key, item)
        if edited or chosen:
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
        pending = 1 if text != row["text"] or row["pending"] else 0
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


def changed_since(row: sqlite3.Row, prefix: str = "") -> LoraError:
    """CONFLICT with the present caption in ``data.current``."""
    current = caption_of(row)
    return LoraError(
        Code.CONFLICT,
        f"{prefix}{row['name']} was changed by {current.by} in the meantime (revision "
        f"{current.rev}). Look at that text, then decide.",
        data={"current": msgspec.to_builtins(current)},
    )
