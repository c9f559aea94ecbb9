"""Pictures as text: half-blocks in many colours, dithered half-blocks in 16, braille in none.

The only module here that needs Pillow; it is imported in a thread when the first picture comes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from rich.color import Color, ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from shared.errors import Code, LoraError

if TYPE_CHECKING:
    from PIL import Image

Depth = Literal["full", "256", "16", "none", "off"]
Picture = list[list[Segment]]  # a row of cells each

_Colour = tuple[int, ...]  # of 256 or 16: its place among them; else red, green, blue
_Run = tuple[int, _Colour, _Colour]  # cells, the colour above, the colour below

_MAX_PIXELS = 64_000_000
_RUN_BYTES = 43  # of a stretch of one pair of colours: both colours, a cell, back to none
THRIFT = 26.0  # bytes a cell: a picture of 40 × 20 cells stays below 21 kB
FRUGAL = 11.0  # for a slow link
_NEAR = (0, 4, 8, 12, 16, 24, 32, 48, 64, 96)  # how unlike colours are that may become one

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


def fitted(
    width: int, height: int, columns: int, rows: int, aspect: float = 2.0
) -> tuple[int, int]:
    """Cells (columns, rows) that a picture of width × height pixels fills of the given ones, a
    cell being ``aspect`` times as high as wide."""
    if width <= 0 or height <= 0 or columns <= 0 or rows <= 0:
        return 0, 0
    scale = min(columns / width, rows * aspect / height)
    return max(round(width * scale), 1), max(round(height * scale / aspect), 1)


def wanted_side(columns: int, rows: int) -> int:
    """Pixels to ask the daemon for: few sizes, so that its cache and ours hit."""
    return side_for(max(columns, rows * 2))


def side_for(need: int) -> int:
    """The size of those few that has so many pixels."""
    return next((side for side in (64, 128, 256, 512, 1024) if side >= need), 2048)


def opened(blob: bytes) -> Image.Image:
    """A PNG or JPEG as RGB. Raises LoraError(INVALID_FILE)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(blob)) as found:
            if found.width * found.height > _MAX_PIXELS:
                raise LoraError(Code.INVALID_FILE, "The picture is too large to show.")
            return found.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise LoraError(Code.INVALID_FILE, f"The picture could not be read: {error}.") from None


def few_colours(image: Image.Image, colours: int) -> Image.Image:
    """The picture in as many colours, dithered. They are those of a small version: finding them in
    the picture itself would take a hundred times as long."""
    from PIL import Image

    small = image.resize((min(image.width, 96), min(image.height, 96)), Image.Resampling.BOX)
    return image.quantize(palette=small.quantize(colours), dither=Image.Dither.FLOYDSTEINBERG)


def render(
    blob: bytes,
    columns: int,
    rows: int,
    depth: Depth,
    aspect: float = 2.0,
    thrift: float = THRIFT,
) -> Picture:
    """A PNG or JPEG as at most ``columns`` × ``rows`` cells, which cost at most ``thrift`` bytes
    each on the way to the terminal: neighbours of nearly one colour are given one where it takes
    that. For a thread: takes milliseconds.

    Raises LoraError(INVALID_FILE).
    """
    from PIL import Image

    image = opened(blob)
    across, down = fitted(image.width, image.height, columns, rows, aspect)
    if depth == "none":
        return _braille(image, across, down)
    small = image.resize((across, down * 2), Image.Resampling.LANCZOS)
    if depth == "16":
        palette = Image.new("P", (1, 1))
        palette.putpalette([part for colour in _ANSI for part in colour])
        small = small.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        lines = _runs(list(zip(small.tobytes())), across, down)
        return _segments(lines, _ansi, ColorSystem.STANDARD)
    data = small.tobytes()
    triplets: list[_Colour] = list(zip(data[0::3], data[1::3], data[2::3], strict=True))
    if depth == "256":
        lines = _runs([(_of_256(*rgb),) for rgb in triplets], across, down)
        return _segments(lines, _ansi, ColorSystem.EIGHT_BIT)
    # Six bits a colour: no eye sees it in cells this large, and neighbours merge on the wire.
    triplets = [(r & 0xFC | 2, g & 0xFC | 2, b & 0xFC | 2) for r, g, b in triplets]
    low, high = 0, len(_NEAR) - 1
    while low < high:  # the least that is thrifty enough
        middle = (low + high) // 2
        cost = sum(map(len, _runs(triplets, across, down, _NEAR[middle]))) * _RUN_BYTES
        low, high = (low, middle) if cost <= across * down * thrift else (middle + 1, high)
    lines = _runs(triplets, across, down, _NEAR[low])
    return _segments(lines, lambda colour: Color.from_rgb(*colour), ColorSystem.TRUECOLOR)


def _of_256(red: int, green: int, blue: int) -> int:
    if max(red, green, blue) - min(red, green, blue) < 8:
        return 232 + min((red + green + blue) // 3 * 24 // 256, 23)
    steps = [0 if c < 48 else 1 if c < 115 else (c - 35) // 40 for c in (red, green, blue)]
    return 16 + 36 * steps[0] + 6 * steps[1] + steps[2]


def _ansi(colour: _Colour) -> Color:
    return Color.from_ansi(colour[0])


def _runs(colours: list[_Colour], across: int, down: int, near: int = 0) -> list[list[_Run]]:
    """Of each row of cells, stretches of one pair of colours, above and below; what is within
    ``near`` of a stretch's first cell belongs to it."""
    lines = []
    for row in range(down):
        above = colours[2 * row * across : (2 * row + 1) * across]
        below = colours[(2 * row + 1) * across : (2 * row + 2) * across]
        line: list[_Run] = []
        first, number = (above[0], below[0]), 0
        for pair in zip(above, below, strict=True):
            if pair != first and not (near and _close(*pair, *first, near)):
                line.append((number, *first))
                first, number = pair, 0
            number += 1
        line.append((number, *first))
        lines.append(line)
    return lines


def _close(above: _Colour, below: _Colour, top: _Colour, bottom: _Colour, near: int) -> bool:
    """Whether two cells differ by ``near`` at most in each of their colours. It is asked thousands
    of times a picture, so nothing is built for the answer."""
    return (
        -near <= above[0] - top[0] <= near
        and -near <= below[0] - bottom[0] <= near
        and -near <= above[1] - top[1] <= near
        and -near <= below[1] - bottom[1] <= near
        and -near <= above[2] - top[2] <= near
        and -near <= below[2] - bottom[2] <= near
    )


def _segments(
    lines: list[list[_Run]], colour: Callable[[_Colour], Color], system: ColorSystem
) -> Picture:
    made: dict[_Colour, Color] = {}

    def of(one: _Colour) -> Color:
        if one not in made:
            made[one] = colour(one)
        return made[one]

    def style(above: _Colour, below: _Colour) -> Style:
        one = Style.from_color(None if above == below else of(above), of(below))
        Strip.render_ansi(one, system)  # which a style keeps: painting has less to do
        return one

    return [
        [
            Segment((" " if above == below else "▀") * number, style(above, below))
            for number, above, below in line
        ]
        for line in lines
    ]


def _braille(image: Image.Image, across: int, down: int) -> Picture:
    from PIL import Image, ImageOps

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
