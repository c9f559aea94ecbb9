"""A picture of the gallery written to this machine."""

from __future__ import annotations

from pathlib import Path

from shared import wire
from shared.errors import LoraError
from shared.files import publish


def put(folder: str, found: wire.GalleryFound, content: bytes) -> str:
    """Write a picture into a folder by its own name, and its id where that is taken; where it is.
    Raises LoraError(STORAGE)."""
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraError.storage("make", place, error) from None
    stem = Path(found.picture.path).stem
    path = place / f"{stem}{found.suffix}"
    if path.exists():
        path = place / f"{stem}-{found.picture.id}{found.suffix}"
    publish(path, content, mode=0o644)
    return str(path)
