"""What captions are made of and could be; the next picture that passes; who looks at which."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lora_daemon import tag_counts
from shared import edits, wire
from shared.client import Client
from shared.errors import LoraError
from shared.filters import FilterError
from tests.daemon.house import House
from tests.daemon.process import DaemonProcess, pictures
from tests.daemon.test_captioning import bare, captions, house, put

__all__ = ["house"]


async def tags(house: House, like: str = "", limit: int = 50) -> list[tuple[str, int]]:
    found = await house.call(wire.GetTags(dataset="set", like=like, limit=limit))
    return [(tag.tag, tag.count) for tag in found.tags]


async def written(house: House, folder: Path, *texts: str) -> None:
    """A dataset ``set`` whose captions are these."""
    pictures(folder, len(texts))
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text)
    await house.call(wire.ImportDataset(path=str(folder)))


async def test_tags_are_counted_by_captions_and_found_by_any_word(
    house: House, tmp_path: Path
) -> None:
    await written(
        house, tmp_path / "set", "Red Hair, solo, solo", "red hair,dark_red eyes\nsolo",
        "red hair, dark red_eyes (bright), 赤い髪, a long sentence that nobody takes for a tag", "",
    )  # fmt: skip
    assert await tags(house) == [
        ("red hair", 3), ("solo", 2), ("dark_red eyes", 1), ("dark red_eyes (bright)", 1),
        ("赤い髪", 1),
    ]  # fmt: skip
    assert await tags(house, "red") == [
        ("red hair", 3), ("dark_red eyes", 1), ("dark red_eyes (bright)", 1),
    ]  # fmt: skip
    assert await tags(house, "DARK RED", 1) == [("dark_red eyes", 1)]
    assert await tags(house, "bri") == [("dark red_eyes (bright)", 1)]
    assert await tags(house, "air") == []
    assert await tags(house, "赤") == [("赤い髪", 1)]
    with pytest.raises(LoraError, match="limit"):
        await tags(house, limit=-1)


async def test_counts_follow_every_change(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    await written(house, folder, "red, solo", "red")
    assert await tags(house) == [("red", 2), ("solo", 1)]
    monkeypatch.setattr(tag_counts, "_spellings", _only_few(tag_counts._spellings, 2))
    await put(house, "001.png", text="Blue, solo")
    assert await tags(house) == [("solo", 2), ("Blue", 1), ("red", 1)]
    await put(house, "001.png", text="blue")  # another spelling
    assert await tags(house) == [("blue", 1), ("red", 1), ("solo", 1)]
    ask = wire.PreviewEdit(dataset="set", edits=[edits.AddTag("solo"), edits.RemoveTag("red")])
    preview = (await house.call(ask)).preview
    await house.call(wire.ApplyEdit(preview=preview))
    assert await tags(house) == [("solo", 2), ("blue", 1)]
    await house.call(wire.UndoCaption(dataset="set"))
    assert await tags(house) == [("blue", 1), ("red", 1), ("solo", 1)]
    monkeypatch.undo()
    await house.domain._captions.writer.drained()
    (folder / "000.txt").write_text("green")
    await house.call(wire.ImportDataset(path=str(folder)))
    assert await tags(house) == [("blue", 1), ("green", 1)]


def _only_few(count, most):  # type: ignore[no-untyped-def]
    """The counting, which must not be done anew of all captions."""

    def few(texts):  # type: ignore[no-untyped-def]
        listed = list(texts)
        assert len(listed) <= most
        return count(listed)

    return few


async def test_a_second_opinion_stands_beside_the_caption(house: House, tmp_path: Path) -> None:
    folder = await bare(house, tmp_path / "set", 3)
    await put(house, "000.png", text="mine")
    await put(house, "001.png", state="rejected")
    done = await house.call(wire.CaptionPictures(dataset="set", beside=True))
    assert (done.written, done.beside, done.kept) == (1, 1, 2)
    now = await captions(house)
    assert (now["000.png"].text, now["002.png"].text) == ("mine", "the picture 002")
    again = await house.call(wire.CaptionPictures(dataset="set", beside=True))
    assert (again.written, again.beside) == (0, 0)
    await put(house, "000.png", text="mine too")
    ask = wire.GetCandidates(dataset="set", item="000.png")
    found = await house.call(ask)
    assert [(c.model, c.text, c.source) for c in found.candidates] == [
        ("starter", "the picture 000", "captioner"), ("", "mine", "person"),
    ]  # fmt: skip
    assert found.item.caption.text == "mine too"
    (folder / "002.png").replace(folder / "000.png")  # another picture: nothing is said of it
    await house.call(wire.ImportDataset(path=str(folder)))
    found = await house.call(ask)
    assert [c.text for c in found.candidates] == ["mine"]


async def test_the_next_place_that_passes(house: House, tmp_path: Path) -> None:
    await written(house, tmp_path / "set", "red", "blue", "red", "", "red")

    async def next_after(after: int, wanted: str, **more: str) -> tuple[int | None, int]:
        found = await house.call(
            wire.FindPlace(dataset="set", wanted=wanted, after=after, **more)
        )  # fmt: skip
        return found.place, found.left

    assert await next_after(-1, "red") == (0, 3)
    assert await next_after(2, "red") == (4, 3)
    assert await next_after(4, "red") == (0, 3)
    assert await next_after(0, "issue:any") == (3, 1)
    assert await next_after(0, "green") == (None, 0)
    view = (await house.call(wire.ListItems(dataset="set", filter="red"))).view
    await put(house, "002.png", text="green")  # the list stands, and so do its places
    assert await next_after(0, "green", filter="red", view=view) == (1, 1)
    with pytest.raises(FilterError, match="tagg"):
        await next_after(0, "tagg:x")


async def test_everybody_is_told_who_looks_at_what(daemon: DaemonProcess, home: Path) -> None:
    at = wire.Looking(dataset="d", item="i", name="003.png")

    async def looking(client: Client, wanted: wire.Looking | None) -> None:
        async with asyncio.timeout(20):
            async for notice in client.notices():
                if isinstance(notice, wire.LiveUpdate):
                    for value in notice.values:
                        if isinstance(value, wire.Attached):
                            of_ana = [c.looking for c in value.clients if c.name == "ana"]
                            if of_ana == [wanted]:
                                return

    async with (
        await Client.connect(home=home, name="bob", subscribe=True) as bob,
        await Client.connect(home=home, name="ana", subscribe=True) as ana,
    ):
        await ana.call(wire.Look(at=at))
        await looking(bob, at)
        await ana.call(wire.Look())
        await looking(bob, None)
