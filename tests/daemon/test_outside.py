"""Caption files and folders that somebody else changes, or that cannot be written."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from lora_daemon import watching
from shared import wire
from tests.daemon.house import House, opened
from tests.daemon.process import pictures
from tests.daemon.test_captions import fill

BOM = b"\xef\xbb\xbf"


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """It looks at folders all the time."""
    monkeypatch.setattr(watching, "EVERY", 0.02)
    monkeypatch.setattr(watching, "SHARE", 1)
    monkeypatch.setattr(watching, "RETRY", 0)
    async with opened(tmp_path) as house:
        yield house


@pytest.fixture
async def blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """It looks at no folder again: only who writes sees what is there."""
    monkeypatch.setattr(watching, "EVERY", 1e6)
    async with opened(tmp_path) as house:
        yield house


async def take_in(house: House, folder: Path) -> None:
    await house.call(wire.ImportDataset(path=str(folder), name="set"))


async def item(house: House, name: str) -> wire.Item:
    return await house.call(wire.GetItem(dataset="set", item=name))


async def put(house: House, name: str, **fields: str) -> None:
    now = await item(house, name)
    change = {"dataset": "set", "item": now.id, "if_rev": now.caption.rev, **fields}
    await house.call(wire.ChangeCaption(**change))  # type: ignore[arg-type]


async def offered(house: House, name: str) -> list[str]:
    ask = wire.GetCandidates(dataset="set", item=name)
    return [one.text for one in (await house.call(ask)).candidates]


def seen(house: House) -> str:
    """All that was said of folders."""
    said = [one for one in house.heard if isinstance(one, wire.FolderSeen)]
    return " ".join(f"{one.news} {' '.join(one.said)}" for one in said)


def warnings(house: House) -> str:
    return " ".join(house.domain.status().warnings)


async def until(house: House, condition: Callable[[], bool]) -> None:
    """As ``house.until``, where nothing is announced: each call gives the daemon time."""
    async with asyncio.timeout(60):
        while not condition():
            await house.call(wire.ListItems(dataset="set", limit=0, filter="solo"))
            await asyncio.sleep(0)


async def test_a_caption_follows_its_file_and_everybody_is_told(
    house: House, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 3)
    await take_in(house, folder)
    await put(house, "000.png", text="mine", state="accepted")
    await house.domain._writer.drained()
    (folder / "000.txt").write_text("from an editor\n")
    (folder / "001.txt").unlink()
    await house.until(lambda: "001.png is kept, though its file is gone" in seen(house))
    await house.until(lambda: "000.png is now what somebody wrote" in seen(house))
    caption = (await item(house, "000.png")).caption
    assert (caption.text, caption.by, caption.state) == ("from an editor", "file", "unreviewed")
    told = [one.event for one in house.heard if isinstance(one, wire.Journalled)]
    assert wire.CaptionChanged in {type(event) for event in told}
    assert await offered(house, "000.png") == ["mine", "picture 0"]
    assert (await item(house, "001.png")).caption.text == "picture 1"
    await put(house, "000.png", text="picture 0")  # what was imported can be had back
    await until(house, lambda: (folder / "000.txt").read_text() == "picture 0\n")


async def test_pictures_that_come_and_go_are_told_and_nothing_is_taken_out(
    house: House, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 3)
    await take_in(house, folder)
    (folder / "more").mkdir()
    Image.new("RGB", (64, 64), "white").save(folder / "more" / "new.png")
    (folder / "000.png").rename(folder / "moved.png")
    await house.until(lambda: "2 pictures (more/new.png, moved.png) are new in" in seen(house))
    await house.until(lambda: "000.png is no longer in its folder" in seen(house))
    assert "set: 000.png is no longer" in warnings(house)
    assert house.domain.state().datasets[0].items == 3
    live = [one for one in house.domain.live() if isinstance(one, wire.FolderSeen)]
    assert live[0].said and not live[0].news  # for who comes later
    await take_in(house, folder)
    await until(house, lambda: "set:" not in warnings(house))
    assert (await item(house, "moved.png")).caption.text == "picture 0"


async def test_both_changed_both_are_shown_and_a_person_decides(
    blind: House, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 2)
    await take_in(blind, folder)
    for name in ("000", "001"):
        (folder / f"{name}.txt").write_text("theirs")
        await put(blind, f"{name}.png", text="mine")
    await blind.domain._writer.drained()
    assert "2 caption(s) of set were changed here and" in warnings(blind)
    for name in ("000.png", "001.png"):
        assert (await item(blind, name)).caption.text == "mine"
        assert (await offered(blind, name))[0] == "theirs"
    assert (folder / "000.txt").read_text() == "theirs"
    await put(blind, "000.png", state="edited")  # the state it has: mine it is
    await put(blind, "001.png", text="theirs")
    await blind.domain._writer.drained()
    assert (folder / "000.txt").read_text() == "mine"
    assert (folder / "001.txt").read_text() == "theirs"
    assert "changed here" not in warnings(blind)


async def test_of_two_pictures_of_one_stem_the_other_does_not_follow(
    house: House, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 1)
    (folder / "000.webp").write_bytes((folder / "000.png").read_bytes())
    await take_in(house, folder)
    await put(house, "000.webp", text="of the webp")
    await until(house, lambda: (folder / "000.txt").read_text() == "of the webp")
    await put(house, "000.png", text="of the png")
    await until(house, lambda: "another picture's, too" in warnings(house))
    assert (folder / "000.txt").read_text() == "of the webp"
    assert (await item(house, "000.webp")).caption.text == "of the webp"
    assert (await item(house, "000.png")).caption.text == "of the png"


async def test_what_a_kill_left_half_written_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is to be written any more: the caption is what the file has again."""
    monkeypatch.setattr(watching, "EVERY", 1e6)
    folder = pictures(tmp_path / "set", 1)
    house = House(tmp_path / "home")
    await take_in(house, folder)
    with house.store.change("test") as change:
        change.execute("UPDATE items SET pending = 1")
    (folder / ".000.txt.lora-tui").write_text("half")
    await house.domain.start()
    await house.domain._writer.drained()
    assert {path.name for path in folder.iterdir()} == {"000.png", "000.txt"}
    await house.close()


