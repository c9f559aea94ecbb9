"""Edits of many captions: shown before, made as one, taken back as one, whatever comes between."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_daemon.store import Store
from shared import wire
from shared.client import Client
from shared.edits import AddTag, Prefix, RemoveTag, Replace, ReplaceRegex, Trigger
from shared.errors import Code, LoraError
from tests.daemon.house import House
from tests.daemon.process import DaemonProcess, follow, imported, pictures
from tests.daemon.test_captions import changed, fill
from tests.daemon.waiting import written

UNDO = wire.UndoCaption(dataset="set")
REDO = wire.UndoCaption(dataset="set", redo=True)


async def edited(client: Client, **fields: object) -> wire.Edited:
    """Preview and apply."""
    preview = await client.call(wire.PreviewEdit(dataset="set", **fields))  # type: ignore[arg-type]
    return await client.call(wire.ApplyEdit(preview=preview.preview))


async def captions(client: Client) -> list[str]:
    items = (await client.call(wire.ListItems(dataset="set"))).items
    return [item.caption.text for item in items]


async def test_a_preview_shows_every_difference_and_changes_nothing(
    client: Client, tmp_path: Path
) -> None:
    await imported(client, pictures(tmp_path / "set", 5))
    preview = await client.call(
        wire.PreviewEdit(
            dataset="set", edits=[Replace("picture 3", "a dragon"), AddTag("a dragon")]
        )
    )
    assert (preview.changed, preview.unchanged, preview.too_long) == (5, 0, 0)
    assert preview.what == "replace “picture 3” “a dragon”, add tag “a dragon”"
    ask = wire.ListDifferences(preview=preview.preview, offset=3, limit=1)
    page = await client.call(ask)
    assert (page.total, page.conflicts) == (5, 0)
    (one,) = page.differences
    assert (one.name, one.rev, one.text, one.new_text) == ("003.png", 1, "picture 3", "a dragon")
    assert (one.state, one.new_state) == ("unreviewed", "unreviewed")
    assert await captions(client) == [f"picture {n}" for n in range(5)]


async def test_an_edit_is_one_change_and_one_undo_takes_it_back(
    client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 4)
    await imported(client, folder)
    await changed(client, (await client.call(wire.ListItems(dataset="set"))).items[1], text="mine")
    seen = client.seq
    done = await edited(client, edits=[AddTag("solo")])
    assert (done.changed, done.conflicts, done.what) == (4, 0, "add tag “solo”")
    await follow(client, seen + 2)  # two events, however many captions
    assert (await client.call(wire.GetStatus())).head_seq == seen + 2
    assert await captions(client) == ["picture 0, solo", "mine, solo", *(
        f"picture {n}, solo" for n in (2, 3)
    )]  # fmt: skip
    item = await client.call(wire.GetItem(dataset="set", item="001.png"))
    assert (item.caption.rev, item.caption.by, item.caption.source) == (3, "tester", "person")
    assert item.caption.state == "edited"
    other = await client.call(wire.GetItem(dataset="set", item="002.png"))
    assert other.caption.state == "unreviewed"  # nobody has looked at it
    await written(client, folder / "003.txt", "picture 3, solo")
    undone = await client.call(UNDO)
    assert (undone.changed, undone.what, undone.item.name) == (4, "add tag “solo”", "000.png")
    assert await captions(client) == ["picture 0", "mine", "picture 2", "picture 3"]
    await written(client, folder / "003.txt", "picture 3")
    again = await client.call(REDO)
    assert (again.changed, again.conflicts) == (4, 0)
    assert (await captions(client))[1] == "mine, solo"
    await client.call(UNDO)
    assert (await client.call(UNDO)).what == "edit of 001.png"
    assert (await captions(client))[1] == "picture 1"


async def test_undo_and_redo_outlive_the_daemon_single_edits_and_large_ones(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 3)
    async with await Client.connect(home=daemon.home, name="tester") as client:
        (first, *_) = await imported(client, folder)
        await changed(client, first, text="one")
        await edited(client, edits=[Prefix("all: ")])
        await client.call(UNDO)
        await daemon.kill()
    async with await Client.connect(home=daemon.home, name="tester") as client:
        assert (await client.call(REDO)).changed == 3
        assert await captions(client) == ["all: one", "all: picture 1", "all: picture 2"]
        await written(client, folder / "002.txt", "all: picture 2")
        assert (await client.call(UNDO)).changed == 3
        assert (await client.call(UNDO)).item.caption.text == "picture 0"
        await daemon.kill()
    async with await Client.connect(home=daemon.home, name="tester") as client:
        assert (await client.call(REDO)).item.caption.text == "one"
        assert (await client.call(REDO)).changed == 3
        assert (await captions(client))[0] == "all: one"


async def test_redo_does_again_what_was_taken_back_last_and_nothing_older(
    client: Client, tmp_path: Path
) -> None:
    (item,) = await imported(client, pictures(tmp_path / "set", 1))
    for text in ("one", "two"):
        await changed(client, item, text=text)
        await client.call(UNDO)
    assert (await client.call(REDO)).item.caption.text == "two"
    with pytest.raises(LoraError) as caught:
        await client.call(REDO)
    assert caught.value.code is Code.WRONG_STATE
    await client.call(UNDO)
    preview = await client.call(wire.PreviewEdit(dataset="set", edits=[RemoveTag("nowhere")]))
    assert (await client.call(wire.ApplyEdit(preview=preview.preview))).changed == 0
    assert (await client.call(REDO)).item.caption.text == "two"  # nothing came between


async def test_what_changed_after_the_preview_is_left_alone_and_told(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    first, second, *_ = await imported(client, pictures(tmp_path / "set", 4))
    preview = await client.call(wire.PreviewEdit(dataset="set", edits=[AddTag("solo")]))
    async with await Client.connect(home=daemon.home, name="anna") as other:
        await changed(other, first, text="anna's")
    await changed(client, second, state="flagged")
    page = await client.call(wire.ListDifferences(preview=preview.preview))
    assert page.conflicts == 2
    assert page.differences[0].current is not None
    assert page.differences[0].current.text == "anna's"
    done = await client.call(wire.ApplyEdit(preview=preview.preview))
    assert (done.changed, done.conflicts) == (2, 2)
    assert [(kept.current.text, kept.text) for kept in done.kept] == [
        ("anna's", "picture 0, solo"), ("picture 1", "picture 1, solo"),
    ]  # fmt: skip
    assert await captions(client) == ["anna's", "picture 1", "picture 2, solo", "picture 3, solo"]
    twice = await client.call(wire.ApplyEdit(preview=preview.preview))
    assert (twice.changed, twice.conflicts) == (0, 4)
    assert (await client.call(UNDO)).changed == 2  # an edit that changed nothing is none


async def test_undo_leaves_alone_what_others_have_changed_and_shows_both(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    first, second, _ = await imported(client, pictures(tmp_path / "set", 3))
    await edited(client, edits=[AddTag("solo")])
    async with await Client.connect(home=daemon.home, name="anna") as other:
        await changed(other, first, text="anna's")
        await changed(other, second, state="accepted")
        undone = await client.call(UNDO)
        assert (undone.changed, undone.conflicts) == (1, 2)
        assert [(kept.current.text, kept.text) for kept in undone.kept] == [
            ("anna's", "picture 0"), ("picture 1, solo", "picture 1"),
        ]  # fmt: skip
        assert await captions(client) == ["anna's", "picture 1, solo", "picture 2"]
        again = await client.call(REDO)
        assert (again.changed, again.conflicts) == (1, 2)
        await edited(other, edits=[Prefix("x ")])
    with pytest.raises(LoraError) as caught:
        await client.call(UNDO)
    assert caught.value.code is Code.CONFLICT
    assert caught.value.data["current"]["text"] == "x anna's"
    assert caught.value.data["wanted"]["text"] == "picture 0"
    assert len(caught.value.data["kept"]) == 3
    assert (await captions(client))[2] == "x picture 2, solo"
    with pytest.raises(LoraError) as caught:  # it stands now: the next undo goes on before it
        await client.call(UNDO)
    assert caught.value.code is Code.WRONG_STATE


async def test_a_single_undo_that_is_refused_shows_both_texts(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    (item,) = await imported(client, pictures(tmp_path / "set", 1))
    await changed(client, item, text="mine")
    async with await Client.connect(home=daemon.home, name="anna") as other:
        await changed(other, item, text="anna's")
    with pytest.raises(LoraError) as caught:
        await client.call(UNDO)
    assert caught.value.data["current"]["text"] == "anna's"
    assert caught.value.data["wanted"]["text"] == "picture 0"


async def test_which_pictures_a_filter_its_standing_list_or_names(
    client: Client, tmp_path: Path
) -> None:
    items = await imported(client, pictures(tmp_path / "set", 6))
    for item in items[:3]:
        await changed(client, item, state="flagged")
    page = await client.call(wire.ListItems(dataset="set", filter="state:flagged"))
    await changed(client, items[0], state="accepted")  # it leaves the filter, not the list
    ask = wire.PreviewEdit(dataset="set", edits=[AddTag("x")], filter="state:flagged")
    assert (await client.call(ask)).changed == 2
    ask = wire.msgspec.structs.replace(ask, view=page.view)
    assert (await client.call(ask)).changed == 3
    assert (await edited(client, edits=[AddTag("x")], items=[items[5].id, "004.png"])).changed == 2
    assert [text for text in await captions(client) if "x" in text] == [
        "picture 4, x",
        "picture 5, x",
    ]
    with pytest.raises(LoraError) as caught:
        await edited(client, edits=[AddTag("x")], items=["nowhere.png"])
    assert caught.value.code is Code.NOT_FOUND


async def test_a_state_for_all_with_texts_or_without(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 3)
    await imported(client, folder)
    done = await edited(client, state="accepted")
    assert (done.changed, done.what) == (3, "set accepted")
    assert client.state.datasets[0].counts["accepted"] == 3
    await edited(client, edits=[Trigger("sks")], state="flagged")
    assert client.state.datasets[0].counts["flagged"] == 3
    await client.call(UNDO)
    assert client.state.datasets[0].counts["accepted"] == 3
    assert await captions(client) == [f"picture {n}" for n in range(3)]
    item = await client.call(wire.GetItem(dataset="set", item="000.png"))
    assert item.caption.source == "file"


async def test_filters_and_numbers_follow_as_after_single_edits(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    """What the triggers do for one row is done for many at once: the same, and they are back."""
    await imported(client, pictures(tmp_path / "set", 40))
    odd = ", A  b ,C\t\tD,\r\n  Äpfel,,龍 \n"
    await edited(client, edits=[Prefix(odd)])
    await edited(client, edits=[Replace("picture 1", "")], filter='name:"00"')
    await edited(client, edits=[ReplaceRegex("(?s).*", "")], items=["001.png", "002.png"])
    page = await client.call(wire.ListItems(dataset="set", filter='tag:"a b" tag:äpfel tag:"c d"'))
    assert page.total == 38
    assert client.state.datasets[0].empty == 2
    with sqlite3.connect(daemon.workspace.database) as database:
        rows = database.execute("SELECT id, tags FROM items ORDER BY id").fetchall()
        counts = database.execute("SELECT * FROM counts ORDER BY 2").fetchall()
        database.execute("UPDATE items SET tags = ''")  # has the triggers make them anew
        again = database.execute("SELECT id, tags FROM items ORDER BY id").fetchall()
        assert rows == again
        database.execute("UPDATE items SET state = state")
        assert counts == [c for c in database.execute("SELECT * FROM counts ORDER BY 2") if c[2]]
        triggers = database.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'")
        assert triggers.fetchone() == (9,)
        database.rollback()


async def test_what_would_be_no_caption_any_more_stays(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 2)
    (folder / "000.txt").write_text("龍" * 10_500)
    await imported(client, folder)
    preview = await client.call(wire.PreviewEdit(dataset="set", edits=[Prefix("x" * 2000)]))
    assert (preview.changed, preview.too_long) == (1, 1)


async def test_a_regex_that_takes_for_ever_is_given_up_and_holds_up_nobody(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_daemon.bulk.STUCK", 2.0)
    folder = pictures(tmp_path / "set", 1)
    (folder / "000.txt").write_text("a" * 60)
    house = House(home)
    await house.call(wire.ImportDataset(path=str(folder)))
    ask = wire.PreviewEdit(dataset="set", edits=[ReplaceRegex("(a+)+b", "x")])
    waiting = asyncio.create_task(house.call(ask))
    meanwhile = wire.PreviewEdit(dataset="set", edits=[ReplaceRegex("a+", "x")])
    assert (await house.call(meanwhile)).changed == 1
    assert not waiting.done()
    with pytest.raises(LoraError) as caught:
        await waiting
    assert caught.value.code is Code.BAD_REQUEST
    assert "for ever" in caught.value.message
    assert len(list((house.workspace.cache / "edits").iterdir())) == 1
    await house.close()


async def test_edits_that_make_no_sense_are_refused_in_words(
    client: Client, tmp_path: Path
) -> None:
    await imported(client, pictures(tmp_path / "set", 1))
    for ask, said in (
        (wire.PreviewEdit(dataset="set"), "edits, a state"),
        (wire.PreviewEdit(dataset="set", edits=[RemoveTag("a,b")]), "more than one tag"),
        (wire.PreviewEdit(dataset="set", edits=[RemoveTag("a")], filter="tag:"), "needs a value"),
        (wire.ApplyEdit(preview="nothing"), "is forgotten"),
        (wire.ListDifferences(preview="../x"), "is forgotten"),
        (wire.PreviewEdit(dataset="none", edits=[RemoveTag("a")]), "no dataset"),
    ):  # fmt: skip
        with pytest.raises(LoraError, match=said):
            await client.call(ask)


async def test_the_same_key_again_edits_once(client: Client, tmp_path: Path) -> None:
    await imported(client, pictures(tmp_path / "set", 3))
    preview = await client.call(wire.PreviewEdit(dataset="set", edits=[Prefix("x ")]))
    apply = wire.ApplyEdit(preview=preview.preview)
    first = await client.call(apply, key="key")
    assert await client.call(apply, key="key") == first
    assert (await captions(client))[0] == "x picture 0"


async def test_on_a_full_disk_nothing_is_changed_and_it_is_said(
    mount: Callable[[str], None], daemon: DaemonProcess, tmp_path: Path
) -> None:
    mount("size=6m")
    async with await Client.connect(home=daemon.home, name="tester") as client:
        await imported(client, pictures(tmp_path / "set", 120))
        ask = wire.PreviewEdit(dataset="set", edits=[Prefix("x" * 2000)])
        apply = wire.ApplyEdit(preview=(await client.call(ask)).preview)
        fill(daemon.home / "ballast")
        for request in (apply, ask):
            with pytest.raises(LoraError) as caught:
                await client.call(request)
            assert caught.value.code is Code.STORAGE
            assert "full" in caught.value.message
        assert (await captions(client))[7] == "picture 7"
        (daemon.home / "ballast").unlink()
        assert (await client.call(apply)).changed == 120
        fill(daemon.home / "ballast")
        with pytest.raises(LoraError) as caught:
            await client.call(UNDO)
        assert caught.value.code is Code.STORAGE
        (daemon.home / "ballast").unlink()
        assert (await client.call(UNDO)).changed == 120
        assert (await captions(client))[7] == "picture 7"


async def test_old_previews_give_way(client: Client, tmp_path: Path, daemon: DaemonProcess) -> None:
    await imported(client, pictures(tmp_path / "set", 1))
    ask = wire.PreviewEdit(dataset="set", edits=[AddTag("x")])
    previews = [(await client.call(ask)).preview for _ in range(9)]
    await client.call(wire.ListDifferences(preview=previews[1]))
    with pytest.raises(LoraError, match="Preview the edit again"):
        await client.call(wire.ApplyEdit(preview=previews[0]))
    assert len(list((daemon.workspace.cache / "edits").iterdir())) == 8


async def test_files_follow_with_progress(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_daemon.writing.WRITE_TOLD", 20)
    folder = pictures(tmp_path / "set", 40)
    house = House(home)
    await house.domain.start()
    await house.call(wire.ImportDataset(path=str(folder)))
    preview = await house.call(wire.PreviewEdit(dataset="set", edits=[AddTag("solo")]))
    await house.call(wire.ApplyEdit(preview=preview.preview))

    def jobs() -> list[wire.Job]:
        live = [value.job for value in house.heard if isinstance(value, wire.JobChanged)]
        return [job for job in live if job.kind == "write"]

    await house.until(lambda: bool(jobs()) and jobs()[-1].state == "done")
    assert (jobs()[-1].done, jobs()[-1].total) == (40, 40)
    assert all((folder / f"{n:03}.txt").read_text() == f"picture {n}, solo" for n in range(40))
    await house.close()


# ── kill -9 in the middle ───────────────────────────────────────────────────────────────────────


def many(home: Path, count: int) -> None:
    """A dataset of long captions whose pictures are nowhere: the files' turn never comes."""
    home.mkdir(mode=0o700, parents=True)
    store = Store(home / "lora-tui.sqlite3")
    chance = random.Random(1)
    filler = "word " * 250
    rows = [(f"{chance.getrandbits(64):016x}", f"{n:06}.png", f"tag{n}, {filler}")
            for n in range(count)]  # fmt: skip
    with store.change("test") as change:
        change.execute("INSERT INTO datasets VALUES ('d1', 'set', '/nowhere', 0)")
        change.executemany(
            "INSERT INTO items (id, dataset, name, content, width, height, size, mtime, problem,"
            " text, state, rev, source, by, at)"
            " VALUES (?, 'd1', ?, '', 9, 9, 9, 1, '', ?, 'unreviewed', 1, 'file', 'import', 0)",
            rows,
        )
        change.execute("INSERT INTO revisions SELECT id, rev, text, state, source, by, at, 0"
                       " FROM items")  # fmt: skip
    store.close()


