"""Captions: revisions, conflicts, undo, and the files beside the pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lora_daemon import sidecars
from shared import wire
from shared.client import Client
from shared.errors import Code, LoraError
from tests.daemon.process import DaemonProcess, imported, pictures
from tests.daemon.waiting import written


async def changed(client: Client, item: wire.Item, **fields: Any) -> wire.Item:
    """Change a caption from its newest revision."""
    now = await client.call(wire.GetItem(dataset=item.dataset, item=item.id))
    return await client.call(
        wire.ChangeCaption(dataset=item.dataset, item=item.id, if_rev=now.caption.rev, **fields)
    )


async def test_setting_a_text_edits_and_setting_a_state_keeps_the_text(
    client: Client, tmp_path: Path
) -> None:
    (item,) = await imported(client, pictures(tmp_path / "set", 1))
    edited = await changed(client, item, text="a dragon")
    assert edited.caption.state == "edited"
    assert (edited.caption.rev, edited.caption.by) == (2, "tester")
    assert edited.caption.source == "person"
    accepted = await changed(client, item, state="accepted")
    assert (accepted.caption.text, accepted.caption.state) == ("a dragon", "accepted")
    both = await changed(client, item, text="two dragons", state="flagged")
    assert (both.caption.state, both.caption.rev) == ("flagged", 4)
    dataset = client.state.datasets[0]
    assert dataset.counts["flagged"] == 1
    assert dataset.counts["unreviewed"] == 0


async def test_what_changes_nothing_makes_no_revision(client: Client, tmp_path: Path) -> None:
    (item,) = await imported(client, pictures(tmp_path / "set", 1))
    same = await changed(client, item, text=item.caption.text)
    assert same.caption.rev == 1


async def test_a_stale_change_is_refused_with_the_present_text(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    (item,) = await imported(client, pictures(tmp_path / "set", 1))
    async with await Client.connect(home=daemon.home, name="anna") as other:
        await changed(other, item, text="anna's words")
    with pytest.raises(LoraError) as caught:
        await client.call(
            wire.ChangeCaption(dataset=item.dataset, item=item.id, if_rev=1, text="mine")
        )
    assert caught.value.code == Code.CONFLICT
    current = msgspec.convert(caught.value.data["current"], wire.Caption)
    assert (current.text, current.by, current.rev) == ("anna's words", "anna", 2)


async def test_an_overlong_caption_is_refused(client: Client, tmp_path: Path) -> None:
    (item,) = await imported(client, pictures(tmp_path / "set", 1))
    with pytest.raises(LoraError) as caught:
        await changed(client, item, text="x" * 40_000)
    assert caught.value.code == Code.TOO_LARGE


async def test_undo_walks_back_and_redo_forward(client: Client, tmp_path: Path) -> None:
    first, second = await imported(client, pictures(tmp_path / "set", 2))
    await changed(client, first, text="one")
    await changed(client, first, text="two")
    await changed(client, second, state="rejected")
    undo = wire.UndoCaption(dataset=first.dataset)
    redo = wire.UndoCaption(dataset=first.dataset, redo=True)
    undone = await client.call(undo)
    assert undone.item.id == second.id
    assert undone.item.caption.state == "unreviewed"
    assert undone.what == "rejection of 001.png"
    assert (await client.call(undo)).item.caption.text == "one"
    assert (await client.call(undo)).item.caption.text == "picture 0"
    with pytest.raises(LoraError) as caught:
        await client.call(undo)
    assert caught.value.code == Code.WRONG_STATE
    assert (await client.call(redo)).item.caption.text == "one"
    assert (await client.call(redo)).item.caption.text == "two"
    await changed(client, first, text="three")
    with pytest.raises(LoraError):  # a new change ends what could be done again
        await client.call(redo)
    assert (await client.call(undo)).item.caption.text == "two"


async def test_undo_touches_nothing_that_somebody_else_has_changed(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    first, second = await imported(client, pictures(tmp_path / "set", 2))
    await changed(client, second, text="before")
    await changed(client, first, text="mine")
    async with await Client.connect(home=daemon.home, name="anna") as other:
        await changed(other, first, text="anna's")
    undo = wire.UndoCaption(dataset=first.dataset)
    with pytest.raises(LoraError) as caught:
        await client.call(undo)
    assert caught.value.code == Code.CONFLICT
    assert caught.value.data["current"]["text"] == "anna's"
    assert (await client.call(undo)).item.id == second.id  # and goes on before it


async def test_an_edit_reaches_the_file_and_undo_too(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 1)
    (folder / "000.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    (item,) = await imported(client, folder)
    assert item.caption.text == "with a mark"
    await changed(client, item, text="a dragon")
    await written(
        client, folder / "000.txt", "\ufeffa dragon"
    )  # mark and missing newline as before
    await client.call(wire.UndoCaption(dataset=item.dataset))
    await written(client, folder / "000.txt", "\ufeffwith a mark")
    assert not list(folder.glob(".*"))


async def test_a_picture_without_a_caption_file_gets_one(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 1)
    (folder / "000.txt").unlink()
    (item,) = await imported(client, folder)
    await changed(client, item, text="first words")
    await written(client, folder / "000.txt", "first words")


async def test_an_acknowledged_edit_survives_kill_9_and_is_written_by_the_next_daemon(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 40)
    async with await Client.connect(home=daemon.home, name="tester") as client:
        found = await imported(client, folder)
        for item in found:
            await changed(client, item, text=f"edited {item.name}")
        await daemon.kill()
    async with await Client.connect(home=daemon.home, name="tester") as client:
        for item in (await client.call(wire.ListItems(dataset="set"))).items:
            assert item.caption.text == f"edited {item.name}"
        for item in found:
            await written(client, (folder / item.name).with_suffix(".txt"), f"edited {item.name}")


def test_a_half_written_file_of_ours_is_healed(tmp_path: Path) -> None:
    """A kill between writing the file and recording it leaves a text that is known all the same."""
    path = tmp_path / "000.txt"
    path.write_text("second\n")
    sidecars.write(path, "third", written="digest of the first", kept={"first", "second"})
    assert path.read_text() == "third\n"
    with pytest.raises(sidecars.Differs):
        sidecars.write(path, "fourth", written="digest of the first", kept={"first", "second"})
    assert path.read_text() == "third\n"


def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "000.txt"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        sidecars.write(path, "new", written="", kept={"old"})
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["000.txt"]


async def test_on_a_full_disk_an_edit_is_refused_in_words_and_the_old_text_stays(
    mount: Callable[[str], None], daemon: DaemonProcess, tmp_path: Path
) -> None:
    mount("size=3m")
    async with await Client.connect(home=daemon.home, name="tester") as client:
        (item,) = await imported(client, pictures(tmp_path / "set", 1))
        kept = await changed(client, item, text="kept")
        fill(daemon.home / "ballast")
        text = "x" * 30_000
        with pytest.raises(LoraError) as caught:
            for _ in range(40):  # until the database's own slack is used up
                kept = await changed(client, item, text=text)
                text = text[1:]
        assert caught.value.code == Code.STORAGE
        assert "full" in caught.value.message
        (daemon.home / "ballast").unlink()
        now = await client.call(wire.GetItem(dataset=item.dataset, item=item.id))
        assert now.caption == kept.caption
        assert (await changed(client, item, text="again")).caption.text == "again"


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
