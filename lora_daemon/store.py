"""The workspace's database: one SQLite file, one writer, every change journalled with its effect.

A change is one transaction that holds the rows, the events that tell of them, and the answer that
a retry of the same request will get. Nothing is announced before it is durable.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import re
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lora_daemon.filesystem import is_network
from shared import wire
from shared.errors import Code, LoraError
from shared.files import publish

JOURNAL_KEPT = 20_000  # events; older ones are pruned and late clients get a snapshot
EFFECTS_KEPT = 7 * 24 * 3600.0  # seconds a retry is recognised
JOURNAL_BYTES = 64 * 1024 * 1024  # that SQLite's own journal keeps on the disk after a large change
PATIENCE = 30.0  # seconds that one connection waits for another

R = TypeVar("R")
Announce = Callable[[wire.Journalled], None]


class Change:
    """An open transaction: run statements, emit the events that describe them."""

    def __init__(self, connection: sqlite3.Connection, by: str, head: int) -> None:
        self._connection = connection
        self.by = by
        self.at = time.time()
        self.head = head
        self.events: list[wire.Journalled] = []

    def execute(self, sql: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def executemany(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        self._connection.executemany(sql, rows)

    def emit(self, event: wire.AnyEvent) -> None:
        """Journal ``event`` with this change; announced once it is durable."""
        self.head += 1
        entry = wire.Journalled(seq=self.head, at=self.at, by=self.by, event=event)
        self.execute(
            "INSERT INTO journal (seq, at, by, event) VALUES (?, ?, ?, ?)",
            (entry.seq, entry.at, entry.by, wire.encoder.encode(event)),
        )
        self.events.append(entry)


class Store:
    """All durable state. The daemon's event loop is its only user; ``aside`` lends it a thread.

    What is read outside a change is what was durable last, also while a thread is at work.
    """

    def __init__(self, database: Path) -> None:
        """Open or make the database and bring its schema up to date.

        Raises LoraError(STORAGE) if it cannot be opened, or was written by a newer lora-tui.
        """
        self.database = database
        self.announce: Announce = lambda _: None
        try:
            self._connection = _connected(database)
            # WAL needs shared memory between processes' views of the file: not safe on NFS & co.
            mode = "DELETE" if is_network(database.parent) else "WAL"
            self._connection.execute(f"PRAGMA journal_mode = {mode}")
            self._connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
            if mode == "DELETE":  # else what does not fit the cache would lock out all reading
                self._connection.execute("PRAGMA cache_spill = OFF")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._migrate()
            self._reader = _connected(database)
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise explained(error, database) from None
        self._turn = threading.RLock()  # of whoever changes something
        self._changing = 0  # the thread that does
        self._aside = asyncio.Lock()
        self._untold: deque[wire.Journalled] = deque()  # durable events, in order
        self._touched: dict[str, int] = {}  # dataset → the newest event about it
        self.incarnation = self._meta("incarnation")
        self._head = int(self._query_one("SELECT coalesce(max(seq), 0) FROM journal")[0])
        self._decode_event = msgspec.msgpack.Decoder(wire.AnyEvent).decode

    @property
    def head_seq(self) -> int:
        """Sequence number of the newest durable event."""
        return self._head

    def close(self) -> None:
        self._reader.close()
        self._connection.close()

    def recognise(self, marker: Path) -> None:
        """Give the journal a new incarnation if this is not the database that was here last.

        ``marker`` is a file beside it with what the last daemon knew. A database that was put back
        from a backup lacks events that clients have seen: their numbers must not be taken for
        those of other events. Raises LoraError(STORAGE).
        """
        boot = self._meta("boot")
        try:
            last = marker.read_text().split()
        except OSError:
            last = []
        known = last[0] == boot and int(last[1]) <= self._head if len(last) == 2 else not last
        fresh = {"boot": uuid.uuid4().hex}
        if not known:
            fresh["incarnation"] = uuid.uuid4().hex
        with self.change("daemon") as change:
            for key, value in fresh.items():
                change.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        self.incarnation = self._meta("incarnation")
        self.mark(marker)

    def mark(self, marker: Path) -> None:
        """Write down which database this is and how far its journal reaches."""
        publish(marker, f"{self._meta('boot')} {self._head}\n".encode())

    def query(self, sql: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """Rows of a SELECT; inside a change as it has left them. Raises LoraError(STORAGE)."""
        inside = self._changing == threading.get_ident()
        try:
            return (self._connection if inside else self._reader).execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise explained(error, self.database) from None

    def touched(self, dataset: str) -> int:
        """The number of the newest event about a dataset (by its id): what was read after asking
        for it is still so while it is the same. 0 before the first since this start."""
        return self._touched.get(dataset, 0)

    @contextmanager
    def change(self, by: str) -> Iterator[Change]:
        """One transaction, on leaving durable and then announced; an exception rolls it back.

        Give ``remember`` the answer inside the block so that a retry finds it. Must not contain an
        ``await``. Raises LoraError(STORAGE).
        """
        with self._transaction(by) as change:
            yield change
        self._announce()

    async def aside(self, by: str, work: Callable[[Change], R], attached: Path) -> R:
        """As ``change``, for a large one: ``work`` does it in a thread, so that the loop goes on.

        ``attached`` is a database of which it can read the tables, as ``aside.name``. It is never
        left half way: cancelled, it comes to its end first. Raises LoraError(STORAGE).
        """
        task = asyncio.create_task(self._in_thread(by, work, attached))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def quiet(self) -> None:
        """Wait for the end of a large change: to change something meanwhile would stop the loop."""
        async with self._aside:
            pass

    async def _in_thread(self, by: str, work: Callable[[Change], R], attached: Path) -> R:
        def change() -> R:
            with self._turn, self._attached(attached), self._transaction(by) as change:
                return work(change)

        async with self._aside:
            try:
                return await asyncio.to_thread(change)
            finally:
                self._announce()

    @contextmanager
    def _attached(self, database: Path) -> Iterator[None]:
        try:
            self._connection.execute("ATTACH ? AS aside", (str(database),))
        except sqlite3.Error as error:
            raise explained(error, database) from None
        try:
            yield
        finally:
            self._connection.execute("DETACH aside")

    @contextmanager
    def _transaction(self, by: str) -> Iterator[Change]:
        with self._turn:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise explained(error, self.database) from None
            self._changing = threading.get_ident()
            change = Change(self._connection, by, self._head)
            try:
                yield change
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise explained(error, self.database) from None
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._changing = 0
            self._head = change.head
            self._untold.extend(change.events)
            for entry in change.events:
                dataset = getattr(entry.event, "dataset", "")
                self._touched[getattr(dataset, "id", dataset)] = entry.seq

    def _announce(self) -> None:
        while self._untold:
            self.announce(self._untold.popleft())

    def remember(self, change: Change, key: str, answer: Any) -> None:
        """Keep the answer of a change under the client's key, inside the change itself."""
        if key:
            change.execute(
                "INSERT INTO effects (key, at, answer) VALUES (?, ?, ?)",
                (key, change.at, wire.encoder.encode(answer)),
            )

    def remembered(self, key: str) -> bytes | None:
        """The msgpack answer of an earlier change with this key, if there was one."""
        rows = self.query("SELECT answer FROM effects WHERE key = ?", (key,)) if key else []
        return bytes(rows[0]["answer"]) if rows else None

    def events_after(self, seq: int) -> list[wire.Journalled] | None:
        """Every event after ``seq`` in order; None if the journal no longer reaches back."""
        if seq > self._head:
            return None
        rows = self.query("SELECT * FROM journal WHERE seq > ? ORDER BY seq", (seq,))
        if len(rows) != self._head - seq:
            return None
        return [
            wire.Journalled(
                seq=row["seq"],
                at=row["at"],
                by=row["by"],
                event=self._decode_event(row["event"]),
            )
            for row in rows
        ]

    def prune(self) -> None:
        """Forget journal entries and effects that are too old to matter."""
        with self.change("daemon") as change:
            change.execute("DELETE FROM journal WHERE seq <= ?", (self._head - JOURNAL_KEPT,))
            change.execute("DELETE FROM effects WHERE at < ?", (time.time() - EFFECTS_KEPT,))

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _query_one(self, sql: str) -> sqlite3.Row:
        row: sqlite3.Row = self._connection.execute(sql).fetchone()
        return row

    def _meta(self, key: str) -> str:
        rows = self.query("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else ""

    def _migrate(self) -> None:
        present = self._query_one("PRAGMA user_version")[0]
        scripts = migrations()
        if present > len(scripts):
            raise LoraError(
                Code.STORAGE,
                f"{self.database} was written by a newer lora-tui (schema {present}, this one "
                f"knows {len(scripts)}). Install that version or choose another LORA_TUI_HOME.",
            )
        for version, script in enumerate(scripts[present:], present + 1):
            self._connection.execute("BEGIN EXCLUSIVE")
            if version == 1:
                self._connection.execute(
                    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"
                )
                self._connection.execute(
                    "INSERT INTO meta VALUES ('incarnation', ?)", (uuid.uuid4().hex,)
                )
            for statement in _statements(script):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {version}")
            self._connection.execute("COMMIT")


def read_only(database: Path) -> str:
    """The database's address for a connection that cannot change it."""
    return f"{database.absolute().as_uri()}?mode=ro"


def _connected(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        database, isolation_level=None, check_same_thread=False, timeout=PATIENCE
    )
    connection.row_factory = sqlite3.Row
    return connection


def migrations() -> list[str]:
    """The SQL of schema versions 1, 2, … in order."""
    folder = importlib.resources.files("lora_daemon") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(folder / name).read_text("utf-8") for name in names]


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, without executescript's hidden commit."""
    statement = ""
    for line in re.sub(r"--[^\n]*", "", script).splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


_ADVICE = {
    sqlite3.SQLITE_FULL: "The disk is full: free some space and try again.",
    sqlite3.SQLITE_READONLY: "It cannot be written: is the file system mounted read-only?",
    sqlite3.SQLITE_CANTOPEN: "It cannot be opened: is its folder there, and yours?",
    sqlite3.SQLITE_PERM: "Permission is denied: check who owns it.",
    sqlite3.SQLITE_IOERR: "The disk reports an error, or is full: look at the system's log.",
    sqlite3.SQLITE_CORRUPT: "The file is damaged: restore a backup, or move it away to start anew.",
    sqlite3.SQLITE_NOTADB: "The file is damaged: restore a backup, or move it away to start anew.",
    sqlite3.SQLITE_BUSY: "Another program holds it: close what has it open and try again.",
    sqlite3.SQLITE_LOCKED: "Another program holds it: close what has it open and try again.",
}


def explained(error: sqlite3.Error, database: Path) -> Exception:
    """The error in words if the disk is to blame; else the error itself, a fault of ours."""
    advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if advice is None:
        return error
    return LoraError(Code.STORAGE, f"The workspace's database {database}: {advice}", retryable=True)
