"""What in a folder is newer than what was read of it: pictures replaced, tables changed.

A replaced picture is read anew by whoever finds it, and keeps its caption. A table is only told of:
which of its columns was meant is said at an import, and only there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lora_daemon.pictures import Examined
from lora_daemon.store import Change, Store
from shared.filenames import from_text

GONE = "is gone; its caption is kept here"  # the problem of a picture without a file

Stamp = tuple[int, int]  # time of the last change in ns, bytes


def stamp(root: Path, name: str) -> Stamp | None:
    """Of a file in ``root``, or of one with an absolute path; None if it cannot be reached."""
    try:
        status = os.stat(os.path.join(root, from_text(name)))  # noqa: PTH116, PTH118  # of many
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def take(change: Change, item: str, seen: Examined) -> None:
    """A picture is now what ``seen`` says. What is known of its pixels goes by their hash."""
    change.execute(
        "UPDATE items SET content = ?, width = ?, height = ?, size = ?, mtime = ?, problem = ?"
        " WHERE id = ?",
        (seen.content, seen.width, seen.height, seen.size, seen.mtime, seen.problem, item),
    )


# ── tables ──────────────────────────────────────────────────────────────────────────────────────


def tables_now(root: Path, tables: Sequence[str]) -> dict[str, Stamp]:
    """The stamps of tables, as they are about to be read."""
    return {table: found for table in tables if (found := stamp(root, table)) is not None}


def keep_tables(change: Change, dataset: str, stamps: dict[str, Stamp]) -> None:
    """The tables of a dataset have been read."""
    change.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_key(dataset), json.dumps(stamps)))


def forget_tables(change: Change, dataset: str) -> None:
    change.execute("DELETE FROM meta WHERE key = ?", (_key(dataset),))


def known_tables(store: Store, dataset: str) -> dict[str, Stamp] | None:
    """The stamps of the tables that were read; None where no import has kept any."""
    rows = store.query("SELECT value FROM meta WHERE key = ?", (_key(dataset),))
    if not rows:
        return None
    kept: dict[str, list[int]] = json.loads(rows[0]["value"])
    return {table: (time, size) for table, (time, size) in kept.items()}


def newer_tables(root: Path, known: dict[str, Stamp], here: Sequence[str]) -> Iterator[str]:
    """A sentence for each table that says something else by now. ``here``: those in the folder."""
    for table in dict.fromkeys([*known, *here]):
        now, before = stamp(root, table), known.get(table)
        if now is None and before is not None:
            yield f"{table} is gone: the captions it gave are kept here."
        elif now is not None and now != before:
            what = "is new" if before is None else "was changed outside"
            yield f"{table} {what}: import the folder again to take over the captions in it."


def _key(dataset: str) -> str:
    return f"tables of {dataset}"
