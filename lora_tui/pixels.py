"""Pictures as text: half-blocks in many colours, dithered half-blocks in 16, braille in none.

The only module here that needs Pillow; it is imported in a thread when the first picture comes.
"""

from __future__ import annotations

import io
from typing import Literal

from rich.color import Color
from rich.segment import Segment
from rich.style import Style

from shared.errors import Code, LoraError

Depth = Literal["full", "256", "16", "none", "off"]
Picture = list[list[Segment]]  # a row of cells each

_MAX_PIXELS = 64_000_000

# The 16 colours as terminals usually paint them; what a picture is matched against.
_ANSI = (
    (0, 0, 0), (170, 0, 0), (0, 170, 0), (170, 85, 0), (0, 0, 170), (170, 0, 170), (0, 170, 170),
    (170, 170, 170), (85, 85, 85), (255, 85, 85), (85, 255, 85), (255, 255, 85), (85, 85, 255),
    (255, 85, 255), (85, 255, 255), (255, 255, 255),
)  # fmt: skip


def depth_of(colour_system: str | None) -> Depth:
    """What a terminal can show, by Rich's name for its colours."""
    depths: dict[str | None, Depth] = {"truecolor": "full", "256": "256", "standard": "16"}
    return depths.get(colour_system, "none")


def fitted(width: int, height: int, columns: int, rows: int) -> tuple[int, int]:
    """Cells (columns, rows) that a picture of width × height pixels fills of the given ones, a
    cell being two pixels high."""
    if width <= 0 or height <= 0 or columns <= 0 or rows <= 0:
        return 0, 0
    scale = min(columns / width, rows * 2 / height)
    return max(round(width * scale), 1), max(round(height * scale / 2), 1)


def wanted_side(columns: int, rows: int) -> int:
    """Pixels to ask the daemon for: few sizes, so that its cache and ours hit."""
    need = max(columns, rows * 2)
    return next((side for side in (64, 128, 256) if side >= need), 512)


def render(blob: bytes, columns: int, rows: int, depth: Depth) -> Picture:
    """A PNG or JPEG as at most ``columns`` × ``rows`` cells. For a thread: takes milliseconds.

    Raises LoraError(INVALID_FILE).
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(blob)) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise LoraError(Code.INVALID_FILE, "The picture is too large to show.")
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise LoraError(Code.INVALID_FILE, f"The picture could not be read: {error}.") from None
    across, down = fitted(image.width, image.height, columns, rows)
    if depth == "none":
        return _braille(image, across, down)
    small = image.resize((across, down * 2), Image.Resampling.LANCZOS)
    if depth == "16":
        palette = Image.new("P", (1, 1))
        palette.putpalette([part for colour in _ANSI for part in colour])
        small = small.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        return _half_blocks([Color.from_ansi(value) for value in small.tobytes()], across, down)
    data = small.tobytes()
    colours = [_colour(data[i], data[i + 1], data[i + 2], depth) for i in range(0, len(data), 3)]
    return _half_blocks(colours, across, down)


def _colour(red: int, green: int, blue: int, depth: Depth) -> Color:
    if depth == "256":
        grey = max(red, green, blue) - min(red, green, blue) < 8
        if grey:
            return Color.from_ansi(232 + min((red + green + blue) // 3 * 24 // 256, 23))
        steps = [0 if c < 48 else 1 if c < 115 else (c - 35) // 40 for c in (red, green, blue)]
        return Color.from_ansi(16 + 36 * steps[0] + 6 * steps[1] + steps[2])
    # Six bits a colour: no eye sees it in cells this large, and neighbours merge on the wire.
    return Color.from_rgb(red & 0xFC | 2, green & 0xFC | 2, blue & 0xFC | 2)


def _half_blocks(colours: list[Color], across: int, down: int) -> Picture:
    picture: Picture = []
    for row in range(down):
        above = colours[2 * row * across : (2 * row + 1) * across]
        below = colours[(2 * row + 1) * across : (2 * row + 2) * across]
        line: list[Segment] = []
        run, style_of = "", (above[0], below[0])
        for pair in zip(above, below, strict=True):
            if pair != style_of:
                line.append(_segment(run, style_of))
                run, style_of = "", pair
            run += " " if pair[0] == pair[1] else "▀"
        line.append(_segment(run, style_of))
        picture.append(line)
    return picture


def _segment(run: str, colours: tuple[Color, Color]) -> Segment:
    if run[0] == " ":
        return Segment(run, Style.from_color(bgcolor=colours[1]))
    return Segment(run, Style.from_color(*colours))


def _braille(image: object, across: int, down: int) -> Picture:
    from PIL import Image, ImageOps

    assert isinstance(image, Image.Image)
    grey = ImageOps.autocontrast(image.convert("L"), cutoff=1)
    dots = grey.resize((across * 2, down * 4), Image.Resampling.LANCZOS).convert("1")
    data = dots.convert("L").tobytes()
    width = across * 2
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    picture: Picture = []
    for row in range(down):
        line = ""
        for column in range(across):
            code = 0
            for y in range(4):
                for x in range(2):
                    if data[(row * 4 + y) * width + column * 2 + x]:
                        code |= bits[y][x]
            line += chr(0x2800 + code)
        picture.append([Segment(line, Style.null())])
    return picture
