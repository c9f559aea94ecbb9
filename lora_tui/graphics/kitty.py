"""The kitty graphics protocol with Unicode placeholders: the picture is sent once under a number,
and cells that name the number, their row and their column show it.

https://sw.kovidgoyal.net/kitty/graphics-protocol/#unicode-placeholders
"""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import Iterator

from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style

from lora_tui.graphics.tmux import passed_through
from lora_tui.pixels import Picture, few_colours, opened

_CHUNK = 4096  # characters of base64 in one command, at most
_PLACEHOLDER = "\U0010eeee"
# Combining characters that stand for the numbers 0, 1, 2 …, as first-last ranges in order.
_NUMBERS = """
305 30d-30e 310 312 33d-33f 346 34a-34c 350-352 357 35b 363-36f 483-487 592-595 597-599 59c-5a1
5a8-5a9 5ab-5ac 5af 5c4 610-617 657-65b 65d-65e 6d6-6dc 6df-6e2 6e4 6e7-6e8 6eb-6ec 730 732-733
735-736 73a 73d 73f-741 743 745 747 749-74a 7eb-7f1 7f3 816-819 81b-823 825-827 829-82d 951 953-954
f82-f83 f86-f87 135d-135f 17dd 193a 1a17 1a75-1a7c 1b6b 1b6d-1b73 1cd0-1cd2 1cda-1cdb 1ce0
1dc0-1dc1 1dc3-1dc9 1dcb-1dcc 1dd1-1de6 1dfe 20d0-20d1 20d4-20d7 20db-20dc 20e1 20e7 20e9 20f0
2cef-2cf1 2de0-2dff a66f a67c-a67d a6f0-a6f1 a8e0-a8f1 aab0 aab2-aab3 aab7-aab8 aabe-aabf aac1
fe20-fe26 10a0f 10a38 1d185-1d189 1d1aa-1d1ad 1d242-1d244
"""


def _characters() -> Iterator[str]:
    for span in _NUMBERS.split():
        first, _, last = span.partition("-")
        yield from map(chr, range(int(first, 16), int(last or first, 16) + 1))


NUMBERS = "".join(_characters())
MOST = len(NUMBERS)  # rows, and columns


def encode(blob: bytes, width: int, height: int) -> bytes:
    """A picture as a PNG of width × height pixels and at most 256 colours, which halves it.

    Raises LoraError(INVALID_FILE).
    """
    from PIL import Image

    image = opened(blob).resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    few_colours(image, 256).save(out, "PNG")
    return out.getvalue()


def sent(png: bytes, number: int, across: int, down: int, *, tmux: bool) -> str:
    """The commands that hand a PNG to the terminal as picture ``number`` of across × down cells."""
    data = base64.b64encode(png).decode("ascii")
    commands = []
    for start in range(0, len(data), _CHUNK):
        more = int(start + _CHUNK < len(data))
        what = f"a=T,U=1,f=100,i={number},c={across},r={down}," if not start else ""
        commands.append(f"\x1b_G{what}q=2,m={more};{data[start : start + _CHUNK]}\x1b\\")
    return "".join(passed_through(one) if tmux else one for one in commands)


def forgotten(number: int, *, tmux: bool) -> str:
    """The command that frees a picture."""
    command = f"\x1b_Ga=d,d=I,i={number},q=2\x1b\\"
    return passed_through(command) if tmux else command


def cells(colour: Color, across: int, down: int) -> Picture:
    """The cells that show a picture. Each says its own row and column, so that any part of them can
    be painted alone."""
    style = Style(color=colour)
    return [
        [Segment("".join(f"{_PLACEHOLDER}{NUMBERS[y]}{NUMBERS[x]}" for x in range(across)), style)]
        for y in range(down)
    ]


class Numbers:
    """Numbers of pictures and the colours that say them in cells: the colour is the number.

    ``narrow``: something between us and the terminal knows 256 colours only, and the number is the
    colour's place among those. The colours are such that they survive that. Both begin at random,
    as another program's pictures may be in the same terminal.
    """

    def __init__(self, *, narrow: bool) -> None:
        self._narrow = narrow
        self._next = secrets.randbelow(1 << 16)

    def take(self) -> tuple[int, Color]:
        """The next number and its colour."""
        self._next += 1
        if not self._narrow:
            number = 0x010000 + self._next * 257 % 0xFE0000
            return number, Color.from_triplet(ColorTriplet(*number.to_bytes(3)))
        number = _CUBE[self._next % len(_CUBE)]
        steps = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
        return number, Color.from_triplet(
            ColorTriplet(*(step and 55 + 40 * step for step in steps))
        )


# The 6 × 6 × 6 colours that are no grey, as greys are also elsewhere in the palette.
_CUBE = [
    number
    for number in range(16, 232)
    if len({(number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6}) > 1
]
