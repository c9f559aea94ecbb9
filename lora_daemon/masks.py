"""Mask files found beside a dataset when a run is queued, and checked against their pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lora_daemon import pictures as files
from lora_daemon.pipe import FrozenPicture
from shared.errors import Code, LoraError
from shared.filenames import from_text, to_text

_ENDINGS = (".png", ".webp", ".jpg", ".jpeg", ".bmp")
_NAMED = 3  # files in an error


def inside(root: str, folder: str) -> str:
    """What the names of a dataset's pictures begin with that are its masks; empty: none are.

    ``root``: the dataset's folder; ``folder``: that of the masks, as the recipe has it.
    """
    home = Path(from_text(root))
    masks = home / Path(folder).expanduser()
    within = bool(folder) and masks != home and masks.is_relative_to(home)
    return f"{to_text(masks.relative_to(home))}/" if within else ""


def with_masks(
    pictures: Sequence[FrozenPicture], root: str, folder: str
) -> tuple[list[FrozenPicture], int]:
    """Each picture with the mask of its name, and how many have none.

    ``root``: the dataset's folder; ``folder``: that of the masks, there or anywhere. Raises
    LoraError: NOT_FOUND (no folder), INVALID_FILE (masks of another size than their pictures, or
    that cannot be read, by name).
    """
    home = Path(from_text(root))
    masks = home / Path(folder).expanduser()
    if not masks.is_dir():
        raise LoraError(
            Code.NOT_FOUND, f"There is no folder {masks}, which dataset.mask_folder names."
        )
    found, bad = [], []
    missing = 0
    for picture in pictures:
        path = Path(from_text(picture.path))
        stem = masks / path.relative_to(home).with_suffix("")
        places = (stem.with_name(stem.name + ending) for ending in _ENDINGS)
        mask = next((place for place in places if place.is_file()), None)
        if mask is None:
            missing += 1
            found.append(picture)
            continue
        try:
            sizes = [_size(mask), _size(path)]
            content = hashlib.sha256(mask.read_bytes()).hexdigest()
        except (OSError, ValueError, SyntaxError, files.Unusable) as error:
            bad.append(f"{to_text(mask)} cannot be read ({error})")
            continue
        if sizes[0] != sizes[1]:
            own, wanted = (f"{wide} × {high}" for wide, high in sizes)
            bad.append(f"{to_text(mask)} is {own} and its picture {wanted}")
        found.append(msgspec.structs.replace(picture, mask=to_text(mask), mask_content=content))
    if bad:
        more = f", and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise LoraError(
            Code.INVALID_FILE,
            f"Masks must have the size of their pictures: {'; '.join(bad[:_NAMED])}{more}. Make "
            "them anew, or take them away: a picture without one counts whole.",
        )
    return found, missing


def _size(path: Path) -> tuple[int, int]:
    """Width and height as a picture is shown."""
    with path.open("rb") as file, files.opened(file) as opened:
        return files.upright_size(opened)
