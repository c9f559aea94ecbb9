"""The gallery: pictures of here and of other tools, rated, asked for again, given away."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_daemon.service import Context
from lora_tui.core.exported import put
from shared import wire
from shared.errors import Code, LoraError
from shared.pictures import LoraUse, PictureSpec, SecondPass, Start, Variation
from tests.daemon.house import House, opened, with_fake_worker

TEXT = "a {} house\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 8, Size: 64x64, Model: base"


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path, "begun")
    async with opened(tmp_path, base=True) as house:
        yield house


def png(path: Path, parameters: str = "", insert: bytes = b"") -> Path:
    """A picture with a text; ``insert``: bytes between its first chunk and the rest."""
    info, out = PngInfo(), io.BytesIO()
    if parameters:
        info.add_text("parameters", parameters)
    Image.new("RGB", (64, 48), "red").save(out, "PNG", pnginfo=info)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(out.getvalue()[:33] + insert + out.getvalue()[33:])
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


async def blob(house: House, **request: Any) -> tuple[wire.GalleryFound, bytes]:
    context = Context(by="tester", key="", progress=lambda *_: None)
    asked = wire.GetGalleryPicture(**request)
    found = await house.handlers[wire.GetGalleryPicture](context, asked)
    return found, context.blobs[0]


async def listed(house: House, filter: str = "", **request: Any) -> list[Any]:
    return (await house.call(wire.ListGallery(filter=filter, **request))).pictures


async def test_pictures_of_other_tools_are_shown_where_they_lie(
    house: House, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    png(other / "red.png", TEXT.format("red"))
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + TEXT.format("jpeg").encode("utf-16-be")
    Image.new("RGB", (32, 16)).save(other / "photo.jpg", exif=exif)
    (other / "notes.txt").write_text("not a picture's name")
    found = await house.call(wire.ImportPictures(paths=[str(other)]))
    assert (found.added, found.same, found.skipped) == (2, 0, [])
    again = await house.call(wire.ImportPictures(paths=[str(other)]))
    assert (again.added, again.same) == (0, 2)
    png(other / "red.png", TEXT.format("crimson"))
    assert (await house.call(wire.ImportPictures(paths=[str(other)]))).changed == 1
    (photo,) = await listed(house, "jpeg")
    assert (photo.width, photo.height, photo.made.sampler) == (32, 16, "Euler a")
    (red,) = await listed(house, "crimson")
    found, data = await blob(house, picture=red.id, file=True)
    assert data == (other / "red.png").read_bytes() and found.spec.prompt == "a crimson house"
    assert (found.spec.base, found.spec.seed, found.left) == ("base", 8, [])
    _, bare = await blob(house, picture=red.id[:8], file=True, bare=True)
    with Image.open(io.BytesIO(bare)) as clean, Image.open(other / "red.png") as before:
        assert clean.info == {} and clean.tobytes() == before.tobytes()
    await house.call(wire.RemovePicture(picture=red.id))
    assert (other / "red.png").exists() and not await listed(house, "crimson")
    with pytest.raises(LoraError) as refused:
        await house.call(wire.ImportPictures(paths=[str(tmp_path / "nowhere")]))
    assert refused.value.code is Code.NOT_FOUND


async def test_files_that_lie_are_named_and_the_others_taken(house: House, tmp_path: Path) -> None:
    other = tmp_path / "other"
    whole = png(other / "whole.png", TEXT.format("red")).read_bytes()
    (other / "cut.png").write_bytes(whole[:-40])
    png(other / "lying.png", insert=struct.pack(">I", 2**31 - 1) + b"tEXt")
    (other / "text.png").write_text("no picture")
    (other / "empty.jpg").touch()
    (other / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe1\xff\xff")
    png(other / "huge.png", insert=chunk(b"tEXt", b"parameters\0" + b"x" * (3 << 20)))
    packed = zlib.compress(b"x" * (100 << 20), 1)
    png(other / "bomb.png", insert=chunk(b"zTXt", b"parameters\0\0" + packed))
    png(other / "odd.png", insert=chunk(b"tEXt", b"no end") + chunk(b"iTXt", b"parameters\0\0"))
    found = await house.call(wire.ImportPictures(paths=[str(other)]))
    why = {Path(one.path).name: one.why for one in found.skipped}
    assert sorted(why) == ["cut.jpg", "cut.png", "empty.jpg", "lying.png", "text.png"]
    assert "2147483647" in why["lying.png"] and "empty" in why["empty.jpg"]
    assert found.added == 4
    notes = {Path(one.path).name: one for one in await listed(house)}
    for name in ("huge.png", "bomb.png"):
        assert "MiB" in notes[name].note and notes[name].made.prompt == ""
        _, small = await blob(house, picture=notes[name].id, side=32)
        with Image.open(io.BytesIO(small)) as picture:  # it is shown all the same
            assert picture.size == (32, 24)
    assert not notes["odd.png"].note


async def test_a_picture_whose_file_is_gone_says_so(house: House, tmp_path: Path) -> None:
    path = png(tmp_path / "other" / "red.png", TEXT.format("red"))
    await house.call(wire.ImportPictures(paths=[str(path)]))
    path.unlink()
    (one,) = await listed(house)
    assert one.problem == "Its file is gone."
    for request in ({"side": 32}, {"file": True}):
        with pytest.raises(LoraError) as refused:
            await blob(house, picture=one.id, **request)
        assert refused.value.code is Code.INVALID_FILE and "gone" in str(refused.value)


async def test_our_own_ask_for_the_very_same_again_and_may_be_begun_from(
    house: House, tmp_path: Path
) -> None:
    ink = tmp_path / "ink.safetensors"
    ink.write_bytes(b"of no interest")
    spec = PictureSpec(
        base="base", prompt=f"a cat <lora:{ink}:0.5>", width=64, height=64, steps=5,
        variation=Variation(seed=2, strength=0.5),
    )  # fmt: skip
    picture = await house.call(wire.Generate(spec=spec))
    found = await house.call(wire.GetGalleryPicture(picture=picture.id))
    assert found.spec.loras == [LoraUse(lora=str(ink), weight=0.5)] and not found.left
    assert found.spec.prompt == "a cat" and found.spec.variation == spec.variation
    begun = PictureSpec(base="base", start=Start(picture=picture.id, strength=0.5))
    second = await house.call(wire.Generate(spec=begun))
    found = await house.call(wire.GetGalleryPicture(picture=second.id))
    assert found.spec.start == Start(picture=picture.path, strength=0.5)
    for prompt, start, words in (
        ("<lora:lost:1> x", None, "lost"), ("x", Start(picture="nobody"), "nobody"),
    ):  # fmt: skip
        with pytest.raises(LoraError, match=words) as refused:
            unknown = PictureSpec(base="base", prompt=prompt, start=start)
            await house.call(wire.Generate(spec=unknown))
        assert refused.value.code is Code.NOT_FOUND


async def test_a_runs_sample_is_asked_for_with_the_lora_of_its_step(
    house: House, tmp_path: Path
) -> None:
    lora = wire.Lora(
        name="beast-step000020", path="x", size=9, rank=1, base="base", trigger="", run="r0001",
        step=20, sha256="", created=0.0,
    )  # fmt: skip
    with house.store.change("t") as change:
        row = (lora.name, lora.run, wire.encoder.encode(lora))
        change.execute("INSERT INTO loras (name, run, lora) VALUES (?, ?, ?)", row)
    for step, uses in ((0, []), (20, [LoraUse(lora=lora.name)]), (30, [])):
        sample = wire.Picture(
            id=f"p{step}", path=str(png(tmp_path / f"{step}.png", TEXT.format("red"))), run="r0001",
            step=step, prompt="", seed=1, width=64, height=48, parameters="", created=1.0,
        )  # fmt: skip
        house.domain._library.add_picture(sample, "t")
        found = await house.call(wire.GetGalleryPicture(picture=sample.id))
        assert found.spec.loras == uses
        assert any("sample of run r0001" in text for text in found.left) == (step == 30)


async def test_ratings_order_and_filter_and_can_be_taken_back(house: House, tmp_path: Path) -> None:
    for name in ("red", "blue", "grey"):
        png(tmp_path / "other" / f"{name}.png", TEXT.format(name))
    await house.call(wire.ImportPictures(paths=[str(tmp_path / "other")]))
    ids = {one.made.prompt.split()[1]: one.id for one in await listed(house)}
    await house.call(wire.RatePicture(picture=ids["blue"], rating=5))
    await house.call(wire.RatePicture(picture=ids["grey"], rating=3))
    assert wire.PictureRated(picture=ids["blue"], rating=5) in [
        getattr(one, "event", None) for one in house.heard
    ]
    best = await listed(house, order="best")
    assert [one.rating for one in best] == [5, 3, 0]
    page = await house.call(wire.ListGallery(filter="rating:3", order="best", limit=1, offset=1))
    assert page.total == 2 and [one.id for one in page.pictures] == [ids["grey"]]
    await house.call(wire.RatePicture(picture=ids["blue"], rating=0))
    assert [one.id for one in await listed(house, "rating:1")] == [ids["grey"]]
    with pytest.raises(LoraError) as refused:
        await listed(house, "colour:red")
    assert refused.value.code is Code.BAD_REQUEST


async def test_an_exported_picture_overwrites_none_and_says_where_it_cannot_go(
    house: House, tmp_path: Path
) -> None:
    path = png(tmp_path / "other" / "red.png", TEXT.format("red"))
    await house.call(wire.ImportPictures(paths=[str(path)]))
    found, data = await blob(house, picture=str(path), file=True)
    out = tmp_path / "out"
    first, second = (put(str(out), found, data) for _ in range(2))
    assert first == str(out / "red.png") and second == str(out / f"red-{found.picture.id}.png")
    with pytest.raises(LoraError) as refused:
        put(str(path), found, data)  # a file where a folder must be
    assert refused.value.code is Code.STORAGE


async def test_networks_that_enlarge_are_told_and_known_from_others_pictures(
    house: House, tmp_path: Path
) -> None:
    from shared.safetensors_file import Tensor, write

    folder = house.workspace.upscalers
    write(folder / "4x-Ultra.safetensors", {"x": Tensor("F32", (2,), bytes(8))}, {})
    (folder / "old.safetensors").write_bytes(b"PK\x03\x04 a pickle")
    found = await house.call(wire.ListUpscalers())
    told = {one.name: one.problem for one in found.upscalers}
    assert told["4x-Ultra"] == "" and "pickle" in told["old"] and found.folder == str(folder)
    passes = ", Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: 4x-ULTRA"
    path = png(tmp_path / "other" / "large.png", TEXT.format("large") + passes)
    await house.call(wire.ImportPictures(paths=[str(path)]))
    (large,) = await listed(house)
    again = await house.call(wire.GetGalleryPicture(picture=large.id))
    assert again.spec.second == SecondPass(strength=0.4, upscaler="4x-Ultra") and not again.left


async def test_embeddings_are_told_by_their_headers(house: House, tmp_path: Path) -> None:
    from shared.safetensors_file import Tensor, write

    folder = house.workspace.embeddings
    write(folder / "bad-hands.safetensors", {"emb_params": Tensor("F32", (2, 8), bytes(64))}, {})
    (folder / "old.pt").write_bytes(b"PK\x03\x04 a pickle")
    found = await house.call(wire.ListEmbeddings())
    told = {one.name: one for one in found.embeddings}
    assert (told["bad-hands"].vectors, told["bad-hands"].widths) == (2, [8])
    assert "pickle" in told["old"].problem and found.folder == str(folder)
    spec = PictureSpec(base="base", prompt="x", negative="Bad-Hands, y")
    made = await house.domain._painting.resolved(spec)
    assert made.embeddings == [("bad-hands", str(folder / "bad-hands.safetensors"))]
    with pytest.raises(LoraError, match="pickle"):
        await house.domain._painting.resolved(PictureSpec(base="base", prompt="an old house"))
