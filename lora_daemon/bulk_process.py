"""Edits of many captions, worked out in a process of its own: a regular expression that takes for
ever can be killed there, and holds up nobody.

``python -m lora_daemon.bulk_process`` reads a Question as JSON and writes a line with the number of
captions done after every few, then a line with the Counts. What changes goes to a database of its
own, from where it is looked at and, all at once, made.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable

import msgspec

from shared.edits import AnyEdit, editor

CHUNK = 100  # captions

TABLE = """
CREATE TABLE changes (
    place     INTEGER PRIMARY KEY,      -- in order of the names
    row       INTEGER NOT NULL,         -- of items in the workspace's database
    item      TEXT NOT NULL,
    name      TEXT NOT NULL,
    rev       INTEGER NOT NULL,         -- that the change was worked out on
    text      TEXT NOT NULL,
    state     TEXT NOT NULL,
    new_text  TEXT NOT NULL,
    new_state TEXT NOT NULL,
    source    TEXT NOT NULL             -- of the new text
) STRICT
"""


class Question(msgspec.Struct):
    """``database`` is the workspace's, read-only; ``target`` a file that is not there yet."""

    database: str
    target: str
    rows: list[int]  # of items
    edits: list[AnyEdit]
    state: str | None
    longest: int  # bytes of a caption


class Counts(msgspec.Struct):
    changed: int
    unchanged: int
    too_long: int


def opened(target: str, database: str) -> sqlite3.Connection:
    """A new database for changes, with the workspace's beside it as ``here``."""
    connection = sqlite3.connect(target, isolation_level=None, uri=True)
    connection.execute("PRAGMA journal_mode = OFF")  # it is worth nothing half made
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(TABLE)
    connection.execute("ATTACH ? AS here", (database,))
    return connection


def answer(question: Question, told: Callable[[int], None]) -> Counts:
    """Work it out; ``told`` hears how many captions are done."""
    edit = editor(question.edits)
    counts = Counts(0, 0, 0)
    connection = opened(question.target, question.database)
    connection.execute("BEGIN")  # one state of the captions for all of them
    for first in range(0, len(question.rows), CHUNK):
        wanted = question.rows[first : first + CHUNK]
        found = connection.execute(
            "SELECT rowid, id, name, rev, text, state, source FROM here.items"
            " WHERE rowid IN (SELECT value FROM json_each(?))", (json.dumps(wanted),),
        )  # fmt: skip
        rows = {row[0]: row for row in found}
        changes = []
        for place, number in enumerate(wanted, first):
            if number not in rows:  # it was taken out just now
                continue
            row, item, name, rev, text, state, source = rows[number]
            new_text, new_state = edit(text), question.state or state
            if new_text == text and new_state == state:
                counts.unchanged += 1
            elif len(new_text.encode()) > question.longest:
                counts.too_long += 1
            else:
                source = source if new_text == text else "person"
                changes.append(
                    (place, row, item, name, rev, text, state, new_text, new_state, source)
                )
        connection.executemany(f"INSERT INTO changes VALUES ({', '.join('?' * 10)})", changes)
        counts.changed += len(changes)
        told(first + len(wanted))
    connection.execute("COMMIT")
    connection.close()
    return counts


def main() -> None:
    """Answer the question on stdin."""
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    counts = answer(question, lambda done: print(done, flush=True))
    print(msgspec.json.encode(counts).decode(), flush=True)


if __name__ == "__main__":
    main()
