"""Filters with a name: kept in the database, so that every client has them."""

from __future__ import annotations

from lora_daemon.service import Context
from lora_daemon.store import Store
from shared import filters, wire
from shared.errors import Code, LoraError, not_found

LONGEST = 80  # characters of a name


class SavedFilters:
    """Answers SaveFilter and RemoveFilter."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[wire.SavedFilter]:
        """In order of their names."""
        rows = self._store.query("SELECT * FROM filters ORDER BY name")
        return [wire.SavedFilter(**dict(row)) for row in rows]

    async def save(self, context: Context, request: wire.SaveFilter) -> wire.SavedFilter:
        """Raises LoraError(BAD_REQUEST) for a name that is none, or a filter with a mistake."""
        name = " ".join(request.name.split())
        if not name or len(name) > LONGEST or not name.isprintable():
            raise LoraError(
                Code.BAD_REQUEST, f"A saved filter has a name of 1 to {LONGEST} characters."
            )
        if filters.parse(request.filter) is None:
            raise LoraError(Code.BAD_REQUEST, "An empty filter shows everything: nothing to save.")
        with self._store.change(context.by) as change:
            saved = wire.SavedFilter(name=name, filter=request.filter, by=change.by, at=change.at)
            change.execute(
                "INSERT OR REPLACE INTO filters (name, filter, by, at) VALUES (?, ?, ?, ?)",
                (saved.name, saved.filter, saved.by, saved.at),
            )
            change.emit(wire.FilterSaved(saved=saved))
            self._store.remember(change, context.key, saved)
        return saved

    async def remove(self, context: Context, request: wire.RemoveFilter) -> wire.Done:
        """Raises LoraError(NOT_FOUND)."""
        names = [saved.name for saved in self.all()]
        if request.name not in names:
            raise not_found("saved filter", request.name, names)
        with self._store.change(context.by) as change:
            change.execute("DELETE FROM filters WHERE name = ?", (request.name,))
            change.emit(wire.FilterRemoved(name=request.name))
            self._store.remember(change, context.key, wire.Done())
        return wire.Done()
