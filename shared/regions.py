"""Where in a picture a LoRA acts: a half, a rectangle or a mask picture, with a soft edge."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import quote, unquote

import msgspec
from msgspec import Meta

from shared.errors import Code, LoraError

Share = Annotated[float, Meta(ge=0, le=1)]
FEATHER = 0.1  # of a rectangle whose feather nobody says
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_HALVES = {
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0),
}


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a picture, in shares of its width and height from the upper left corner.

    ``picture``: a mask instead, stretched to the picture; white acts, black does not. ``feather``:
    how wide the soft edge is, as a share of the side that it crosses (of a mask, of its longer
    side). It lies half inside, half outside; the border of the picture has none, so two halves add
    up to one everywhere.
    """

    left: Share = 0.0
    top: Share = 0.0
    right: Share = 1.0
    bottom: Share = 1.0
    feather: Share = FEATHER
    picture: Annotated[str, Meta(max_length=4096)] = ""  # a path on the daemon's machine


def read(text: str) -> Region:
    """``left``, ``right``, ``top``, ``bottom``, ``0.1,0.2,0.6,0.9`` (left, top, right, bottom) or
    ``mask.png``, each with ``~0.2`` behind it for the feather. Raises LoraError(BAD_REQUEST)."""
    where, mark, soft = text.strip().rpartition("~")
    if not mark:
        where = soft
    if is_picture(where):
        return _checked(text, feather=soft if mark else 0.0, picture=unquote(where))
    if where in _HALVES:
        edges: list[str | float] = [*_HALVES[where]]
    elif re.fullmatch(r"[\d.]+(,[\d.]+){3}", where):
        edges = [*where.split(",")]
    else:
        raise _wrong(text)
    names = ("left", "top", "right", "bottom")
    return _checked(text, feather=soft if mark else FEATHER, **dict(zip(names, edges, strict=True)))


def is_picture(text: str) -> bool:
    """Whether what stands there is a mask's path."""
    return text.lower().endswith(SUFFIXES)


def said(region: Region) -> str:
    """The region as ``read`` takes it, safe inside a WebUI tag."""
    if region.picture:
        where, usual = quote(region.picture, safe="/ "), 0.0
    else:
        edges = (region.left, region.top, region.right, region.bottom)
        names = {edges: name for name, edges in _HALVES.items()}
        where, usual = names.get(edges) or ",".join(f"{edge:g}" for edge in edges), FEATHER
    return where if region.feather == usual else f"{where}~{region.feather:g}"


def _checked(text: str, **values: object) -> Region:
    try:
        numbers = {
            name: value if name == "picture" else float(value)  # type: ignore[arg-type]
            for name, value in values.items()
        }
        region = msgspec.convert(numbers, Region)
    except (ValueError, msgspec.ValidationError):
        raise _wrong(text) from None
    if not (region.left < region.right and region.top < region.bottom):
        raise _wrong(text)
    return region


def _wrong(text: str) -> LoraError:
    return LoraError(
        Code.BAD_REQUEST,
        f"{text} is no region: write left, right, top or bottom, a rectangle as shares of the "
        "picture such as 0.1,0.2,0.6,0.9 (left, top, right, bottom), or the path of a mask picture;"
        " ~0.2 behind it says how soft its edge is.",
    )
