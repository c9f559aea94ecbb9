"""The packaged data sets: drawn from the world's held-back contents and styles."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from lora_daemon.starter import world

CREATURES, PENCILS = 120, 60


def write_creatures(folder: Path, number: int = CREATURES, seed: int = 7) -> None:
    """Write PNG pictures of creatures, each with its caption beside it."""
    _empty(folder)
    for index, scene in enumerate(world.scenes(number, seed, content="creature", crowd=0), start=1):
        name = f"creature-{index:03d}"
        picture = world.draw(scene).quantize(96, dither=Image.Dither.NONE)
        picture.save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(world.caption(scene) + "\n", encoding="utf-8")


def write_pencils(folder: Path, number: int = PENCILS, seed: int = 8) -> None:
    """Write PNG pencil sketches of the world's objects, without captions."""
    _empty(folder)
    for index, scene in enumerate(world.scenes(number, seed, crowd=0), start=1):
        sketch = world.draw(scene, "pencil").convert("L")
        sketch.save(folder / f"pencil-{index:03d}.png", optimize=True)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