@pytest.mark.parametrize("kind", ["folder", "pipe", "circle", "nowhere", "elsewhere"])
async def test_where_a_caption_file_is_something_else_the_rest_is_written(
    blind: House, tmp_path: Path, kind: str
) -> None:
    folder = pictures(tmp_path / "set", 2)
    odd, outside = folder / "000.txt", tmp_path / "kept.txt"
    odd.unlink()
    if kind == "folder":
        odd.mkdir()
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        outside.write_text("linked")
        targets = {"circle": odd.name, "nowhere": tmp_path / "none.txt", "elsewhere": outside}
        odd.symlink_to(targets[kind])
    await take_in(blind, folder)
    await put(blind, "000.png", text="mine")
    await put(blind, "001.png", text="the next")
    await blind.domain._writer.drained()
    assert (folder / "001.txt").read_text() == "the next"
    assert (await item(blind, "000.png")).caption.text == "mine"
    if kind in ("folder", "pipe", "circle"):
        assert "1 caption(s) of set are safe in the workspace" in warnings(blind)
    else:
        assert odd.is_symlink() and odd.read_text().rstrip() == "mine"


@pytest.mark.parametrize(
    ("raw", "text", "after"),
    [
        (b"one\r\ntwo\r\n", "one\ntwo", b"one\r\ntwo, new\r\n"),
        (BOM + b"one\r\n", "one", BOM + b"one, new\r\n"),
        (b"one", "one", b"one, new"),
        (b"a\x00b\x07\x1b[31m\n", "a\x00b\x07\x1b[31m", b"a\x00b\x07\x1b[31m, new\n"),
        ("\u202eabc\u202c e\u0301 👩‍🎨\n".encode(), "\u202eabc\u202c e\u0301 👩‍🎨",
         "\u202eabc\u202c e\u0301 👩‍🎨, new\n".encode()),
        ("café".encode("latin-1"), "", "café".encode("latin-1")),
        (b"x" * 1_000_000, "", b"x" * 1_000_000),
    ],
    ids=["crlf", "bom", "no newline", "nul", "bidi", "latin-1", "a million"],
)  # fmt: skip
async def test_what_is_in_a_file_comes_and_goes_as_it_is(
    blind: House, tmp_path: Path, raw: bytes, text: str, after: bytes
) -> None:
    folder = pictures(tmp_path / "set", 1)
    (folder / "000.txt").write_bytes(raw)
    await take_in(blind, folder)
    assert (await item(blind, "000.png")).caption.text == text
    listed = await blind.call(wire.ListItems(dataset="set", filter="name:000"))
    assert [one.caption.text for one in listed.items] == [text]
    assert (folder / "000.txt").read_bytes() == raw
    await put(blind, "000.png", text=f"{text}, new")
    await blind.domain._writer.drained()
    assert (folder / "000.txt").read_bytes() == after
    if not text:
        assert "not in their files" in warnings(blind)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder of pictures on a file system of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        capture_output=True, check=False,
    ).returncode:  # fmt: skip
        pytest.skip("needs the right to mount a file system")
    yield pictures(folder, 2)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def refusal(path: Path) -> int:
    """Why nothing can be written there."""
    try:
        path.write_bytes(b"x" * 8192)
    except OSError as error:
        return error.errno or 0
    return 0


