"""Changes of many captions, made at once: a few statements that read what is to change from the
attached database ``aside`` (its table is bulk_process.py's), inside one transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lora_daemon.captions import new_op
from lora_daemon.catalog import Catalog, caption_of
from lora_daemon.store import Change, Store
from shared import wire

TOLD = 100  # captions left alone that an answer names


class Changes:
    """Makes them. Each method runs inside a change that has ``aside`` attached."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    def make(
        self, change: Change, dataset: str, what: str, total: int, *, undoes: int | None = None
    ) -> wire.Edited:
        """Give each of the ``total`` captions of ``aside.changes`` its new text and state, but for
        those that have been changed since. ``undoes``: the operation that this takes back."""
        query = self._store.query
        ((changed,),) = query(f"SELECT count(*) FROM aside.changes c JOIN items i ON {_SAME}")
        kept = self._left_alone() if changed < total else []
        if changed:
            op = new_op(change, dataset, what, undoes=undoes)
            values = {"by": change.by, "at": change.at, "op": op, "dataset": dataset}
            states = query("SELECT 1 FROM aside.changes WHERE new_state <> state LIMIT 1")
            change.execute(_REVISE, values)
            with _without_triggers(change):
                change.execute(_UPDATE.format(state="state = c.new_state," * bool(states)), values)
            change.execute("DELETE FROM counts WHERE dataset = :dataset", values)
            change.execute(_COUNT, values)
            change.emit(wire.CaptionsChanged(dataset=dataset, changed=changed, what=what))
            change.emit(wire.DatasetChanged(dataset=self._catalog.dataset(dataset)))
        return wire.Edited(what=what, changed=changed, conflicts=total - changed, kept=kept)

    def texts(self) -> list[str]:
        """Items of ``aside.changes`` whose files are to follow."""
        rows = self._store.query("SELECT item FROM aside.changes WHERE new_text <> text")
        return [row["item"] for row in rows]

    def _left_alone(self) -> list[wire.Kept]:
        """Captions of ``aside.changes`` that have been changed since."""
        rows = self._store.query(
            "SELECT i.*, c.new_text, c.new_state FROM aside.changes c JOIN items i"
            f" ON i.id = c.item WHERE i.rev <> c.rev ORDER BY c.place LIMIT {TOLD}"
        )
        return [
            wire.Kept(
                item=row["id"],
                name=row["name"],
                current=caption_of(row),
                text=row["new_text"],
                state=row["new_state"],
            )
            for row in rows
        ]


_SAME = "i.rowid = c.row AND i.id = c.item AND i.rev = c.rev"
_REVISE = (
    "INSERT INTO revisions (item, rev, text, state, source, by, at, op)"
    " SELECT i.id, i.rev + 1, c.new_text, c.new_state, c.source, :by, :at, :op"
    f" FROM aside.changes c JOIN items i ON {_SAME} ORDER BY i.id"
)
# What two triggers of items do for one row, at once for many: in a third of the time.
_TRIGGERS = "'items_tagged', 'items_recounted'"
_TAGS = (
    "',' || replace(replace(trim("
    "replace(replace(replace(replace(replace(replace(lower(c.new_text),"
    " char(13), ' '), char(9), ' '), char(10), ','), '    ', ' '), '  ', ' '), '  ', ' ')"
    "), ', ', ','), ' ,', ',') || ','"
)
_UPDATE = (
    "UPDATE items AS i SET {state} text = c.new_text, source = c.source, by = :by, at = :at,"
    " rev = c.rev + 1,"
    " pending = CASE WHEN i.text = c.new_text THEN i.pending ELSE 1 END,"
    " tokens = CASE WHEN i.text = c.new_text THEN i.tokens END,"
    f" tags = {_TAGS}"
    f" FROM aside.changes c WHERE {_SAME}"
)
_COUNT = (
    "INSERT INTO counts SELECT dataset, state, count(*), sum(text = ''), sum(problem <> '')"
    " FROM items NOT INDEXED WHERE dataset = :dataset GROUP BY state"
)


@contextlib.contextmanager
def _without_triggers(change: Change) -> Iterator[None]:
    """Part of the transaction like all else: a kill leaves the triggers as they were."""
    triggers = change.execute(
        f"SELECT name, sql FROM sqlite_schema WHERE name IN ({_TRIGGERS})"
    ).fetchall()
    for name, _ in triggers:
        change.execute(f"DROP TRIGGER {name}")
    yield
    for _, sql in triggers:
        change.execute(sql)
