"""Candidates: what captioners say of a picture beside its caption, and what that has been before.

A captioner's text is kept with the picture it saw: of another picture it says nothing.
"""

from __future__ import annotations

import sqlite3

from lora_daemon.catalog import PAGE_BYTES, Catalog, item_of
from lora_daemon.service import Context
from lora_daemon.store import Change, Store
from shared import wire

_CAPTIONERS = (
    "SELECT text, model, 'captioner' AS source, by, at FROM candidates"
    " WHERE item = ? AND content = ? ORDER BY at, model"
)
_BEFORE = "SELECT text, '' AS model, source, by, at FROM revisions WHERE item = ? ORDER BY rev DESC"


class Candidates:
    """Answers GetCandidates."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    async def of_item(self, context: Context, request: wire.GetCandidates) -> wire.Candidates:
        """As many as one answer holds. Raises LoraError(NOT_FOUND)."""
        row = self._catalog.item_row(request.dataset, request.item)
        rows = self._store.query(_CAPTIONERS, (row["id"], row["content"]))
        rows += self._store.query(_BEFORE, (row["id"],))
        seen, found, room = {"", row["text"].strip()}, list[wire.Candidate](), PAGE_BYTES
        for one in rows:
            text = one["text"].strip()
            room -= len(text) * 4
            if text not in seen and room > 0:
                seen.add(text)
                found.append(wire.Candidate(**dict(one)))
        return wire.Candidates(item=item_of(row), candidates=found)

    def having(self, dataset: str, model: str) -> set[str]:
        """The pictures of which ``model`` has said what it sees."""
        rows = self._store.query(
            "SELECT c.item FROM candidates c JOIN items i ON i.id = c.item"
            " WHERE i.dataset = ? AND c.model = ? AND c.content = i.content", (dataset, model),
        )  # fmt: skip
        return {row["item"] for row in rows}


def put_candidate(change: Change, row: sqlite3.Row, model: str, text: str) -> None:
    """Keep what a captioner says of the picture in ``row``, in place of what it said before."""
    change.execute(
        "INSERT OR REPLACE INTO candidates (item, model, content, text, by, at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (row["id"], model, row["content"], text, change.by, change.at),
    )
