"""Which pictures a run keeps back from training, so that its checkpoints can be judged by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from lora_daemon.pipe import FrozenPicture
from shared.filenames import from_text

_SIDE = 8  # of the difference hash: 64 bits
_NEAR = 4  # bits in which near-duplicates differ at most

Print = Callable[[FrozenPicture], tuple[int, int] | None]


def split(
    pictures: Sequence[FrozenPicture], wanted: int, fingerprint: Print | None = None
) -> tuple[list[FrozenPicture], list[FrozenPicture]]:
    """Pictures to train on and to keep back, each in the given order; ``wanted`` at most are kept.

    Who is kept back follows from the files' hashes alone, so that it stays so from run to run.
    Near-duplicates are on one side: a picture that was trained on would judge nothing.
    """
    if not wanted:
        return list(pictures), []
    groups = near_duplicates(pictures, fingerprint or difference_hash)
    kept: set[int] = set()
    for group in sorted(groups, key=lambda group: min(pictures[i].content for i in group)):
        if len(kept) + len(group) <= wanted:
            kept |= set(group)
    train = [picture for i, picture in enumerate(pictures) if i not in kept]
    return train, [pictures[i] for i in sorted(kept)]


def near_duplicates(pictures: Sequence[FrozenPicture], fingerprint: Print) -> list[list[int]]:
    """Places of the pictures, those of one motif in a group; most are alone in theirs.

    Equal files, and pictures whose hashes, or the hash of one mirrored, differ in few bits.
    """
    prints = [fingerprint(picture) for picture in pictures]
    root = list(range(len(pictures)))

    def top(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    # Of two that differ in few bits, at least one of the bands is the same.
    known: dict[tuple[int, int], list[int]] = {}
    same: dict[str, int] = {}
    for i, own in enumerate(prints):
        root[i] = top(same.setdefault(pictures[i].content, i))
        for seen in own or ():
            for band in enumerate(_bands(seen)):
                for j in known.get(band, ()):
                    other = prints[j]
                    if other is not None and (other[0] ^ seen).bit_count() <= _NEAR:
                        root[top(i)] = top(j)
        for band in enumerate(_bands(own[0]) if own else ()):
            known.setdefault(band, []).append(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(pictures)):
        groups.setdefault(top(i), []).append(i)
    return list(groups.values())


def difference_hash(picture: FrozenPicture) -> tuple[int, int] | None:
    """64 bits, whether each of 8 × 8 places is darker than its right neighbour; straight and
    mirrored. None for a picture that cannot be read."""
    try:
        with Image.open(Path(from_text(picture.path))) as opened:
            opened.draft("L", (_SIDE * 8, _SIDE * 8))
            grey = ImageOps.exif_transpose(opened).convert("L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return _bits(grey), _bits(ImageOps.mirror(grey))


def _bands(bits: int) -> list[int]:
    """The hash in one part more than the bits in which near-duplicates may differ."""
    width = -(-_SIDE * _SIDE // (_NEAR + 1))
    return [bits >> width * band & (1 << width) - 1 for band in range(_NEAR + 1)]


def _bits(grey: Image.Image) -> int:
    small = grey.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX).tobytes()
    bits = 0
    for y in range(_SIDE):
        row = small[y * (_SIDE + 1) : (y + 1) * (_SIDE + 1)]
        for x in range(_SIDE):
            bits = bits << 1 | (row[x] < row[x + 1])
    return bits
