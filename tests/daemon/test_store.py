"""The database: all of a change or nothing of it, whatever the disk does; old ones are read on."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lora_daemon.domain import Domain
from lora_daemon.service import Daemon, Handlers
from lora_daemon.store import Change, Store, migrations
from shared import wire
from shared.client import Client
from shared.errors import Code, LoraError
from shared.paths import Workspace
from tests.daemon.process import DaemonProcess, imported, pictures, script
from tests.fixtures import make_workspace

BASE = make_workspace.BASE
FIXTURES = sorted(make_workspace.WORKSPACES.glob("schema-*.sqlite3"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "test.sqlite3")
    yield opened
    opened.close()


def add(store: Store, name: str, key: str = "") -> None:
    base = msgspec.structs.replace(BASE, name=name)
    with store.change("test") as change:
        change.execute("INSERT INTO bases VALUES (?, ?)", (name, wire.encoder.encode(base)))
        change.emit(wire.BaseChanged(base=base))
        store.remember(change, key, base)


def names(store: Store) -> list[str]:
    return [row["name"] for row in store.query("SELECT name FROM bases ORDER BY rowid")]


def test_a_change_is_announced_once_it_is_durable(store: Store) -> None:
    seen: list[tuple[int, list[str]]] = []
    other = sqlite3.connect(store.database)

    def announce(entry: wire.Journalled) -> None:
        rows = other.execute("SELECT name FROM bases").fetchall()
        seen.append((entry.seq, [row[0] for row in rows]))

    store.announce = announce
    add(store, "one")
    add(store, "two")
    other.close()
    assert seen == [(1, ["one"]), (2, ["one", "two"])]


def test_a_change_that_fails_leaves_nothing(store: Store) -> None:
    announced: list[wire.Journalled] = []
    store.announce = announced.append
    add(store, "one")
    with pytest.raises(ZeroDivisionError), store.change("test") as change:
        change.execute("INSERT INTO bases VALUES ('two', x'')")
        change.emit(wire.BaseChanged(base=BASE))
        store.remember(change, "key", wire.Done())
        raise ZeroDivisionError
    assert names(store) == ["one"]
    assert store.remembered("key") is None
    assert store.head_seq == len(announced) == 1
    add(store, "three")
    assert [entry.seq for entry in announced] == [1, 2]
    events = store.events_after(0)
    assert events is not None and [entry.seq for entry in events] == [1, 2]


def test_a_fault_of_ours_is_not_blamed_on_the_disk(store: Store) -> None:
    add(store, "one")
    with pytest.raises(sqlite3.IntegrityError):
        add(store, "one")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        store.query("SELECT * FROM nowhere")
    assert names(store) == ["one"]


def test_what_is_acknowledged_is_on_the_disk_first(store: Store) -> None:
    assert store.query("PRAGMA synchronous")[0][0] == 2  # FULL: a commit waits for its fsync
    assert store.query("PRAGMA journal_mode")[0][0] == "wal"


def test_a_network_file_system_gets_a_rollback_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_daemon.store.is_network", lambda _: True)
    store = Store(tmp_path / "test.sqlite3")
    assert store.query("PRAGMA journal_mode")[0][0] == "delete"
    add(store, "one")
    store.close()


@pytest.mark.parametrize("network", [False, True])
async def test_a_large_change_runs_aside_while_reading_goes_on(
    network: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_daemon.store.is_network", lambda _: network)
    store, told = Store(tmp_path / "test.sqlite3"), list[wire.Journalled]()
    store.announce = told.append
    with contextlib.closing(sqlite3.connect(tmp_path / "beside.sqlite3")) as beside:
        beside.execute("CREATE TABLE names AS SELECT 'two' AS name")
    begun, go_on = threading.Event(), threading.Event()

    def work(change: Change) -> list[str]:
        change.execute("INSERT INTO bases SELECT name, zeroblob(10000000) FROM aside.names")
        change.emit(wire.BaseChanged(base=BASE))
        begun.set()
        assert go_on.wait(60)
        return names(store)

    add(store, "one")
    large = asyncio.create_task(store.aside("test", work, tmp_path / "beside.sqlite3"))
    await asyncio.to_thread(begun.wait, 60)
    assert names(store) == ["one"]  # what is durable, at once
    waiting = asyncio.create_task(store.quiet())
    large.cancel()  # it is too late: it comes to its end
    await asyncio.sleep(0)
    assert not waiting.done() and not large.done() and len(told) == 1
    go_on.set()
    await waiting
    with pytest.raises(asyncio.CancelledError):
        await large
    assert names(store) == ["one", "two"]
    add(store, "three")
    assert [entry.seq for entry in told] == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        await store.aside("test", lambda change: 1 // 0, tmp_path / "beside.sqlite3")
    add(store, "four")  # nothing of that is left
    store.close()


def test_an_effect_is_remembered_with_its_change(store: Store) -> None:
    add(store, "one", key="key")
    answer = store.remembered("key")
    assert answer is not None
    assert msgspec.msgpack.decode(answer, type=wire.BaseModel).name == "one"
    assert store.remembered("another") is None and store.remembered("") is None


def test_what_is_closed_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    first = Store(tmp_path / "test.sqlite3")
    add(first, "one", key="key")
    first.close()
    second = Store(tmp_path / "test.sqlite3")
    assert (names(second), second.head_seq, second.incarnation) == (["one"], 1, first.incarnation)
    assert second.remembered("key") is not None
    second.close()


def test_numbers_never_go_back_when_the_journal_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_daemon.store.JOURNAL_KEPT", 1)
    first = Store(tmp_path / "test.sqlite3")
    add(first, "one")
    add(first, "two")
    first.prune()
    first.close()
    second = Store(tmp_path / "test.sqlite3")
    assert second.head_seq == 2
    add(second, "three")
    assert second.head_seq == 3
    second.close()


def test_a_killed_writer_leaves_what_it_was_told_is_durable(tmp_path: Path) -> None:
    text = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lora_daemon.store import Store\n"
        "from tests.daemon.test_store import add\n"
        f"store = Store(Path({str(tmp_path / 'test.sqlite3')!r}))\n"
        "for number in range(1_000_000):\n"
        "    add(store, str(number))\n"
        "    print(number, flush=True)\n"
    )
    writer = script(text, cwd=Path(__file__).parents[2])
    assert writer.stdout is not None
    for _ in range(50):
        writer.stdout.readline()
    writer.kill()
    told = [*map(str, range(50)), *writer.stdout.read().split()]
    writer.wait()
    store = Store(tmp_path / "test.sqlite3")
    found = names(store)
    assert found[: len(told)] == told
    assert len(found) <= len(told) + 1  # one may be durable and not yet told
    assert store.head_seq == len(found)
    store.close()


def test_a_database_from_a_backup_is_another_journal(tmp_path: Path) -> None:
    database, marker, backup = tmp_path / "db", tmp_path / "marker", tmp_path / "backup"

    def opened(*, adding: str = "", marked: bool = True) -> str:
        store = Store(database)
        store.recognise(marker)
        if adding:
            add(store, adding)
        if marked:  # else it was killed
            store.mark(marker)
        store.close()
        return store.incarnation

    first = opened(adding="one")
    assert opened(adding="two") == opened(marked=False) == opened() == first
    shutil.copy(database, backup)
    assert opened(adding="three") == first
    shutil.copy(backup, database)
    second = opened(adding="another three")
    assert second != first
    assert opened() == second

    store = Store(database)  # a backup made and put back within one daemon's life
    store.recognise(marker)
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(database, backup)
    add(store, "four")
    store.mark(marker)
    store.close()
    shutil.copy(backup, database)
    assert opened() not in (first, second)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "test.sqlite3").close()
    connection = sqlite3.connect(tmp_path / "test.sqlite3")
    connection.execute(f"PRAGMA user_version = {len(migrations()) + 1}")
    connection.close()
    with pytest.raises(LoraError, match="newer lora-tui") as caught:
        Store(tmp_path / "test.sqlite3")
    assert caught.value.code is Code.STORAGE


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.sqlite3").write_bytes(b"never a database" * 1000)
    with pytest.raises(LoraError, match="damaged"):
        Store(tmp_path / "test.sqlite3")


def rows(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    connection = sqlite3.connect(database)
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    found = {
        name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
        for (name,) in tables
        if not name.startswith("sqlite_")
    }
    connection.close()
    return found


def test_every_schema_has_left_a_workspace() -> None:
    assert len(FIXTURES) == len(migrations()), "run tests/fixtures/make_workspace.py"


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_an_old_workspace_is_brought_up_to_date_with_all_it_held(
    fixture: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    before = rows(shutil.copy(fixture, workspace.database))
    assert all(before.values()), "a table of the fixture is empty"
    store = Store(workspace.database)
    after = rows(workspace.database)
    for table, held in before.items():
        assert len(after[table]) == len(held), table
    assert store.query("PRAGMA user_version")[0][0] == len(migrations())
    assert store.query("PRAGMA integrity_check")[0][0] == "ok"
    assert store.query("PRAGMA foreign_key_check") == []
    assert store.incarnation == "fixture"
    assert store.head_seq == 5
    events = store.events_after(0)
    assert events is not None and events[0].event == wire.CaptionChanged(
        dataset="d1", item="i1", caption=make_workspace.CAPTION
    )

    class Nobody:
        def publish(self, value: wire.AnyLive) -> None: ...

    state = Domain(Daemon(workspace, store, Nobody()), Handlers()).state()
    # What a run took was not kept then.
    assert state.runs == [msgspec.structs.replace(make_workspace.RUN, took=0.0)]
    assert state.loras == [make_workspace.LORA]
    assert state.bases == [make_workspace.BASE]
    assert state.pictures == [make_workspace.PICTURE]
    assert [(d.id, d.name, d.items) for d in state.datasets] == [("d1", "dragons", 1)]
    store.close()


async def test_a_full_disk_costs_the_change_and_nothing_else(
    mount: Callable[[str], None], home: Path, daemon: DaemonProcess, tmp_path: Path
) -> None:
    mount("size=3m")
    async with await Client.connect(home=home, subscribe=True) as client:
        item = (await imported(client, pictures(tmp_path / "set", 1)))[0]
        ballast = home / "ballast"
        with pytest.raises(OSError, match="No space"), ballast.open("wb", 0) as file:
            while True:
                file.write(b"x" * 4096)
        texts = [f"{number} " + "word " * 800 for number in range(30)]
        kept, rev = item.caption.text, item.caption.rev
        with pytest.raises(LoraError) as caught:
            for text in texts:
                change = wire.ChangeCaption(
                    dataset=item.dataset, item=item.id, if_rev=rev, text=text
                )
                answer = await client.call(change)
                kept, rev = answer.caption.text, answer.caption.rev
        assert caught.value.code is Code.STORAGE
        assert "full" in caught.value.message
        present = await client.call(wire.GetItem(dataset=item.dataset, item=item.id))
        assert (present.caption.text, present.caption.rev) == (kept, rev)

        ballast.unlink()
        change = wire.ChangeCaption(
            dataset=item.dataset, item=item.id, if_rev=rev, text="after all"
        )
        assert (await client.call(change)).caption.text == "after all"
        pid = (await client.call(wire.GetStatus())).pid
    assert pid == daemon.pid
    await daemon.kill()
    async with await Client.connect(home=home) as client:
        present = await client.call(wire.GetItem(dataset=item.dataset, item=item.id))
        assert present.caption.text == "after all"
    await daemon.kill()
