"""Folders of every kind are taken in, taken in again, and forgotten, and no caption is lost."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from shared import wire
from shared.client import Client
from shared.errors import Code, LoraError
from shared.filenames import to_text
from tests.daemon.house import House
from tests.daemon.process import DaemonProcess, imported, pictures
from tests.daemon.waiting import until, warned, written


async def items(client: Client, dataset: str) -> dict[str, wire.Item]:
    page = await client.call(wire.ListItems(dataset=dataset))
    return {item.name: item for item in page.items}


async def refused(client: Client, path: Path | str, name: str = "") -> LoraError:
    with pytest.raises(LoraError) as caught:
        await client.call(wire.ImportDataset(path=str(path), name=name))
    return caught.value


# ── what is taken in ────────────────────────────────────────────────────────────────────────────


async def test_folders_within_are_read_and_both_kinds_of_caption_file(
    client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "dragons", 2)
    pictures(folder / "more" / "still more", 1)
    (folder / "more" / "still more" / "000.txt").unlink()
    (folder / "more" / "still more" / "000.caption").write_text("  by the other suffix\n")
    Image.new("RGB", (8, 8)).save(folder / "SHOUTED.JPG")
    done = await client.call(wire.ImportDataset(path=str(folder)))
    assert done.dataset.name == "dragons"
    assert (done.added, done.dataset.items, done.dataset.empty) == (4, 4, 1)
    assert done.dataset.counts["unreviewed"] == 4
    found = await items(client, "dragons")
    assert found["more/still more/000.png"].caption.text == "by the other suffix"
    assert found["001.png"].caption.source == "file"
    assert list(found) == sorted(found)


async def test_an_empty_caption_file_does_not_hide_the_other(
    client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 1)
    (folder / "000.txt").write_text("\n")
    (folder / "000.caption").write_text("the real one")
    (item,) = await imported(client, folder)
    assert item.caption.text == "the real one"


async def test_a_page_is_a_part_in_order_and_tells_the_whole_number(
    client: Client, tmp_path: Path
) -> None:
    await imported(client, pictures(tmp_path / "set", 7))
    page = await client.call(wire.ListItems(dataset="set", offset=2, limit=3))
    assert [item.name for item in page.items] == ["002.png", "003.png", "004.png"]
    assert page.total == 7
    item = page.items[0]
    change = wire.ChangeCaption(
        dataset=item.dataset, item=item.id, if_rev=item.caption.rev, state="rejected"
    )
    await client.call(change)
    page = await client.call(wire.ListItems(dataset="set", states=["rejected", "flagged"]))
    assert [one.name for one in page.items] == ["002.png"]
    assert page.total == 1


async def test_orientation_is_applied_to_the_size_and_the_thumbnail(
    client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (120, 60)).save(folder / "turned.jpg", exif=exif)
    (item,) = await imported(client, folder)
    assert (item.width, item.height) == (60, 120)
    request = wire.GetThumbnail(dataset=item.dataset, item=item.id, width=40, height=40)
    thumbnail, blobs = await client.fetch(request)
    assert (thumbnail.width, thumbnail.height) == (20, 40)
    assert blobs[0].startswith(b"\xff\xd8")


# ── bad input ───────────────────────────────────────────────────────────────────────────────────


def _truncated(path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:900])


def _huge(path: Path) -> None:
    """A PNG of a few bytes whose header claims 30 000 × 30 000 pixels."""
    Image.new("1", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(data)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero.png": (Path.touch, "is empty"),
    "text.png": (lambda path: path.write_text("no picture"), "is not a picture"),
    "cut.png": (_truncated, "cut short"),
    "cut.jpg": (_truncated, "cut short"),
    "huge.png": (_huge, "30000 × 30000"),
    "broken.png": (lambda path: path.symlink_to("nowhere"), "broken link to nowhere"),
    "pipe.png": (os.mkfifo, "not a file but"),
}


async def test_every_unusable_picture_is_named_and_the_rest_taken(
    client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 1)
    for name, (make, _) in BAD.items():
        make(folder / name)
    async with asyncio.timeout(30):  # a named pipe would be waited for for ever
        done = await client.call(wire.ImportDataset(path=str(folder)))
    assert dict(done.problems).keys() == BAD.keys()
    assert done.dataset.problems == len(BAD)
    found = await items(client, "set")
    assert not found["000.png"].problem
    for name, (_, said) in BAD.items():
        assert said in found[name].problem


async def test_a_folder_called_like_a_picture_is_a_folder(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 1)
    pictures(folder / "album.png", 1)
    found = {item.name for item in await imported(client, folder)}
    assert found == {"000.png", "album.png/000.png"}


async def test_links_that_go_round_are_followed_once(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 1)
    (folder / "again").symlink_to(folder)
    assert len(await imported(client, folder)) == 1


async def test_a_caption_that_is_not_utf8_is_named_and_its_file_never_touched(
    client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 2)
    (folder / "000.txt").write_bytes("café".encode("latin-1"))
    done = await client.call(wire.ImportDataset(path=str(folder)))
    assert any("000.txt is not UTF-8" in warning for warning in done.warnings)
    item = (await items(client, "set"))["000.png"]
    assert item.caption.text == ""
    await client.call(
        wire.ChangeCaption(dataset=item.dataset, item=item.id, if_rev=1, text="coffee")
    )
    await warned(client, "000.png")
    assert (folder / "000.txt").read_bytes() == "café".encode("latin-1")


async def test_an_absurdly_long_caption_is_named(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 1)
    (folder / "000.txt").write_text("x" * 40_000)
    done = await client.call(wire.ImportDataset(path=str(folder)))
    assert any("000.txt is 40000 bytes long" in warning for warning in done.warnings)


async def test_an_empty_folder_says_what_was_looked_for_and_what_is_there(
    client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.psd").touch()
    error = await refused(client, folder)
    assert error.code == Code.INVALID_FILE
    assert ".png" in error.message
    assert "1 .psd" in error.message
    assert not client.state.datasets


async def test_a_path_that_is_not_there_or_is_a_file(client: Client, tmp_path: Path) -> None:
    assert (await refused(client, tmp_path / "none")).code == Code.NOT_FOUND
    pictures(tmp_path / "set", 1)
    error = await refused(client, tmp_path / "set" / "000.png")
    assert error.code == Code.INVALID_FILE
    assert str(tmp_path / "set") in error.message
    assert (await refused(client, "here")).code == Code.BAD_REQUEST


ODD = ["with spaces", 'it\'s "quoted"', "two\nlines", "🐉 drago", b"caf\xe9", r"back\x41slash"]


async def test_any_name_survives(client: Client, tmp_path: Path) -> None:
    for odd in map(os.fsdecode, ODD):
        folder = pictures(tmp_path / odd, 1)
        (folder / "000.png").rename(folder / f"{odd}.png")
        (folder / "000.txt").rename(folder / f"{odd}.txt")
        done = await client.call(wire.ImportDataset(path=to_text(folder)))
        (item,) = (await client.call(wire.ListItems(dataset=done.dataset.id))).items
        assert item.name == f"{to_text(odd)}.png"
        assert item.caption.text == "picture 0"
        where = {"dataset": item.dataset, "item": item.id}
        thumbnail, _ = await client.fetch(wire.GetThumbnail(**where))
        assert thumbnail.width == 64
        await client.call(wire.ChangeCaption(**where, if_rev=1, text="new"))
        await written(client, folder / f"{odd}.txt", "new")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder of pictures on a file system that is mounted read-only."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        pictures(folder, 2)
        (folder / "001.txt").write_bytes(b"\xc4rger")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_read_only_mount_is_imported_and_its_captions_stay_safe_here(
    client: Client, read_only: Path, home: Path
) -> None:
    with pytest.raises(OSError, match="Read-only"):
        (read_only / "000.txt").write_text("x")
    one, two = await imported(client, read_only)
    for item in (two, one):
        ask = wire.ChangeCaption(dataset=item.dataset, item=item.id, if_rev=1, text="kept")
        await client.call(ask)
        # what holds for all of them is what is told
        await warned(client, "read-only" if item is one else "not UTF-8")
    assert (await items(client, "mounted"))["000.png"].caption.text == "kept"
    await client.call(wire.RemoveDataset(dataset="mounted"))
    (left,) = (home / "removed").iterdir()
    assert "kept" in left.read_text()


# ── once more ───────────────────────────────────────────────────────────────────────────────────


async def test_importing_again_takes_only_what_is_new_or_changed(
    client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 3)
    await imported(client, folder)
    again = await client.call(wire.ImportDataset(path=str(folder)))
    assert (again.added, again.updated) == (0, 0)
    Image.new("RGB", (32, 32)).save(folder / "new.png")
    Image.new("RGB", (96, 96)).save(folder / "000.png")
    os.utime(folder / "001.png")
    again = await client.call(wire.ImportDataset(path=str(folder)))
    assert (again.added, again.updated) == (1, 1)
    assert (await items(client, "set"))["000.png"].width == 96


async def test_an_edited_caption_follows_its_file_and_what_it_was_is_a_candidate(
    client: Client, tmp_path: Path, home: Path
) -> None:
    folder = pictures(tmp_path / "set", 1)
    (item,) = await imported(client, folder)
    request = wire.ChangeCaption(dataset=item.dataset, item=item.id, if_rev=1, text="mine")
    await client.call(request)
    await written(client, folder / "000.txt", "mine")
    await until(client, lambda _: _pending(home) == [0])  # and the daemon knows that it is
    (folder / "000.txt").write_text("theirs")
    await client.call(wire.ImportDataset(path=str(folder)))
    caption = (await items(client, "set"))["000.png"].caption
    assert (caption.text, caption.by, caption.source) == ("theirs", "file", "file")
    assert (caption.state, caption.rev) == ("unreviewed", 3)
    assert _revisions(home, item.id) == ["picture 0", "mine", "theirs"]
    ask = wire.GetCandidates(dataset=item.dataset, item=item.id)
    offered = (await client.call(ask)).candidates
    assert [one.text for one in offered] == ["mine", "picture 0"]


async def test_an_untouched_caption_follows_its_file(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 2)
    await imported(client, folder)
    (folder / "000.txt").write_text("better")
    await client.call(wire.ImportDataset(path=str(folder)))
    caption = (await items(client, "set"))["000.png"].caption
    assert (caption.text, caption.rev, caption.source) == ("better", 2, "file")


async def test_pictures_that_are_gone_go_but_a_worked_on_caption_stays(
    client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 3)
    first, *_ = await imported(client, folder)
    request = wire.ChangeCaption(dataset=first.dataset, item=first.id, if_rev=1, text="work")
    await client.call(request)
    (folder / "000.png").unlink()
    (folder / "001.png").unlink()
    again = await client.call(wire.ImportDataset(path=str(folder)))
    assert any("001.png" in warning for warning in again.warnings)
    found = await items(client, "set")
    assert set(found) == {"000.png", "002.png"}
    assert found["000.png"].caption.text == "work"
    assert "gone" in found["000.png"].problem


async def test_a_renamed_picture_keeps_its_caption(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 2)
    first, *_ = await imported(client, folder)
    request = wire.ChangeCaption(dataset=first.dataset, item=first.id, if_rev=1, text="work")
    await client.call(request)
    (folder / "000.png").rename(folder / "renamed.png")
    await client.call(wire.ImportDataset(path=str(folder)))
    found = await items(client, "set")
    assert found["renamed.png"].id == first.id
    assert found["renamed.png"].caption.text == "work"


async def test_two_datasets_cannot_share_a_name_nor_a_folder(
    client: Client, tmp_path: Path
) -> None:
    await imported(client, pictures(tmp_path / "one" / "set", 1))
    error = await refused(client, pictures(tmp_path / "two" / "set", 1))
    assert error.code == Code.ALREADY_EXISTS
    error = await refused(client, tmp_path / "one" / "set", "another")
    assert error.code == Code.ALREADY_EXISTS
    assert "set already" in error.message


async def test_an_import_goes_on_when_its_client_is_gone(
    daemon: DaemonProcess, client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 300)
    begun = asyncio.Event()
    async with await Client.connect(home=daemon.home, name="other") as other:
        request = wire.ImportDataset(path=str(folder))
        call = asyncio.create_task(other.call(request, on_progress=lambda *_: begun.set()))
        await begun.wait()
    await asyncio.gather(call, return_exceptions=True)  # failed by the client's end
    notices = client.notices()
    async with asyncio.timeout(30):
        while not client.state.datasets or client.state.datasets[0].items < 300:
            await anext(notices)


async def test_a_dataset_is_forgotten_and_its_files_stay(client: Client, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 2)
    await imported(client, folder)
    await client.call(wire.RemoveDataset(dataset="set"))
    with pytest.raises(LoraError) as caught:
        await client.call(wire.ListItems(dataset="set"))
    assert caught.value.code == Code.NOT_FOUND
    assert len(list(folder.iterdir())) == 4


async def test_a_picture_changed_since_its_import_is_not_shown(
    client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 1)
    (item,) = await imported(client, folder)
    Image.new("RGB", (9, 9)).save(folder / "000.png")
    request = wire.GetThumbnail(dataset=item.dataset, item=item.id)
    with pytest.raises(LoraError) as caught:
        await client.fetch(request)
    assert caught.value.code == Code.INVALID_FILE
    (folder / "000.png").unlink()
    with pytest.raises(LoraError, match="gone"):
        await client.fetch(request)


def _pending(home: Path) -> list[int]:
    with sqlite3.connect(home / "lora-tui.sqlite3") as database:
        return [pending for (pending,) in database.execute("SELECT pending FROM items")]


def _revisions(home: Path, item: str) -> list[str]:
    with sqlite3.connect(home / "lora-tui.sqlite3") as database:
        rows = database.execute("SELECT text FROM revisions WHERE item = ? ORDER BY rev", (item,))
        return [text for (text,) in rows]


async def test_a_cancelled_import_stops_and_keeps_what_it_has(
    client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    Image.effect_noise((1024, 1024), 80).save(folder / "0000.png")
    for number in range(1, 600):
        (folder / f"{number:04}.png").hardlink_to(folder / "0000.png")
    begun = asyncio.Event()
    request = wire.ImportDataset(path=str(folder))
    call = asyncio.create_task(client.call(request, on_progress=lambda *_: begun.set()))
    await begun.wait()
    with pytest.raises(LoraError) as caught:  # nor can it be removed meanwhile
        await client.call(wire.RemoveDataset(dataset="set"))
    assert caught.value.code in (Code.BUSY, Code.NOT_FOUND)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    status = await until(client, lambda now: all(job.state != "running" for job in now.jobs))
    assert [job.state for job in status.jobs] == ["cancelled"]
    again = await client.call(request)
    assert again.dataset.items == 600


async def test_the_kept_numbers_are_those_one_would_count(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    await house.domain.start()
    folder = pictures(tmp_path / "set", 6)
    (folder / "005.png").write_bytes(b"")
    (folder / "004.txt").unlink()
    await house.call(wire.ImportDataset(path=str(folder)))
    page = await house.call(wire.ListItems(dataset="set"))
    for number, item in enumerate(page.items):
        fields = [{"text": ""}, {"state": "rejected"}, {"text": "new", "state": "flagged"}]
        change = wire.ChangeCaption(
            dataset="set",
            item=item.id,
            if_rev=1,
            **fields[number % 3],  # type: ignore[arg-type]
        )
        await house.call(change)
    (folder / "003.png").unlink()
    Image.new("RGB", (8, 8)).save(folder / "005.png")
    await house.call(wire.ImportDataset(path=str(folder)))
    (dataset,) = house.domain.state().datasets
    items = (await house.call(wire.ListItems(dataset="set"))).items
    assert dataset.items == len(items)
    for state, number in dataset.counts.items():
        assert number == sum(item.caption.state == state for item in items)
    assert dataset.empty == sum(not item.caption.text for item in items)
    assert dataset.problems == sum(bool(item.problem) for item in items)
    await house.call(wire.RemoveDataset(dataset="set"))
    assert house.store.query("SELECT * FROM counts") == []
    await house.close()