async def killed_in_the_middle(
    daemon: DaemonProcess, request: wire.Request[Any], chance: random.Random
) -> None:
    """Send a request and kill the daemon while its transaction is open."""
    other = sqlite3.connect(daemon.workspace.database, isolation_level=None, timeout=0)
    async with await Client.connect(home=daemon.home, name="tester") as client:
        # Counted now, tokens are not what holds the database later.
        await client.call(wire.ListItems(dataset="set", filter="tokens:>0", limit=0))
        if isinstance(request, wire.PreviewEdit):
            request = wire.ApplyEdit(preview=(await client.call(request)).preview)
        call = asyncio.create_task(client.call(request))
        await asyncio.sleep(0)
        held = 0
        while not call.done() and held < chance.randrange(1, 20):
            await client.call(wire.GetItem(dataset="set", item="000000.png"))  # reading goes on
            held += is_held(other)
        assert not call.done()
        await daemon.kill()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError, LoraError):
            await call
    other.close()


def is_held(database: sqlite3.Connection) -> bool:
    """Whether somebody has a transaction open that writes."""
    try:
        database.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    database.execute("ROLLBACK")
    return False


def verified(daemon: DaemonProcess, count: int) -> str:
    """All captions or none; "made" or "not made"."""
    with sqlite3.connect(daemon.workspace.database) as database:

        def one(sql: str) -> int:
            return int(database.execute(sql).fetchone()[0])

        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert one("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'") == 9
        made = one("SELECT count(*) FROM items WHERE text LIKE 'made %'")
        assert made in (0, count)
        assert one("SELECT count(*) FROM items WHERE tags LIKE ',made %'") == made
        assert one("SELECT count(*) FROM items i JOIN revisions r ON r.item = i.id"
                   " AND r.rev = i.rev AND r.text = i.text") == count  # fmt: skip
        revisions, ops = one("SELECT count(*) FROM revisions"), one("SELECT count(*) FROM ops")
        assert revisions == count * (1 + ops)
        assert one("SELECT sum(items) FROM counts") == count
    return "made" if made else "not made"


async def campaign(daemon: DaemonProcess, count: int) -> None:
    chance = random.Random(count)
    many(daemon.home, count)
    preview = wire.PreviewEdit(dataset="set", edits=[Prefix("made ")])
    await killed_in_the_middle(daemon, preview, chance)
    if verified(daemon, count) == "not made":
        async with await Client.connect(home=daemon.home, name="tester") as client:
            assert (await edited(client, edits=[Prefix("made ")])).changed == count
            await daemon.kill()
        assert verified(daemon, count) == "made"
    with sqlite3.connect(daemon.workspace.database) as database:
        database.execute("UPDATE items SET pending = 0")  # nor are files
    await killed_in_the_middle(daemon, UNDO, chance)
    if verified(daemon, count) == "made":
        async with await Client.connect(home=daemon.home, name="tester") as client:
            assert (await client.call(UNDO)).changed == count
        assert verified(daemon, count) == "not made"


async def test_killed_in_the_middle_all_is_made_or_nothing(daemon: DaemonProcess) -> None:
    await campaign(daemon, 600)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_killed_in_the_middle_of_a_hundred_thousand(daemon: DaemonProcess) -> None:
    await campaign(daemon, 100_000)
