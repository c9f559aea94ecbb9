"""A captioner's captions: only where there were none, undone one by one, given up, gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lora_daemon import captioning
from shared import wire
from shared.errors import Code, LoraError
from tests.daemon.house import House, opened, with_fake_worker
from tests.daemon.process import pictures


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path)
    monkeypatch.setattr(captioning, "PORTION", 2)
    async with opened(tmp_path) as house:
        yield house


def uncaptioned(folder: Path, number: int) -> None:
    pictures(folder, number)
    for caption in folder.glob("*.txt"):
        caption.unlink()


def job(house: House) -> wire.Job:
    """The last captioning."""
    return [one for one in house.domain._jobs.all() if one.kind == "caption"][-1]


async def bare(house: House, folder: Path, number: int = 5) -> Path:
    """A dataset ``set`` of pictures 000.png … without captions."""
    uncaptioned(folder, number)
    await house.call(wire.ImportDataset(path=str(folder)))
    return folder


async def captions(house: House) -> dict[str, wire.Caption]:
    listed = await house.call(wire.ListItems(dataset="set"))
    return {item.name: item.caption for item in listed.items}


async def put(house: House, name: str, **fields: str) -> None:
    item = await house.call(wire.GetItem(dataset="set", item=name))
    change = {"dataset": "set", "item": item.id, "if_rev": item.caption.rev, **fields}
    await house.call(wire.ChangeCaption(**change))  # type: ignore[arg-type]


async def test_empty_captions_become_candidates_and_what_is_there_stays(
    house: House, tmp_path: Path
) -> None:
    folder = await bare(house, tmp_path / "set")
    await put(house, "001.png", text="mine")
    await put(house, "002.png", state="rejected")
    done = await house.call(wire.CaptionPictures(dataset="set"))
    assert (done.written, done.kept, done.problems) == (3, 2, [])
    now = await captions(house)
    assert (now["000.png"].text, now["000.png"].state) == ("the picture 000", "unreviewed")
    assert now["000.png"].source == "captioner"
    assert (now["001.png"].text, now["001.png"].source) == ("mine", "person")
    assert (now["002.png"].text, now["002.png"].state) == ("", "rejected")
    assert (folder / "004.txt").read_text() == "the picture 004\n"
    again = await house.call(wire.CaptionPictures(dataset="set", accept=True))
    assert (again.written, again.kept) == (0, 5)
    assert await captions(house) == now


async def test_accepted_at_once_and_taken_back_one_by_one(house: House, tmp_path: Path) -> None:
    await bare(house, tmp_path / "set", 2)
    await house.call(wire.CaptionPictures(dataset="set", accept=True))
    assert {c.state for c in (await captions(house)).values()} == {"accepted"}
    undone = await house.call(wire.UndoCaption(dataset="set"))
    assert undone.what == "captioning of 001.png"
    now = await captions(house)
    assert (now["001.png"].text, now["001.png"].state) == ("", "unreviewed")
    assert now["000.png"].text == "the picture 000"


async def test_captions_that_cannot_be_put_beside_their_pictures_are_told(
    house: House, tmp_path: Path
) -> None:
    folder = await bare(house, tmp_path / "set", 2)
    (folder / "001.txt").mkdir()
    done = await house.call(wire.CaptionPictures(dataset="set"))
    assert done.written == 2
    assert any("1 caption(s) of set are safe in the workspace" in one for one in done.warnings)


async def test_only_what_the_filter_finds(house: House, tmp_path: Path) -> None:
    await bare(house, tmp_path / "set")
    ask = wire.CaptionPictures(dataset="set", filter="name:001 OR name:003")
    done = await house.call(ask)
    assert (done.written, done.kept) == (2, 0)
    assert [n for n, c in (await captions(house)).items() if c.text] == ["001.png", "003.png"]


async def test_what_cannot_be_read_is_named_and_the_rest_goes_on(
    house: House, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no picture")
    pictures(tmp_path / "two", 2)
    for old, new in (("000.png", "torn.png"), ("001.png", "whole.png")):
        (tmp_path / "two" / old).rename(folder / new)
    await house.call(wire.ImportDataset(path=str(folder)))
    done = await house.call(wire.CaptionPictures(dataset="set"))
    assert done.written == 1
    assert done.kept == 0
    assert [name for name, _ in done.problems] == ["broken.png", "torn.png"]


async def test_given_up_it_says_so_and_keeps_what_is_written(house: House, tmp_path: Path) -> None:
    folder = await bare(house, tmp_path / "set", 2)
    (folder / "000.png").rename(folder / "slow.png")
    await house.call(wire.ImportDataset(path=str(folder)))
    call = asyncio.create_task(house.call(wire.CaptionPictures(dataset="set")))
    begun = wire.JobChanged
    await house.until(lambda: any(isinstance(h, begun) and h.job.kind == "caption" and h.job.done
                                  for h in house.heard))  # fmt: skip
    assert house.domain.workers()[0].state == "captioning"
    with pytest.raises(LoraError) as busy:
        await house.call(wire.CaptionPictures(dataset="set"))
    assert busy.value.code == Code.BUSY
    call.cancel()
    await asyncio.wait([call])
    assert job(house).state == "cancelled"
    assert all(caption.text for caption in (await captions(house)).values())
    assert (await house.call(wire.CaptionPictures(dataset="set"))).kept == 2


async def test_paused_it_waits_after_the_pictures_before_it_and_goes_on(
    house: House, tmp_path: Path
) -> None:
    await bare(house, tmp_path / "set", 6)  # three portions
    with pytest.raises(LoraError) as caught:
        await house.call(wire.SteerCaptioning(dataset="set", action="pause"))
    assert caught.value.code == Code.WRONG_STATE

    def told(state: str) -> bool:
        return any(isinstance(h, wire.JobChanged) and h.job.state == state for h in house.heard)

    async def caption_and_pause() -> asyncio.Task[wire.Captioned]:
        house.heard.clear()
        call = asyncio.create_task(house.call(wire.CaptionPictures(dataset="set"), by="anna"))
        await house.until(lambda: told("running"))
        await house.call(wire.SteerCaptioning(dataset="set", action="pause"), by="ben")
        await house.until(lambda: told("paused"))
        return call

    call = await caption_and_pause()
    written = [caption.text for caption in (await captions(house)).values() if caption.text]
    assert len(written) < 6
    assert job(house).dataset == (await house.call(wire.GetItem(dataset="set", item="000.png"))
                                  ).dataset  # fmt: skip
    assert house.domain.workers()[0].state != "captioning"  # the device is others' meanwhile
    await put(house, "005.png", text="mine")
    await house.call(wire.SteerCaptioning(dataset="set", action="resume"))
    done = await call
    assert (done.written, (await captions(house))["005.png"].text) == (5, "mine")
    for caption in ("000.png", "001.png", "002.png", "003.png"):
        await put(house, caption, text="")
    call = await caption_and_pause()
    await house.call(wire.SteerCaptioning(dataset="set", action="cancel"))
    with pytest.raises(asyncio.CancelledError):
        await call
    assert job(house).state == "cancelled"


async def test_a_worker_that_dies_is_tried_again_and_then_told(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bare(house, tmp_path / "set", 3)
    monkeypatch.setenv("FAKE_WORKER", "die once")
    assert (await house.call(wire.CaptionPictures(dataset="set"))).written == 3
    await bare(house, tmp_path / "other", 1)
    await house.domain._seats.first.supervisor.end(now=True)
    monkeypatch.setenv("FAKE_WORKER", "die")
    with pytest.raises(LoraError) as caught:
        await house.call(wire.CaptionPictures(dataset="other"))
    assert caught.value.code == Code.WORKER_FAILED
    assert job(house).state == "failed"


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("blib", Code.NOT_FOUND, "starter (built in), blip"),
        ("/nowhere", Code.NOT_FOUND, "nothing at /nowhere"),
    ],
)
async def test_an_unknown_captioner_is_refused(
    house: House, tmp_path: Path, model: str, code: Code, words: str
) -> None:
    await bare(house, tmp_path / "set", 1)
    with pytest.raises(LoraError, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        await house.call(wire.CaptionPictures(dataset="set", model=model))
    assert caught.value.code == code


async def test_without_the_hub_it_says_what_to_do(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    await bare(house, tmp_path / "set", 1)
    with pytest.raises(LoraError, match=r"large.* is not in this machine's cache"):
        await house.call(wire.CaptionPictures(dataset="set", model="blip"))
    assert job(house).state == "failed"
