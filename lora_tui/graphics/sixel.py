"""Sixel graphics: columns of six pixels a character, one colour at a time, as the VT340 had them.

https://vt100.net/docs/vt3xx-gp/chapter14.html
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lora_tui.pixels import few_colours, opened

COLOURS = 128  # more are hardly seen, and each costs its share of every band
_RUN = re.compile(rb"(.)\1{3,}", re.DOTALL)


def encode(
    blob: bytes, width: int, height: int, stale: Callable[[], bool] = lambda: False
) -> str | None:
    """A picture of width × height pixels; None once nobody wants it any more.

    Raises LoraError(INVALID_FILE).
    """
    from PIL import Image

    image = opened(blob).resize((width, height), Image.Resampling.LANCZOS)
    image = few_colours(image, COLOURS)
    palette = image.getpalette() or []
    pixels = image.tobytes()
    out = [f'\x1bP0;1;0q"1;1;{width};{height}'.encode()]
    for number in sorted(set(pixels)):
        parts = (round(value * 100 / 255) for value in palette[number * 3 : number * 3 + 3])
        out.append(b"#%d;2;%d;%d;%d" % (number, *parts))
    for top in range(0, height, 6):
        if stale():
            return None
        rows = [pixels[y * width : (y + 1) * width] for y in range(top, min(top + 6, height))]
        lines = [
            b"#%d%s" % (colour, _RUN.sub(_repeated, _band(rows, colour, width)))
            for colour in sorted(set().union(*rows))
        ]
        out.append(b"$".join(lines) + b"-")
    return b"".join([*out, b"\x1b\\"]).decode("ascii")


def _band(rows: list[bytes], colour: int, width: int) -> bytes:
    """One colour of six rows: a character a column, its bits from the top down."""
    bits = 0
    for place, row in enumerate(rows):
        here = bytearray(256)
        here[colour] = 1 << place
        bits |= int.from_bytes(row.translate(here))
    return bits.to_bytes(width).translate(_SIXELS).rstrip(b"?")


def _repeated(found: re.Match[bytes]) -> bytes:
    return b"!%d%s" % (len(found[0]), found[1])


_SIXELS = bytes(63 + bits if bits < 64 else 0 for bits in range(256))
