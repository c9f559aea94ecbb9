"""Text cut and padded to columns of a terminal, wide characters counted as two."""

from __future__ import annotations

import unicodedata
from typing import Literal

from rich.cells import cell_len, set_cell_size

Align = Literal["left", "right"]


def clean(text: str) -> str:
    """One line that cannot move the cursor: line breaks become ⏎, control and direction
    characters are shown as ·."""
    if text.isascii() and text.isprintable():
        return text
    shown = []
    for char in text:
        if char in "\r\n":
            shown.append("⏎" if char == "\n" else "")
        elif char == "\t":
            shown.append(" ")
        elif unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co") and char != "\u200d":
            shown.append("·")
        else:
            shown.append(char)
    return "".join(shown)


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
