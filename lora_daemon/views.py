"""Filtered lists of pictures: found once, then paged as they were found."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import sqlite3
import sys
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_daemon import filtering, regex_search
from lora_daemon.caption_facts import CaptionLore
from lora_daemon.catalog import MOST_LISTED, Catalog, page_of
from lora_daemon.issues import GROUP, LISTED
from lora_daemon.service import Context
from lora_daemon.store import Store, read_only
from lora_daemon.tokens import Tokens
from shared import filters, wire
from shared.errors import Code, LoraError
from shared.filters import Words

KEPT = 32  # views; of 100 000 pictures each holds 0.8 MB
PARTS = 2  # of the pictures, searched at once
MOST_PARTS = 1000  # of a strip of states
MOST_SORTED = 10_000  # rows; more are put in order by going through all names in theirs
REGEX_WITHIN = 10.0  # seconds until a regular expression is given up


@dataclass(frozen=True)
class _Question:
    dataset: str  # its id
    filter: str
    states: tuple[wire.CaptionState, ...] = ()
    sort: wire.Sort | None = None


@dataclass
class View:
    """What a filter found in a dataset: the rows of ``items``, in order."""

    question: _Question
    rows: array[int]


class Views:
    """Answers ListItems and CountStates."""

    def __init__(self, store: Store, catalog: Catalog, tokens: Tokens, lore: CaptionLore) -> None:
        self._store = store
        self._catalog = catalog
        self._tokens = tokens
        self._lore = lore
        self._views: OrderedDict[str, View] = OrderedDict()

    async def list_items(self, context: Context, request: wire.ListItems) -> wire.Items:
        """Raises LoraError: NOT_FOUND, BAD_REQUEST (a FilterError for the filter itself)."""
        if filters.parse(request.filter) is None and request.sort is None:
            return await self._catalog.list_items(context, request)
        dataset = self._catalog.row(request.dataset)["id"]
        states = tuple(request.states)
        question = _Question(dataset, request.filter, states, request.sort)
        name, view = await self._view(question, request.view)
        page = self._page(view, request)
        place = self._place(view, request.at) if request.at else -1
        return wire.Items(items=page, total=len(view.rows), view=name, place=place)

    async def count_states(self, context: Context, request: wire.CountStates) -> wire.StateParts:
        """Raises LoraError as ``list_items`` does."""
        if not 1 <= request.parts <= MOST_PARTS:
            raise LoraError(Code.BAD_REQUEST, f"A strip has 1 to {MOST_PARTS} parts.")
        dataset = self._catalog.row(request.dataset)["id"]
        question = _Question(dataset, request.filter, (), request.sort)
        name, view = await self._view(question, request.view)
        parts = min(request.parts, len(view.rows))
        counts = [[0] * len(wire.CAPTION_STATES) for _ in range(parts)]
        if parts:
            sql = (
                "SELECT json_group_array(json_array(part, state, number)) FROM"
                " (SELECT key * ? / ? AS part, state, count(*) AS number FROM json_each(?)"
                " JOIN items ON items.rowid = value GROUP BY part, state)"
            )
            values: list[filtering.Value] = [parts, len(view.rows), json.dumps(view.rows.tolist())]
            found = await _search_in_thread(self._store.database, sql, values)
            for part, state, number in json.loads(found):
                counts[part][wire.CAPTION_STATES.index(state)] = number
        return wire.StateParts(parts=counts, view=name)

    def chosen(self, dataset: str, view: str, places: list[tuple[int, int]]) -> array[int]:
        """The rows of ``items`` at places of a view. Raises LoraError(NOT_FOUND) if it is
        forgotten, as nobody knows then which pictures were meant."""
        found = self._views.get(view)
        if found is None or found.question.dataset != dataset:
            raise LoraError(
                Code.NOT_FOUND,
                "The list that these pictures were chosen from is forgotten: the daemon is a new "
                "one, or many others came after it. Nothing was changed. Choose them again.",
            )
        self._views.move_to_end(view)
        rows = array("q")
        for first, last in places:
            if not 0 <= first <= last < len(found.rows):
                raise LoraError(Code.BAD_REQUEST, f"{first} to {last} are no places in this list.")
            rows.extend(found.rows[first : last + 1])
        return rows

    async def find_place(self, context: Context, request: wire.FindPlace) -> wire.FoundPlace:
        """Raises LoraError as ``list_items`` does."""
        dataset = self._catalog.row(request.dataset)["id"]
        wanted = filters.parse(request.wanted)
        if filters.parse(request.filter) is None and request.sort is None:
            return await self._next_of_all(dataset, wanted, request.after)
        passing = await self._find(dataset, wanted)
        question = _Question(dataset, request.filter, (), request.sort)
        rows = (await self._view(question, request.view))[1].rows
        return await asyncio.to_thread(_next_place, rows, passing, request.after)

    async def _next_of_all(
        self, dataset: str, wanted: filters.Node | None, after: int
    ) -> wire.FoundPlace:
        """As ``find_place``, where the list is the whole dataset: its order is that of the names,
        so that neither has to be listed."""
        here = self._store.query(
            "SELECT name FROM items WHERE dataset = ? ORDER BY name LIMIT 1 OFFSET ?",
            (dataset, max(after, 0)),
        )
        name = here[0]["name"] if here and after >= 0 else ""
        left, first, there = await self._search(
            dataset, wanted,
            "SELECT json_array(count(*), min(name), min(CASE WHEN name > ?2 THEN name END))"
            " FROM items {way} WHERE dataset = ?1 AND {where}", (name,),
        )  # fmt: skip
        if not left:
            return wire.FoundPlace(place=None, left=0)
        (before,) = self._store.query(
            "SELECT count(*) AS number FROM items WHERE dataset = ? AND name < ?",
            (dataset, first if there is None else there),
        )
        return wire.FoundPlace(place=before["number"], left=left)

    async def places(self, dataset: str, filter: str, view: str = "") -> array[int]:
        """The rows of ``items`` that pass, in order of their names; those of ``view`` if it is one
        of this filter's. ``dataset`` is an id. Raises LoraError as ``list_items`` does."""
        if filters.parse(filter) is None:
            return await self._find(dataset, None)
        return (await self._view(_Question(dataset, filter), view))[1].rows

    async def _view(self, question: _Question, name: str) -> tuple[str, View]:
        view = self._views.get(name)
        if view is None or view.question != question:
            node = filters.parse(question.filter)
            if question.states:
                terms = [filters.Term("state", filters.Words(state)) for state in question.states]
                both = [filters.Or(tuple(terms)), node]
                node = filters.And(tuple(part for part in both if part is not None))
            found = await self._find(question.dataset, node, question.sort)
            name, view = secrets.token_hex(8), View(question, found)
            self._views[name] = view
            while len(self._views) > KEPT:
                self._views.popitem(last=False)
        self._views.move_to_end(name)
        return name, view

    async def rows(self, dataset: str, filter: str) -> list[sqlite3.Row]:
        """All rows of ``items`` in a dataset that a filter finds, in order of their names.

        Raises LoraError as ``list_items``.
        """
        node = filters.parse(filter)
        if node is None:
            return self._store.query(
                "SELECT * FROM items WHERE dataset = ? ORDER BY name", (dataset,)
            )
        places = await self._find(dataset, node)
        found = self._rows(places)
        return [found[place] for place in places if place in found]

    def _page(self, view: View, request: wire.ListItems) -> list[wire.Item]:
        first, limit = request.offset, min(request.limit, MOST_LISTED)
        if first < 0 or limit < 0:
            raise LoraError(Code.BAD_REQUEST, "offset and limit count pictures: 0 or more.")
        wanted = view.rows[first : first + limit]
        found = self._rows(wanted)
        if len(found) < len(wanted):  # pictures that an import has taken out meanwhile
            here = set(self._rows(view.rows, "rowid AS place"))
            view.rows = array("q", (row for row in view.rows if row in here))
            found = self._rows(wanted := view.rows[first : first + limit])
        return page_of(found[row] for row in wanted)

    def _place(self, view: View, item: str) -> int:
        rows = self._store.query("SELECT rowid FROM items WHERE id = ?", (item,))
        try:
            return view.rows.index(rows[0][0]) if rows else -1
        except ValueError:
            return -1

    def _rows(
        self, wanted: array[int], columns: str = "rowid AS place, *"
    ) -> dict[int, sqlite3.Row]:
        sql = f"SELECT {columns} FROM items WHERE rowid IN (SELECT value FROM json_each(?))"
        found = self._store.query(sql, (json.dumps(wanted.tolist()),))
        return {row["place"]: row for row in found}

    async def counts(self, dataset: str, texts: Sequence[str]) -> list[int]:
        """How many pictures each filter finds, all in one look. Raises LoraError as ``places``."""
        queries = [await self._query(dataset, filters.parse(text)) for text in texts]
        sums = ", ".join(f"count(CASE WHEN {query.where} THEN 1 END)" for query in queries)
        sql = (
            f"WITH first AS (SELECT ?1) SELECT json_array({sums}) FROM items NOT INDEXED"
            " WHERE dataset = ?1"
        )
        values = [value for query in queries for value in query.values]
        found: list[int] = json.loads(
            await _search_in_thread(self._store.database, sql, [dataset, *values])
        )
        return found

    async def _query(self, dataset: str, node: filters.Node | None) -> filtering.Query:
        """What ``node`` asks, with all that has to be known for it."""
        if node is None:
            return filtering.Query("1", ())
        terms = list(filters.terms(node))
        issues = {t.value.text for t in terms if t.field == "issue" and isinstance(t.value, Words)}
        if "long" in issues or any(term.field == "tokens" for term in terms):
            await self._tokens.complete(dataset)
        elif "any" in issues:
            with contextlib.suppress(LoraError):  # without a base nothing is known to be long
                await self._tokens.complete(dataset)
        marks: Mapping[str, bytes] = {}
        if issues & {"any", *LISTED}:
            marks = (await self._lore.of(dataset)).marks
        return filtering.query(node, marks)

    async def _find(
        self, dataset: str, node: filters.Node | None, sort: wire.Sort | None = None
    ) -> array[int]:
        if sort is not None and sort.by == "tokens":
            await self._tokens.complete(dataset)
        order = filtering.order(sort)
        if sort is None and any(term.field == "dup" for term in filters.terms(node)):
            order = f"min(name) OVER (PARTITION BY {GROUP}), name"  # side by side
        if node is None and order == "name":
            return await self._by_name(dataset)
        if order != "name":
            sql = _listed(f"items {{way}} WHERE dataset = ?1 AND {{where}} ORDER BY {order}")
            return array("q", await self._search(dataset, node, sql))
        sql = _listed("items {way} WHERE dataset = ?1 AND {row} BETWEEN ?2 AND ?3 AND {where}")
        found = await self._search(dataset, node, sql, *self._parts())
        return await self._by_name(dataset, found)

    def _parts(self) -> list[tuple[int, int]]:
        """The first and last row of parts that are searched at once."""
        ((last,),) = self._store.query("SELECT coalesce(max(rowid), 0) FROM items")
        number = PARTS if last > MOST_SORTED else 1
        edges = [last * part // number for part in range(number + 1)]
        return [(before + 1, last) for before, last in itertools.pairwise(edges)]

    async def _by_name(self, dataset: str, found: list[int] | None = None) -> array[int]:
        """Rows of a dataset in order of their names: those ``found``, or all of them."""
        wanted, values = "dataset = ?1", [dataset]
        if found is not None and len(found) < MOST_SORTED:
            wanted, values = "rowid IN (SELECT value FROM json_each(?1))", [json.dumps(found)]
        sql = _listed(f"items WHERE {wanted} ORDER BY name")
        rows = json.loads(await _search_in_thread(self._store.database, sql, [*values]))
        if found is None or len(found) < MOST_SORTED:
            return array("q", rows)
        passing = set(found)
        return array("q", [row for row in rows if row in passing])

    async def _search(
        self, dataset: str, node: filters.Node | None, sql: str,
        *parts: tuple[str | int, ...],
    ) -> list[Any]:  # fmt: skip
        """The list that ``sql`` makes of the pictures that pass, in one cell of JSON. ``?1`` in it
        is the dataset's id; ``parts``: the values of ``?2`` and so on, which stand before it. For
        several of them it is asked at once, and the lists are joined."""
        query = await self._query(dataset, node)
        (share,) = self._store.query(
            "SELECT coalesce(sum(items), 0) AS everywhere, coalesce(sum(CASE WHEN dataset = ? THEN"
            " items END), 0) AS here FROM counts", (dataset,),
        )  # fmt: skip
        # In order of the names' index each row is looked up by itself: four times as slow as
        # reading the table as it lies, which is so much of it in vain as there are other datasets.
        way = "NOT INDEXED" if share["here"] * 4 > share["everywhere"] else ""
        row = "rowid" if way else "+rowid"  # in that index's order after all
        sql = sql.format(way=way, where=query.where, row=row)
        search = _search_in_process if query.regex else _search_in_thread
        answers = await asyncio.gather(
            *(
                search(self._store.database, sql, [dataset, *part, *query.values])
                for part in parts or [()]
            )
        )
        return list(itertools.chain.from_iterable(map(json.loads, answers)))


def _listed(rows: str) -> str:
    """All rows of ``rows`` in one cell of JSON: the search is one step of SQLite's, which lets
    other threads go on. json_group_array takes half as long again for the same."""
    return (
        "SELECT '[' || coalesce(group_concat(place), '') || ']' FROM"
        f" (SELECT rowid AS place FROM {rows})"
    )


def _next_place(rows: array[int], passing: array[int], after: int) -> wire.FoundPlace:
    wanted = set(passing)
    found = [place for place, row in enumerate(rows) if row in wanted]
    there = next((place for place in found if place > after), None)
    return wire.FoundPlace(place=found[0] if found and there is None else there, left=len(found))


async def _search_in_thread(database: Path, sql: str, values: list[filtering.Value]) -> str:
    def search() -> str:
        with contextlib.closing(sqlite3.connect(read_only(database), uri=True)) as connection:
            answer: str = connection.execute(sql, values).fetchone()[0]
        return answer

    return await asyncio.to_thread(search)


async def _search_in_process(database: Path, sql: str, values: list[filtering.Value]) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", regex_search.__file__,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said = [{"hex": one.hex()} if isinstance(one, bytes) else one for one in values]
    question = {"database": read_only(database), "sql": sql, "values": said}
    try:
        async with asyncio.timeout(REGEX_WITHIN):
            answer, problem = await process.communicate(json.dumps(question).encode())
    except TimeoutError:
        raise LoraError(
            Code.BAD_REQUEST,
            f"The regular expression was given up after {REGEX_WITHIN:.0f} seconds. One repeat "
            "inside another, such as (a+)+, takes for ever on some captions: make it simpler.",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the search failed: {problem.decode(errors='replace')}")
    return answer.decode()
