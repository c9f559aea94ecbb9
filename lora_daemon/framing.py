"""Pictures turned and cropped: one operation for one picture or thousands, taken back like any."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

import msgspec

from lora_daemon.bulk import Bulk
from lora_daemon.captions import new_op
from lora_daemon.catalog import Catalog
from lora_daemon.service import Context, Daemon
from lora_daemon.store import Change
from shared import framing, wire
from shared.errors import Code, LoraError
from shared.framing import Framing

_Changed = tuple[str, str, str]  # item, before, after


class Framer:
    """Answers FramePictures, and takes its operations back."""

    def __init__(self, daemon: Daemon, catalog: Catalog, bulk: Bulk) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self._bulk = bulk

    async def frame(self, context: Context, request: wire.FramePictures) -> wire.Framed:
        """Raises LoraError: NOT_FOUND, BAD_REQUEST (a crop that is not within a picture), CONFLICT
        with data.current, STORAGE."""
        if request.rotate % 90:
            raise LoraError(
                Code.BAD_REQUEST, f"Pictures are turned by 90, 180 or 270 degrees; not by "
                f"{request.rotate}.",
            )  # fmt: skip
        dataset = self._catalog.row(request.dataset)["id"]
        places = await self._bulk.rows(dataset, request)
        rows = self._store.query(
            "SELECT * FROM items WHERE rowid IN (SELECT value FROM json_each(?)) AND width > 0"
            " ORDER BY name", (json.dumps(places.tolist()),),
        )  # fmt: skip
        changed = list[_Changed]()
        for row in rows:
            before = framing.read(row["framing"])
            if request.seen is not None and before != request.seen:
                raise LoraError(
                    Code.CONFLICT,
                    f"{row['name']} was turned or cropped by somebody else in the meantime. Look "
                    "at it, then decide.",
                    data={"current": msgspec.to_builtins(before)},
                )
            after = _after(before, request, row)
            if after != before:
                changed.append((row["id"], row["framing"], framing.stored(after)))
        names = {row["id"]: row["name"] for row in rows}
        what = _told(request, len(changed), names[changed[0][0]] if changed else "")
        with self._store.change(context.by) as change:
            if changed:
                self._put(change, dataset, what, changed)
            framed = wire.Framed(what=what, changed=len(changed))
            self._store.remember(change, context.key, framed)
        return framed

    def framed(self, op: int) -> bool:
        """Whether an operation turned or cropped something."""
        return bool(self._store.query("SELECT 1 FROM reframed WHERE op = ? LIMIT 1", (op,)))

    def take_back(self, context: Context, op: sqlite3.Row, *, redo: bool) -> wire.Undone:
        """Undo or redo such an operation; pictures framed otherwise since are left alone. Raises
        LoraError: CONFLICT if that is all of them, STORAGE."""
        here, there = ("before", "framing") if redo else ("framing", "before")
        done = self._store.query(
            f"SELECT r.item, r.{here} AS here, r.{there} AS there, i.framing, i.name"
            " FROM reframed r JOIN items i ON i.id = r.item WHERE r.op = ? ORDER BY i.name",
            (op["op"],),
        )
        changed = [(row["item"], row["here"], row["there"]) for row in done
                   if row["framing"] == row["here"]]  # fmt: skip
        with self._store.change(context.by) as change:
            mark = (0 if redo else 1) if changed else 2
            change.execute("UPDATE ops SET undone = ? WHERE op = ?", (mark, op["op"]))
            if changed:
                self._put(change, op["dataset"], op["what"], changed, undoes=op["op"])
                undone = wire.Undone(
                    item=self._catalog.item(op["dataset"], changed[0][0]), what=op["what"],
                    changed=len(changed), conflicts=len(done) - len(changed),
                )  # fmt: skip
                self._store.remember(change, context.key, undone)
                return undone
        raise LoraError(
            Code.CONFLICT,
            f"Your {op['what']} was not touched: somebody has turned or cropped "
            f"{done[0]['name']}{' and the others' if len(done) > 1 else ''} otherwise since.",
        )

    def _put(
        self, change: Change, dataset: str, what: str, changed: Sequence[_Changed],
        undoes: int | None = None,
    ) -> None:  # fmt: skip
        op = new_op(change, dataset, what, undoes=undoes)
        change.executemany(
            "INSERT INTO reframed (op, item, before, framing) VALUES (?, ?, ?, ?)",
            [(op, *one) for one in changed],
        )
        change.executemany(
            "UPDATE items SET framing = ? WHERE id = ?", [(one[2], one[0]) for one in changed]
        )
        change.emit(wire.CaptionsChanged(dataset=dataset, changed=len(changed), what=what))
        change.emit(wire.DatasetChanged(dataset=self._catalog.dataset(dataset)))


def _after(before: Framing, request: wire.FramePictures, row: sqlite3.Row) -> Framing:
    size = (row["width"], row["height"])
    after = before.rotated(request.rotate, *size)
    try:
        if request.crop is not None or request.whole:
            after = after.cropped(request.crop, *size)
    except LoraError as error:
        raise LoraError(error.code, f"{row['name']}: {error.message}") from None
    return after


def _told(request: wire.FramePictures, count: int, name: str) -> str:
    kind = "crop" if request.crop is not None or request.whole else "rotation"
    return f"{kind} of {name if count == 1 else f'{count} pictures'}"
