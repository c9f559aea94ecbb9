"""Many JPEGs, each another, with detail at every scale and at least 30 kB: 100 000 in a minute.

    python -m bench.pictures FOLDER [--pictures 100000] [--captions tags|sentences|none]

Some pictures of noise are encoded, with a restart marker after each line of blocks, so that a line
can be put into any other picture as it is. Each file is made of bands of several of them: nothing
is encoded twice, every file decodes wholly, and no two look alike to a perceptual hash.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import time
from pathlib import Path

import numpy as np
from PIL import Image

DRAWN = 64  # pictures that are encoded; the others are made of them
BANDS = 8  # of each picture, one of each of eight of those
SIDE = 512


def jpeg(number: int, side: int = SIDE, **options: int) -> bytes:
    """A picture with detail at every scale, as photographs have it."""
    chance = np.random.default_rng(number)
    picture = np.zeros((side, side, 3))
    for size in (4, 16, 64, 256):
        noise = chance.integers(0, 256, (size, size, 3), np.uint8)
        picture += np.asarray(Image.fromarray(noise).resize((side, side)), np.float64) / 4
    out = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(out, "JPEG", quality=45, **options)
    return out.getvalue()


class Maker:
    """Makes pictures by their number."""

    def __init__(self) -> None:
        drawn = [jpeg(number, restart_marker_rows=1) for number in range(DRAWN)]
        scan = re.search(rb"\xff\xda..", drawn[0], re.DOTALL)
        assert scan is not None
        self._head = drawn[0][: scan.start() + 2 + int.from_bytes(scan.group()[2:])]
        lines = [re.split(rb"\xff[\xd0-\xd7]", one[len(self._head) : -2]) for one in drawn]
        self._high = len(lines[0]) // BANDS
        self._lines = lines

    def __call__(self, number: int) -> bytes:
        chance = random.Random(number)
        lines = list[bytes]()
        for band in range(BANDS):
            first = band * self._high
            lines += chance.choice(self._lines)[first : first + self._high]
        marked = [line + bytes([0xFF, 0xD0 + place % 8]) for place, line in enumerate(lines[:-1])]
        return b"".join([self._head, *marked, lines[-1], b"\xff\xd9"])


def write(folder: Path, pictures: int, captions: str = "tags") -> int:
    """Fill ``folder`` (a hundred folders in it); the bytes of the smallest picture."""
    make, chance, smallest = Maker(), random.Random(1), 1 << 30
    for number in range(pictures):
        home = folder / f"{number % 100:02}"
        if number < 100:
            home.mkdir(parents=True, exist_ok=True)
        data = make(number)
        smallest = min(smallest, len(data))
        (home / f"{number:06}.jpg").write_bytes(data)
        if captions != "none":
            (home / f"{number:06}.txt").write_text(caption(chance, captions))
    return smallest


def caption(chance: random.Random, kind: str) -> str:
    if kind == "sentences":
        ground = chance.choice(COLOURS)
        return f"a {chance.choice(COLOURS)} {chance.choice(THINGS)} on a {ground} ground"
    return ", ".join(["solo", *(f"word{chance.randrange(2000)}" for _ in range(9))])


COLOURS = ("red", "green", "blue", "white", "golden")
THINGS = ("dragon", "castle", "boat", "tree", "cat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--captions", choices=("tags", "sentences", "none"), default="tags")
    options = parser.parse_args()
    began = time.perf_counter()
    smallest = write(options.folder, options.pictures, options.captions)
    row = {
        "pictures": options.pictures,
        "smallest_kB": round(smallest / 1000, 1),
        "s": round(time.perf_counter() - began, 1),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
