"""Text cut and padded to columns of a terminal, wide characters counted as two."""

from __future__ import annotations

import functools
import unicodedata
from typing import Literal

from rich.cells import cell_len, set_cell_size, split_graphemes

Align = Literal["left", "right"]
JOINER = "\u200d"  # of zero width


def clean(text: str) -> str:
    """One line that cannot move the cursor: line breaks become ⏎, control and direction
    characters are shown as ·."""
    if text.isascii() and text.isprintable():
        return text
    shown = []
    for place, char in enumerate(text):
        if char in "\r\n":
            shown.append("⏎" if char == "\n" else "")
        elif char == "\t":
            shown.append(" ")
        else:
            shown.append(char if _harmless(text, place) else "·")
    return "".join(shown)


@functools.lru_cache(maxsize=64)
def dotted(line: str) -> str:
    """A line as it can be painted, one character for one, tabs left as they are."""
    if line.isascii() and line.isprintable():
        return line
    return "".join(
        char if char == "\t" or _harmless(line, place) else "·" for place, char in enumerate(line)
    )


def _harmless(text: str, place: int) -> bool:
    """Whether a character takes the cells it is counted for and does nothing else."""
    char = text[place]
    if char == JOINER:  # of letters, terminals and we do not count alike
        before, after = text[max(place - 1, 0) : place], text[place + 1 : place + 2]
        return bool(before and after) and _pictorial(before) and _pictorial(after)
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co")


def _pictorial(char: str) -> bool:
    """An emoji, or what follows one and belongs to it: a colour of skin, a variation selector."""
    return unicodedata.category(char) == "So" or char == "\ufe0f" or "🏻" <= char <= "🏿"


@functools.lru_cache(maxsize=64)
def boundaries(text: str) -> tuple[int, ...]:
    """Where a cursor can stand: before, between and behind what is seen as one character, be it an
    accented letter, a flag or a family of emoji."""
    places = [0]
    half = False  # of a flag: two letters of an alphabet of their own
    for start, end, _ in split_graphemes(text)[0]:
        letter = "🇦" <= text[start] <= "🇿"
        if half and letter:
            places[-1] = end
        else:
            places.append(end)
        half = letter and not half
    return tuple(places)


def clean_lines(text: str) -> str:
    """Several lines that cannot move the cursor elsewhere."""
    return "\n".join(clean(line) for line in text.splitlines())


def fit(text: str, width: int, align: Align = "left") -> str:
    """``text`` in exactly ``width`` cells, cut with … where it is longer."""
    if width <= 0:
        return ""
    text = clean(text)
    length = cell_len(text)
    if length > width:
        return set_cell_size(set_cell_size(text, width - 1).rstrip() + "…", width)
    padding = " " * (width - length)
    return padding + text if align == "right" else text + padding


def carets(text: str, start: int, end: int) -> str:
    """A line of ^ to stand under ``text[start:end]``, where ``text`` is shown by ``clean``."""
    under = cell_len(clean(text[start:end]))
    return " " * cell_len(clean(text[:start])) + "^" * max(under, 1)


def middle(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells, its middle cut out: for paths."""
    text = clean(text)
    if cell_len(text) <= width:
        return text
    head = (width - 1) // 3
    tail = text
    while cell_len(tail) > width - 1 - head:
        tail = tail[1:]
    return set_cell_size(text, head).rstrip() + "…" + tail


def columns(widths: list[int], total: int, gap: int = 2) -> list[int]:
    """Widths of columns in ``total`` cells: the zeros share what the others leave."""
    left = total - sum(widths) - gap * (len(widths) - 1)
    flexible = widths.count(0)
    if not flexible:
        return widths
    share, extra = divmod(max(left, flexible), flexible)
    result = []
    for width in widths:
        if width:
            result.append(width)
        else:
            result.append(share + (1 if extra > 0 else 0))
            extra -= 1
    return result
