"""Datasets and their pictures as the database has them: all the reading, none of the changing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from lora_daemon.service import Context
from lora_daemon.store import Store
from shared import framing, wire
from shared.errors import Code, LoraError, not_found
from shared.filenames import from_text

PAGE_BYTES = 4 * 1024 * 1024  # of captions and names in one answer, so that it fits a header
MOST_LISTED = 10_000  # pictures in one answer


class Catalog:
    """Reads of datasets and items. A dataset is named by its id or its name, a picture likewise."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def datasets(self) -> list[wire.Dataset]:
        return [self._dataset(row) for row in self._store.query("SELECT * FROM datasets")]

    def dataset(self, dataset: str) -> wire.Dataset:
        """Raises LoraError(NOT_FOUND)."""
        return self._dataset(self.row(dataset))

    def row(self, dataset: str) -> sqlite3.Row:
        """The dataset's own row. Raises LoraError(NOT_FOUND), suggesting what may be meant."""
        rows = self._store.query("SELECT * FROM datasets WHERE id = ?", (dataset,))
        rows = rows or self._store.query("SELECT * FROM datasets WHERE name = ?", (dataset,))
        if rows:
            return rows[0]
        names = [
            row["name"] for row in self._store.query("SELECT name FROM datasets ORDER BY name")
        ]
        raise not_found("dataset", dataset, names)

    def item_row(self, dataset: str, item: str) -> sqlite3.Row:
        """A picture's row. Raises LoraError(NOT_FOUND)."""
        rows = self._store.query(
            "SELECT * FROM items WHERE id = ? AND dataset = ?", (item, dataset)
        )
        if rows:
            return rows[0]
        found = self.row(dataset)
        rows = self._store.query(
            "SELECT * FROM items WHERE dataset = ? AND (id = ? OR name = ?)",
            (found["id"], item, item),
        )
        if rows:
            return rows[0]
        raise LoraError(
            Code.NOT_FOUND, f"There is no picture {item!r} in the dataset {found['name']}."
        )

    def item(self, dataset: str, item: str) -> wire.Item:
        """Raises LoraError(NOT_FOUND)."""
        return item_of(self.item_row(dataset, item))

    def path(self, item: sqlite3.Row) -> Path:
        """Where a picture's file is."""
        rows = self._store.query("SELECT path FROM datasets WHERE id = ?", (item["dataset"],))
        return Path(from_text(rows[0]["path"])) / from_text(item["name"])

    async def get_item(self, context: Context, request: wire.GetItem) -> wire.Item:
        return self.item(request.dataset, request.item)

    async def list_items(self, context: Context, request: wire.ListItems) -> wire.Items:
        """A page in order of names; shorter than asked where captions are very long."""
        dataset = self.row(request.dataset)["id"]
        if request.offset < 0 or request.limit < 0:
            raise LoraError(Code.BAD_REQUEST, "offset and limit count pictures: 0 or more.")
        where, values = "dataset = ?", [dataset]
        if request.states:
            several = (
                "+" if len(request.states) > 1 else ""
            )  # then in the order of the names' index
            where += f" AND {several}state IN ({', '.join('?' * len(request.states))})"
            values += request.states
        counted = self._counted(dataset)
        states = request.states or wire.CAPTION_STATES
        total = sum(counted[state]["items"] for state in set(states) if state in counted)
        rows = self._store.query(
            f"SELECT * FROM items WHERE {where} ORDER BY name LIMIT ? OFFSET ?",
            (*values, min(request.limit, MOST_LISTED), request.offset),
        )
        return wire.Items(items=page_of(rows), total=total)

    def _counted(self, dataset: str) -> dict[str, sqlite3.Row]:
        """The dataset's numbers by caption state, kept by triggers."""
        rows = self._store.query("SELECT * FROM counts WHERE dataset = ?", (dataset,))
        return {row["state"]: row for row in rows}

    def _dataset(self, row: sqlite3.Row) -> wire.Dataset:
        counted = self._counted(row["id"])
        counts = {
            state: counted[state]["items"] if state in counted else 0
            for state in wire.CAPTION_STATES
        }
        return wire.Dataset(
            id=row["id"],
            name=row["name"],
            path=row["path"],
            items=sum(counts.values()),
            counts=counts,
            empty=sum(one["empty"] for one in counted.values()),
            problems=sum(one["problems"] for one in counted.values()),
            created=row["created"],
        )


def page_of(rows: Iterable[sqlite3.Row]) -> list[wire.Item]:
    """Rows of ``items`` as they travel, as many from the first as one answer holds."""
    items, size = list[wire.Item](), 0
    for row in rows:
        size += len(row["text"]) * 4 + len(row["name"]) * 4 + 300
        if items and size > PAGE_BYTES:
            break
        items.append(item_of(row))
    return items


def item_of(row: sqlite3.Row) -> wire.Item:
    """A row of ``items`` as it travels."""
    return wire.Item(
        id=row["id"],
        dataset=row["dataset"],
        name=row["name"],
        content=row["content"],
        width=row["width"],
        height=row["height"],
        size=row["size"],
        problem=row["problem"],
        caption=caption_of(row),
        framing=framing.read(row["framing"]),
    )


def caption_of(row: sqlite3.Row) -> wire.Caption:
    """The caption in a row of ``items`` or ``revisions``."""
    return wire.Caption(
        text=row["text"],
        state=row["state"],
        rev=row["rev"],
        source=row["source"],
        by=row["by"],
        at=row["at"],
    )