async def test_a_folder_gone_read_only_is_told_loses_nothing_and_is_written_later(
    house: House, small: Path
) -> None:
    await take_in(house, small)
    remount(small, "ro")
    assert refusal(small / "probe") == errno.EROFS
    await put(house, "000.png", text="mine")
    await until(house, lambda: "mounted read-only" in warnings(house))
    assert (await item(house, "000.png")).caption.text == "mine"
    assert (small / "000.txt").read_text() == "picture 0"
    remount(small, "rw")
    await until(house, lambda: (small / "000.txt").read_text() == "mine")
    await until(house, lambda: "read-only" not in warnings(house))


async def test_on_a_full_disk_the_old_file_stays_and_is_written_later(
    house: House, small: Path
) -> None:
    await take_in(house, small)
    fill(small / "ballast")
    assert refusal(small / "probe") == errno.ENOSPC
    (small / "probe").unlink(missing_ok=True)
    await put(house, "000.png", text="mine" * 10)
    await until(house, lambda: "The disk is full" in warnings(house))
    assert (small / "000.txt").read_text() == "picture 0"
    assert not [name for name in os.listdir(small) if name.startswith(".")]  # noqa: PTH208
    (small / "ballast").unlink()
    await until(house, lambda: (small / "000.txt").read_text() == "mine" * 10)


async def test_a_picture_that_is_replaced_is_read_anew_and_keeps_its_caption(
    house: House, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 2)
    await take_in(house, folder)
    await put(house, "000.png", text="mine", state="accepted")
    before = await item(house, "000.png")
    Image.new("RGB", (80, 48), "green").save(folder / "000.png")
    await house.until(lambda: "000.png is another picture now; its caption stays" in seen(house))
    after = await item(house, "000.png")
    assert (after.width, after.height) == (80, 48) and after.content != before.content
    assert after.caption == before.caption
    ask = wire.GetThumbnail(dataset="set", item="000.png", width=40, height=40)
    assert (await house.call(ask)).width == 40
    told = [one.event for one in house.heard if isinstance(one, wire.Journalled)]
    assert wire.CaptionsChanged in {type(event) for event in told}
    os.utime(folder / "001.png")  # the same picture: nothing to say
    (folder / "000.png").write_bytes(b"no picture at all")
    await house.until(lambda: "000.png, which was replaced, is not a picture" in seen(house))
    assert (await item(house, "000.png")).caption.text == "mine"
    assert "001.png" not in seen(house)


async def test_tables_of_captions_that_change_are_told_until_they_are_read_again(
    house: House, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 1)
    (folder / "000.txt").unlink()
    table = folder / "metadata.jsonl"
    table.write_text('{"file_name": "000.png", "text": "of the table"}\n')
    await take_in(house, folder)
    table.write_text('{"file_name": "000.png", "text": "of the new table"}\n')
    (folder / "meta_cap.json").write_text("{}")
    await house.until(lambda: "metadata.jsonl was changed outside: import" in seen(house))
    await house.until(lambda: "meta_cap.json is new: import" in seen(house))
    assert (await item(house, "000.png")).caption.text == "of the table"
    (folder / "meta_cap.json").unlink()
    await take_in(house, folder)
    assert (await item(house, "000.png")).caption.text == "of the new table"
    await until(house, lambda: "set:" not in warnings(house))


async def test_a_picture_before_somebodys_eyes_is_looked_at_without_looking_at_all_others(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "set", 2)
    await take_in(house, folder)
    (folder / "new.png").write_bytes((folder / "000.png").read_bytes())
    monkeypatch.setattr(watching, "SHARE", 1e9)  # after the next look, never again
    await house.until(lambda: "new.png is new" in seen(house))
    shown = await item(house, "001.png")
    at = wire.Looking(dataset=shown.dataset, item=shown.id, name=shown.name)
    house.domain.looked_at(at)
    Image.new("RGB", (80, 48), "green").save(folder / "001.png")
    await house.until(lambda: "001.png is another picture now" in seen(house))
    assert (await item(house, "001.png")).width == 80
