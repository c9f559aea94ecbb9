"""Pictures turned and cropped as data: kept, shown, taken back, and trained as they are seen."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from lora_daemon import pipe
from lora_daemon.service import Context
from shared import wire
from shared.errors import Code, LoraError
from shared.framing import Framing
from tests.daemon.house import House, hollow_base


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path / "home")
    yield house
    await house.close()


async def taken_in(house: House, folder: Path) -> dict[str, wire.Item]:
    draw(folder)
    await house.call(wire.ImportDataset(path=str(folder)))
    return await items(house)


def draw(folder: Path) -> None:
    """Three pictures, the left half of each red and the right half blue."""
    folder.mkdir()
    for name, size in (("a", (400, 200)), ("b", (200, 300)), ("c", (300, 200))):
        picture = Image.new("RGB", size, "red")
        picture.paste((0, 0, 255), (size[0] // 2, 0, *size))
        picture.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(name)


async def items(house: House) -> dict[str, wire.Item]:
    found = await house.call(wire.ListItems(dataset="set"))
    return {item.name[0]: item for item in found.items}


async def seen(house: House, request: wire.Request[wire.Thumbnail]) -> Image.Image:
    context = Context(by="tester", key="", progress=lambda *_: None)
    await house.handlers[type(request)](context, request)
    return Image.open(io.BytesIO(context.blobs[0])).convert("RGB")


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }  # fmt: skip


async def test_turned_and_cropped_shown_and_taken_back(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    await taken_in(house, folder)
    before = digests(folder)
    turned = await house.call(wire.FramePictures(dataset="set", items=["a.png"], rotate=90))
    assert turned == wire.Framed(what="rotation of a.png", changed=1)
    crop = (0, 0, 200, 200)  # the upper half, which was the left one
    await house.call(wire.FramePictures(dataset="set", items=["a.png"], crop=crop))
    now = (await items(house))["a"]
    assert now.framing == Framing(turn=90, crop=crop) and now.caption.rev == 1
    small = await seen(house, wire.GetThumbnail(dataset="set", item="a.png", width=64, height=64))
    assert small.size == (64, 64)
    pixel = small.getpixel((32, 32))
    assert isinstance(pixel, tuple) and pixel[0] > 240 and pixel[2] < 20  # red
    await house.call(wire.FramePictures(dataset="set", filter="name:*", rotate=180))
    framed = [item.framing for item in (await items(house)).values()]
    assert framed[0] == Framing(turn=270, crop=(0, 200, 200, 400))
    assert framed[1:] == [Framing(turn=180)] * 2
    undone = await house.call(wire.UndoCaption(dataset="set"))
    assert (undone.what, undone.changed) == ("rotation of 3 pictures", 3)
    assert undone.item.framing == Framing(turn=90, crop=crop)
    await house.call(wire.UndoCaption(dataset="set"))
    await house.call(wire.UndoCaption(dataset="set"))
    assert all(item.framing.plain for item in (await items(house)).values())
    for _ in range(3):
        await house.call(wire.UndoCaption(dataset="set", redo=True))
    assert [item.framing for item in (await items(house)).values()] == framed
    assert digests(folder) == before


async def test_captions_and_framings_are_taken_back_in_one_order(
    house: House, tmp_path: Path
) -> None:
    found = await taken_in(house, tmp_path / "set")
    one = found["a"]
    change = wire.ChangeCaption(dataset="set", item=one.id, if_rev=1, text="a dragon")
    await house.call(change)
    await house.call(wire.FramePictures(dataset="set", items=["a.png"], rotate=90))
    undone = await house.call(wire.UndoCaption(dataset="set"))
    assert undone.item.framing.plain and undone.item.caption.text == "a dragon"
    undone = await house.call(wire.UndoCaption(dataset="set"))
    assert undone.item.caption.text == "a"


async def test_what_somebody_else_has_framed_since_stays(house: House, tmp_path: Path) -> None:
    await taken_in(house, tmp_path / "set")
    await house.call(wire.FramePictures(dataset="set", items=["a.png", "b.png"], rotate=90))
    await house.call(wire.FramePictures(dataset="set", items=["a.png"], rotate=90), by="anna")
    with pytest.raises(LoraError) as caught:
        await house.call(
            wire.FramePictures(dataset="set", items=["a.png"], rotate=90, seen=Framing(turn=90))
        )
    assert caught.value.code is Code.CONFLICT and caught.value.data["current"] == {"turn": 180}
    undone = await house.call(wire.UndoCaption(dataset="set"))
    assert (undone.changed, undone.conflicts) == (1, 1)
    now = await items(house)
    assert (now["a"].framing.turn, now["b"].framing.turn) == (180, 0)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (wire.FramePictures(dataset="set", items=["a.png"], rotate=45), "90, 180 or 270"),
        (wire.FramePictures(dataset="set", items=["a.png"], crop=(0, 0, 500, 100)), "a.png: The"),
        (wire.FramePictures(dataset="set", items=["x.png"], rotate=90), "no picture 'x.png'"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    house: House, tmp_path: Path, request_: wire.FramePictures, words: str
) -> None:
    await taken_in(house, tmp_path / "set")
    with pytest.raises(LoraError, match=words):
        await house.call(request_)
    assert all(item.framing.plain for item in (await items(house)).values())


async def test_buckets_are_listed_and_drawn_as_a_recipe_has_them(
    house: House, tmp_path: Path
) -> None:
    await taken_in(house, tmp_path / "set")
    await house.call(wire.FramePictures(dataset="set", items=["a.png"], rotate=90))
    base = hollow_base(tmp_path / "base")
    recipe = (
        f'[base]\nname = "{base}"\n[training]\nbatch_size = 2\n'
        "[dataset]\nenable_bucket = true\nresolution = 128\nrepeats = 3\n"
    )
    found = await house.call(wire.ListBuckets(dataset="set", recipe=recipe))
    assert [(one.width, one.height, one.samples) for one in found.buckets] == [
        (80, 176, 3), (96, 160, 3), (160, 96, 3),
    ]  # fmt: skip
    assert (found.steps_per_epoch, found.pictures, found.resolution) == (6, 3, 128)
    squares = await house.call(
        wire.ListBuckets(dataset="set", recipe=recipe.replace("true", "false"))
    )
    assert [(one.width, one.pictures) for one in squares.buckets] == [(128, 3)]
    assert squares.rules is None and squares.steps_per_epoch == 5
    context = Context(by="tester", key="", progress=lambda *_: None)
    ask = wire.PreviewBucket(
        dataset="set", item="c.png", recipe=recipe.replace("true", "false"), width=300, height=300
    )
    preview = await house.handlers[wire.PreviewBucket](context, ask)
    assert (preview.bucket, preview.shown) == ((128, 128), (50, 0, 250, 200))
    assert preview.lost == pytest.approx(1 / 3)
    drawn = Image.open(io.BytesIO(context.blobs[0])).convert("RGB")
    dark, light = drawn.getpixel((20, 100)), drawn.getpixel((100, 100))
    assert isinstance(dark, tuple) and isinstance(light, tuple)
    assert dark[0] < 100 and light[0] > 240
    plain = await house.call(wire.ListBuckets(dataset="set", resolution=256))
    assert plain.rules is not None and plain.rules.resolution == 256


async def test_a_run_freezes_how_its_pictures_are_seen(house: House, tmp_path: Path) -> None:
    await taken_in(house, tmp_path / "set")
    await house.call(wire.FramePictures(dataset="set", items=["a.png"], crop=(0, 0, 200, 200)))
    base = hollow_base(tmp_path / "base")
    recipe = (
        f'[base]\nname = "{base}"\n[training]\nbatch_size = 2\nepochs = 4\n'
        '[dataset]\nname = "set"\nenable_bucket = true\nresolution = 128\n'
    )
    run = await house.domain._freezer.start(
        Context(by="tester", key="", progress=lambda *_: None), wire.StartRun(recipe=recipe)
    )
    path = house.workspace.runs / run.id / "freeze.json"
    frozen = msgspec.json.decode(path.read_bytes(), type=pipe.Freeze).pictures
    assert [one.bucket for one in frozen] == [(128, 128), (96, 160), (160, 96)]
    assert frozen[0].framing.crop == (0, 0, 200, 200)
    assert (run.steps, run.epochs) == (12, 4)  # three buckets of one


async def test_a_run_has_versions_of_pictures_that_are_cropped(
    house: House, tmp_path: Path
) -> None:
    await taken_in(house, tmp_path / "set")
    await house.call(wire.FramePictures(dataset="set", items=["a.png"], crop=(0, 0, 200, 200)))
    base = hollow_base(tmp_path / "base")

    async def queued(options: str) -> tuple[list[int], list[str]]:
        recipe = f'[base]\nname = "{base}"\n[dataset]\nname = "set"\nresolution = 128\n{options}\n'
        run = await house.domain._freezer.start(
            Context(by="tester", key="", progress=lambda *_: None), wire.StartRun(recipe=recipe)
        )
        path = house.workspace.runs / run.id / "freeze.json"
        freeze = msgspec.json.decode(path.read_bytes(), type=pipe.Freeze)
        warnings = (await house.call(wire.GetRun(run=run.id))).warnings
        return freeze.versions, [one for one in warnings if "random_crop" in one]

    assert await queued("") == ([], [])
    assert await queued("random_crop = true\nversions = 3") == ([1, 3, 3], [])
    assert await queued("color_jitter = 0.1") == ([8, 8, 8], [])
    for name in ("b.png", "c.png"):
        await house.call(wire.FramePictures(dataset="set", items=[name], crop=(0, 0, 200, 200)))
    versions, (warning,) = await queued("random_crop = true")
    assert versions == [1, 1, 1] and "changes nothing" in warning
    versions, (_,) = await queued("random_crop = true\ncolor_jitter = 0.1")
    assert versions == [8, 8, 8]


async def test_an_export_writes_what_is_seen_if_asked_and_else_what_is_in_the_files(
    house: House, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    draw(folder)
    with Image.open(folder / "c.png") as drawn:
        drawn.save(folder / "c.jpg", quality=95)
    (folder / "c.png").unlink()
    await house.call(wire.ImportDataset(path=str(folder)))
    found = await items(house)
    turn = wire.FramePictures(
        dataset="set", items=[found["a"].id, found["c"].id], rotate=90, crop=(0, 0, 100, 80)
    )
    await house.call(turn)
    plain = await house.call(wire.ExportDataset(dataset="set", path=str(tmp_path / "plain")))
    ask = wire.ExportDataset(dataset="set", path=str(tmp_path / "seen"), apply_framing=True)
    seen_now = await house.call(ask)
    assert plain.framed == seen_now.framed == 2
    sizes = {}
    for out in ("plain", "seen"):
        for path in sorted((tmp_path / out).glob("*.[pj]*")):
            with Image.open(path) as picture:
                sizes[f"{out}/{path.name}"] = picture.size
                top = picture.convert("RGB").getpixel((1, 1))
                assert isinstance(top, tuple) and top[0] > 200 > top[2]  # its red half is above
    assert sizes == {
        "plain/a.png": (400, 200), "plain/b.png": (200, 300), "plain/c.jpg": (300, 200),
        "seen/a.png": (100, 80), "seen/b.png": (200, 300), "seen/c.jpg": (100, 80),
    }  # fmt: skip
    assert (tmp_path / "seen" / "c.txt").read_text() == "c"
