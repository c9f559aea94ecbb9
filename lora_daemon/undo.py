"""Undo and redo: what a person changed last goes back, one picture or thousands, and forth again.

Each change is an operation in the database with its revisions, so both outlive the daemon.
"""

from __future__ import annotations

import msgspec

from lora_daemon.bulk import Bulk
from lora_daemon.captions import LAST_STANDING, Captions, changed_since, new_op
from lora_daemon.catalog import Catalog, caption_of
from lora_daemon.framing import Framer
from lora_daemon.service import Context, Daemon
from shared import wire
from shared.errors import Code, LoraError


class Undo:
    """Answers UndoCaption."""

    def __init__(
        self, daemon: Daemon, catalog: Catalog, captions: Captions, bulk: Bulk, framer: Framer
    ) -> None:  # fmt: skip
        self._store = daemon.store
        self._catalog = catalog
        self._captions = captions
        self._bulk = bulk
        self._framer = framer

    async def undo(self, context: Context, request: wire.UndoCaption) -> wire.Undone:
        """Raises LoraError: WRONG_STATE when there is nothing, CONFLICT with data.current and
        data.wanted."""
        dataset = self._catalog.row(request.dataset)["id"]
        rows = self._store.query(_NEXT_REDO if request.redo else _NEXT_UNDO, (dataset, context.by))
        if not rows:
            verb = "do again" if request.redo else "take back"
            raise LoraError(Code.WRONG_STATE, f"There is nothing of yours to {verb} here.")
        op = rows[0]
        if self._framer.framed(op["op"]):
            return self._framer.take_back(context, op, redo=request.redo)
        revised = self._store.query("SELECT * FROM revisions WHERE op = ? LIMIT 2", (op["op"],))
        if len(revised) != 1:
            return await self._bulk.take_back(context, op, redo=request.redo)
        (after,) = revised
        (before,) = self._store.query(
            "SELECT * FROM revisions WHERE item = ? AND rev = ?", (after["item"], after["rev"] - 1)
        )
        here, there = (before, after) if request.redo else (after, before)
        row = self._catalog.item_row(dataset, after["item"])
        same = row["text"] == here["text"] and row["state"] == here["state"]
        if row["by"] != context.by or not same:
            with self._store.change(context.by) as change:  # the next undo goes on before it
                change.execute("UPDATE ops SET undone = 2 WHERE op = ?", (op["op"],))
            error = changed_since(row, f"Your {op['what']} was not touched: ")
            error.data["wanted"] = msgspec.to_builtins(caption_of(there))
            raise error
        with self._store.change(context.by) as change:
            new = new_op(change, dataset, op["what"], undoes=op["op"])
            change.execute(
                "UPDATE ops SET undone = ? WHERE op = ?", (0 if request.redo else 1, op["op"])
            )
            item = self._captions.put(
                change, new, row, there["text"], there["state"], there["source"]
            )
            undone = wire.Undone(item=item, what=op["what"])
            self._store.remember(change, context.key, undone)
        if row["text"] != there["text"] or row["pending"]:
            self._captions.writer.enqueue(item.id)
        return undone


_NEXT_UNDO = (
    "SELECT * FROM ops WHERE dataset = ? AND by = ? AND undoes IS NULL AND undone = 0"
    " ORDER BY op DESC LIMIT 1"
)
# Changes taken back since this user's last one that stands, the latest taken back first.
_NEXT_REDO = (
    "SELECT * FROM ops WHERE dataset = ?1 AND by = ?2 AND undoes IS NULL AND undone = 1"
    f" AND op > {LAST_STANDING} ORDER BY op LIMIT 1"
)
