"""How many captions have each tag: counted once, then kept up with what has changed since."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from lora_daemon.catalog import Catalog
from lora_daemon.service import Context
from lora_daemon.store import Store
from shared import wire
from shared.errors import Code, LoraError
from shared.tags import fold, plain

LONGEST, MOST_WORDS = 60, 4  # of a tag; what is longer between two commas is a sentence
MOST_MOVED = 1_000  # tags that are put in their place one by one; else all are sorted
KEPT = 4  # datasets
MOST_LISTED = 100_000  # tags in one answer
MOST_REVISED = 5_000  # captions; where more have changed, counting anew is as quick


class TagCounts:
    """Answers GetTags. What persons and captioners change is found by its operation's number; an
    import has none, so ``forget`` is called after it."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog
        self._counted: dict[str, _Counts] = {}  # by dataset
        self._lock = asyncio.Lock()
        self._forgotten = 0

    def forget(self) -> None:
        """Count anew when somebody asks."""
        self._counted.clear()
        self._forgotten += 1

    async def tags(self, context: Context, request: wire.GetTags) -> wire.Tags:
        """Raises LoraError: NOT_FOUND, BAD_REQUEST."""
        if request.limit < 0:
            raise LoraError(Code.BAD_REQUEST, "limit counts tags: 0 or more.")
        counts = await self._current(self._catalog.row(request.dataset)["id"])
        found = counts.like(request.like, min(request.limit, MOST_LISTED))
        return wire.Tags(tags=found, total=counts.total)

    async def _current(self, dataset: str) -> _Counts:
        async with self._lock:
            head, forgotten = self._store.head_seq, self._forgotten
            counts = self._counted.get(dataset)
            if counts is None or counts.head != head:
                self._counted.pop(dataset, None)
                counts = await asyncio.to_thread(_bring_up, self._store.database, dataset, counts)
                counts.head = head
                if forgotten == self._forgotten:
                    self._counted[dataset] = counts
                while len(self._counted) > KEPT:
                    del self._counted[next(iter(self._counted))]
            return counts


class _Counts:
    """The tags of a dataset as they were after operation ``op``.

    They are listed as lines of text, the most frequent tag first: a search in one long string is
    done before a loop over the tags has begun.
    """

    def __init__(self) -> None:
        self.op = 0
        self.head = 0  # of the journal
        self._spellings = Counter[str]()
        self._tags: dict[str, tuple[int, str]] = {}  # folded → captions that have it, its spelling
        self._order: list[tuple[int, str]] = []  # how often, negative, and the line
        self._lines = ""  # empty: to be joined anew

    @property
    def total(self) -> int:
        return len(self._tags)

    def take(self, change: Counter[str]) -> None:
        """So many captions more have each spelling, or fewer."""
        touched = dict[str, list[tuple[str, int]]]()
        for spelling, number in change.items():
            if spelling and number:
                self._spellings[spelling] += number
                touched.setdefault(fold(spelling), []).append((spelling, number))
        anew = len(touched) > MOST_MOVED
        for name, spellings in touched.items():
            before = self._tags.pop(name, None)
            if before is not None and not anew:
                del self._order[bisect_left(self._order, _line(*before))]
            count = (before[0] if before else 0) + sum(number for _, number in spellings)
            if count > 0:
                after = self._tags[name] = count, self._spelt(name, before, spellings)
                if not anew:
                    insort(self._order, _line(*after))
        for spelling in change:
            if self._spellings[spelling] <= 0:
                del self._spellings[spelling]
        if anew:
            self._order = sorted(_line(*tag) for tag in self._tags.values())
        if touched:
            self._lines = ""

    def _spelt(
        self, name: str, before: tuple[int, str] | None, spellings: list[tuple[str, int]]
    ) -> str:
        """How most captions spell a tag."""
        known = [spelling for spelling, _ in spellings] + ([before[1]] if before else [])
        often = max(known, key=self._spellings.__getitem__)
        if self._spellings[often] <= 0:
            known = [spelling for spelling in self._spellings if fold(spelling) == name]
            often = max(known, key=self._spellings.__getitem__)
        return often

    def like(self, typed: str, limit: int) -> list[wire.TagCount]:
        """Those that begin as ``typed``, then those of which a later word does."""
        wanted = plain(typed)
        if not wanted:
            return [_told(line) for _, line in self._order[:limit]]
        if not self._lines:
            self._lines = "\n".join(["", *(line for _, line in self._order), ""])
        first = list(itertools.islice(self._found(f"\n{wanted}"), limit))
        later = self._found(f" {wanted}", besides=wanted)
        return [*first, *itertools.islice(later, limit - len(first))]

    def _found(self, wanted: str, besides: str = "") -> Iterator[wire.TagCount]:
        """The tags in whose lines ``wanted`` is, but for those that begin with ``besides``."""
        at = self._lines.find(wanted)
        while at >= 0:
            start = self._lines.rfind("\n", 0, at + 1) + 1
            end = self._lines.find("\n", start)
            if not besides or not self._lines.startswith(besides, start):
                yield _told(self._lines[start:end])
            at = self._lines.find(wanted, end)


def _line(count: int, spelt: str) -> tuple[int, str]:
    return -count, f"{plain(spelt)}\t{spelt}\t{count}"


def _told(line: str) -> wire.TagCount:
    spelt, _, count = line.partition("\t")[2].rpartition("\t")
    return wire.TagCount(tag=spelt, count=int(count))


def _bring_up(database: Path, dataset: str, counts: _Counts | None) -> _Counts:
    """The counts as the database has them now; in a thread."""
    uri = f"{database.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        (op,) = connection.execute("SELECT coalesce(max(op), 0) FROM ops").fetchone()
        if counts is not None:
            revised = connection.execute(_REVISED, (counts.op, dataset)).fetchall()
            if len(revised) <= MOST_REVISED:
                change = _spellings(new for new, _ in revised)
                change.subtract(_spellings(old for _, old in revised))
                counts.take(change)
                counts.op = op
                return counts
        counts = _Counts()
        texts = connection.execute("SELECT text FROM items WHERE dataset = ?", (dataset,))
        counts.take(_spellings(text for (text,) in texts))
        counts.op = op
        return counts


# Each text that is new since an operation, and the one before it. CROSS: in this order, or SQLite
# begins with all pictures of the dataset.
_REVISED = (
    "SELECT r.text, p.text FROM revisions r INDEXED BY revisions_op"
    " CROSS JOIN items i ON i.id = r.item AND i.dataset = ?2"
    " CROSS JOIN revisions p ON p.item = r.item AND p.rev = r.rev - 1"
    f" WHERE r.op > ?1 AND r.text <> p.text LIMIT {MOST_REVISED + 1}"
)


def _spellings(texts: Iterable[str]) -> Counter[str]:
    """In how many texts each spelling of a tag stands."""
    found = Counter[str]()
    for text in texts:
        parts = text.replace("\r", ",").replace("\n", ",").split(",")
        found.update(
            {p.strip() for p in parts if len(p) <= LONGEST and p.count(" ") <= MOST_WORDS}
        )  # a space stands before most of them
    return found
