"""Pictures kept back from training: which, and never one that has a twin on the other side."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from lora_daemon.held_out import split
from lora_daemon.pipe import FrozenPicture


def frozen(path: Path) -> FrozenPicture:
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return FrozenPicture(item=path.stem, path=str(path), content=content, caption="")


def drawn(folder: Path, number: int) -> list[FrozenPicture]:
    folder.mkdir()
    found = []
    for n in range(number):
        rng = random.Random(n)
        picture = Image.new("L", (96, 96), 40)
        pen = ImageDraw.Draw(picture)
        for _ in range(9):
            x, y = rng.randrange(80), rng.randrange(80)
            pen.ellipse((x, y, x + 30, y + 30), fill=rng.randrange(256))
        picture.save(folder / f"{n:03}.png")
        found.append(frozen(folder / f"{n:03}.png"))
    return found


def names(pictures: list[FrozenPicture]) -> set[str]:
    return {picture.item for picture in pictures}


def test_the_same_ones_are_kept_back_whatever_their_order(tmp_path: Path) -> None:
    pictures = drawn(tmp_path / "set", 20)
    train, kept = split(pictures, 4)
    assert len(kept) == 4 and len(train) == 16
    assert not names(train) & names(kept)
    assert [p.item for p in train] == sorted(names(train))
    assert names(split(pictures[::-1], 4)[1]) == names(kept)
    without_one = [p for p in pictures if p.item != train[0].item]
    assert names(split(without_one, 4)[1]) == names(kept)
    assert split(pictures, 0) == (pictures, [])


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    pictures = drawn(tmp_path / "set", 12)
    twins = {}
    for picture in pictures:
        with Image.open(picture.path) as opened:
            changed = ImageOps.mirror(opened) if picture.item < "006" else opened.point(
                lambda value: min(255, value + 6)
            ).resize((64, 64))  # fmt: skip
            path = tmp_path / "set" / f"{picture.item}-twin.jpg"
            changed.save(path, quality=80)
        twins[picture.item] = frozen(path)
    _, kept = split([*pictures, *twins.values()], 8)
    assert len(kept) == 8
    for one, twin in twins.items():
        assert (one in names(kept)) == (twin.item in names(kept))


def test_equal_files_and_unreadable_ones_are_no_trouble(tmp_path: Path) -> None:
    pictures = drawn(tmp_path / "set", 8)
    torn = tmp_path / "set" / "torn.png"
    torn.write_bytes(b"no picture")
    again = [FrozenPicture(item=f"{p.item}+", path=p.path, content=p.content, caption="")
             for p in pictures]  # fmt: skip
    train, kept = split([*pictures, *again, frozen(torn)], 4)
    assert len(kept) in (3, 4)
    assert {name.rstrip("+") for name in names(kept)}.isdisjoint(
        name.rstrip("+") for name in names(train)
    )
