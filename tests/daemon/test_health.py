"""Health: each kind is found, shown by its filter, mended by its fix, and measured only once."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter

from lora_daemon import picture_measures
from lora_daemon.picture_facts import Unmeasured, facts_of, measure
from lora_daemon.picture_measures import Measured
from shared import wire
from shared.health import KINDS, Finding, Health
from tests.daemon.house import House

TAGS = "sks, dragon, solo"
GRAVE = {kind.name for kind in KINDS.values() if kind.grave} - {"copies", "near"}


def picture(seed: int, side: int = 160) -> Image.Image:
    """Detail at every scale, as a photograph has it."""
    chance, whole = np.random.default_rng(seed), np.zeros((side, side, 3))
    for size in (4, 10, 20, 40, 80, 160):
        noise = Image.fromarray(chance.integers(0, 256, (size, size, 3), np.uint8))
        whole += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), float) / 6
    return Image.fromarray(np.clip((whole - 128) * 2 + 128, 0, 255).astype(np.uint8))


def fill(folder: Path) -> dict[str, set[str]]:
    """A folder with one of everything; the names by kind."""
    folder.mkdir()

    def put(name: str, made: Image.Image, text: str = TAGS, **options: object) -> None:
        made.save(folder / name, **options)  # type: ignore[arg-type]
        (folder / name).with_suffix(".txt").write_text(text)

    for number in range(10):
        put(f"p{number}.jpg", picture(number), quality=92)
    put("soft.jpg", picture(20).filter(ImageFilter.GaussianBlur(4)))
    put("night.png", picture(21).point(lambda v: v // 5))
    put("pale.png", picture(22).point(lambda v: 200 + v // 5), "dragon, solo, drago")
    shutil.copy(folder / "p0.jpg", folder / "z.jpg")
    (folder / "z.txt").write_text("sks, dargon, solo, sunset")
    put("p1-again.jpg", picture(1).resize((90, 90)), quality=60)
    clear = picture(23).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    put("clear.png", clear)
    exif = Image.Exif()
    exif[0x0112] = 6
    put("turned.jpg", picture(24), exif=exif)
    put("print.jpg", picture(25).convert("CMYK"))
    put("srgb.jpg", picture(26), ", ".join(f"sks very long tag {n}" for n in range(40)),
        icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())  # fmt: skip
    put("bare.jpg", picture(27), " \n")
    put("twice.jpg", picture(28))
    picture(29).save(folder / "twice.png")
    data = (folder / "p5.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "no.png").write_text("no picture")
    (folder / "lost.txt").write_text("nobody's")
    (folder / "README.txt").write_text("nobody's either")
    return {
        "unreadable": {"no.png"}, "truncated": {"cut.jpg"}, "copies": {"p0.jpg", "z.jpg"},
        "near": {"p1.jpg", "p1-again.jpg"}, "no-caption": {"bare.jpg"}, "no-trigger": {"pale.png"},
        "long": {"srgb.jpg"}, "stem": {"twice.jpg", "twice.png"}, "small": {"p1-again.jpg"},
        "blur": {"soft.jpg"}, "dark": {"night.png"}, "bright": {"pale.png"},
        "profile": {"print.jpg"}, "tag-twin": {"z.jpg", "pale.png"}, "tag-once": {"z.jpg"},
        "alpha": {"clear.png"}, "turned": {"turned.jpg"},
    }  # fmt: skip


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    made = House(home)
    await made.domain._library.start()  # its tokenizer counts tokens
    yield made
    await made.close()


async def names(house: House, filter: str) -> set[str]:
    answer = await house.call(wire.ListItems(dataset="set", filter=filter))
    return {item.name for item in answer.items}


def of(health: Health, kind: str) -> Finding:
    return next(one for one in health.findings if one.kind == kind)


async def test_everything_is_found_shown_and_mended(house: House, tmp_path: Path) -> None:
    wanted = fill(tmp_path / "set")
    await house.call(wire.ImportDataset(path=str(tmp_path / "set")))
    before = (await house.call(wire.GetHealth(dataset="set"))).health
    assert before.at is None and before.unchecked == before.pictures - 2
    assert of(before, "blur").unknown and of(before, "no-trigger").unknown
    found = await house.call(wire.CheckHealth(dataset="set", resolution=128, trigger="sks"))
    health = found.health
    assert found.problems == [] and health.unchecked == 0 and health.at
    assert (health.resolution, health.trigger) == (128, "sks")
    for kind, expected in wanted.items():
        one = of(health, kind)
        assert (await names(house, one.filter), one.count) == (expected, len(expected)), kind
    assert of(health, "orphans").examples == ["lost.txt"]
    assert of(health, "tag-everywhere").examples[:2] == ["solo (20)", "dragon (19)"]
    assert of(health, "copies").examples == ["p0.jpg = z.jpg"]
    assert await names(house, "issue:unchecked") == set()
    grave = {name for kind, found in wanted.items() for name in found if kind in GRAVE}
    assert await names(house, "issue:any") == grave
    assert any(isinstance(h, wire.JobChanged) and h.job.kind == "check" for h in house.heard)

    for kind in ("near", "copies", "no-trigger", "tag-twin", "blur"):
        fix = of((await house.call(wire.GetHealth(dataset="set"))).health, kind).fix
        if kind == "copies":  # what near duplicates are left out by leaves these out as well
            assert fix is None
            continue
        assert fix is not None
        ask = wire.PreviewEdit(dataset="set", edits=fix.edits, state=fix.state, filter=fix.filter)
        preview = await house.call(ask)
        await house.call(wire.ApplyEdit(preview=preview.preview))
        told = (await house.call(wire.GetHealth(dataset="set"))).health
        assert of(told, kind).count == 0, kind  # at once: nothing stale is told
        assert await names(house, of(health, kind).filter) == set()
        if kind == "near":
            assert await names(house, "state:rejected") == {"p1-again.jpg", "z.jpg"}
    for _ in range(4):  # one undo each
        await house.call(wire.UndoCaption(dataset="set"))
    again = (await house.call(wire.GetHealth(dataset="set"))).health
    assert [one.count for one in again.findings] == [one.count for one in health.findings]


async def test_a_check_goes_on_where_the_last_one_was_ended(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(40):
        picture(number, 64).save(folder / f"{number:02}.png")
    await house.call(wire.ImportDataset(path=str(folder)))
    monkeypatch.setattr(picture_measures, "PROCESSES", 1)
    measured = asyncio.Event()
    real = picture_measures._measured.decode

    def decode(line: bytes) -> Measured:
        measured.set()
        return real(line)

    monkeypatch.setattr(
        picture_measures, "_measured", type("D", (), {"decode": staticmethod(decode)})
    )
    first = asyncio.create_task(house.call(wire.CheckHealth(dataset="set")))
    second = asyncio.create_task(house.call(wire.CheckHealth(dataset="set")))  # joins it
    await asyncio.wait_for(measured.wait(), 60)
    first.cancel()
    await asyncio.wait([first])
    assert not second.done()
    ((_, task),) = house.domain._health._checks.values()
    second.cancel()
    await asyncio.wait([first, second, task])
    (kept,) = house.store.query("SELECT count(*) AS n FROM facts")
    assert 0 < kept["n"] < 40
    found = await house.call(wire.CheckHealth(dataset="set"))
    assert found.health.unchecked == 0
    jobs = [h.job for h in house.heard if isinstance(h, wire.JobChanged)]
    checks = [job for job in jobs if job.kind == "check"]
    assert [job.state for job in checks if job.state != "running"] == ["cancelled", "done"]
    assert checks[-1].message == f"{40 - kept['n']} pictures measured"


async def test_what_changes_in_the_folder_is_known_or_measured_anew(
    house: House, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    picture(1).save(folder / "a.png")
    await house.call(wire.ImportDataset(path=str(folder)))
    await house.call(wire.CheckHealth(dataset="set"))
    shutil.copy(folder / "a.png", folder / "b.png")
    picture(2).filter(ImageFilter.GaussianBlur(4)).save(folder / "a.png")
    await house.call(wire.ImportDataset(path=str(folder)))
    assert await names(house, "issue:unchecked") == {"a.png"}  # b's content is known
    picture(3).save(folder / "a.png")  # and again, behind the database's back
    found = await house.call(wire.CheckHealth(dataset="set"))
    assert "has changed since it was imported" in dict(found.problems)["a.png"]
    assert found.health.unchecked == 1


async def test_a_crash_of_the_decoder_costs_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "crashing.py"
    script.write_text(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    for content, path in json.loads(line):\n"
        "        if content == 'bad': os.kill(os.getpid(), 9)\n"
        "        print(json.dumps({'content': content}), flush=True)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(picture_measures, "PROCESS", "crashing")
    taken: list[Measured] = []

    async def take(measured: Measured) -> None:
        taken.append(measured)

    await picture_measures.measure([(c, "") for c in ("a", "bad", "b", "c")], take)
    assert [one.content for one in taken] == ["a", "bad", "b", "c"]
    assert [bool(one.problem) for one in taken] == [False, True, False, False]


def test_the_daemon_needs_no_numpy() -> None:
    code = "import sys, lora_daemon.domain; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unmeasured, match="No such file"):
        measure(tmp_path / "gone.png", "")


def test_a_flat_picture_is_neither_blurred_nor_near_another(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "flat.png")
    facts = facts_of((tmp_path / "flat.png").read_bytes())
    assert (facts.looks, facts.hash) == (0, None)
