"""A contact sheet in the terminal: rows of pictures as blocks of colour, words under each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.segment import Segment, Segments

from lora_tui import pixels
from lora_tui.core.cells import fit
from shared.errors import LoraError

WIDEST = 24  # cells of a picture


def show(pictures: Sequence[tuple[str, str]], across: int) -> None:
    """Print pictures, given as (path, label of one or more lines), ``across`` in a row. Nothing
    where stdout is not a terminal, or one too narrow to make anything out."""
    console = Console(file=sys.stdout, highlight=False)
    cells = min((console.width + 1) // across - 1, WIDEST)
    if not console.is_terminal or cells < 10:
        return
    for start in range(0, len(pictures), across):
        row = pictures[start : start + across]
        blocks = [_block(Path(path), label, cells, console) for path, label in row]
        for parts in zip_longest(*blocks, fillvalue=[]):
            wide = [Segment.adjust_line_length(part, cells + 1) for part in parts]
            console.print(Segments(segment for part in wide for segment in part))


def _block(path: Path, label: str, cells: int, console: Console) -> pixels.Picture:
    """The picture in lines of at most ``cells`` cells, then its words and an empty line."""
    words = [[Segment(fit(line, cells))] for line in label.splitlines()]
    try:
        depth = pixels.depth_of(console.color_system)
        picture = pixels.render(path.read_bytes(), cells, cells, depth)
    except (OSError, LoraError):  # deleted since: its words say what was there
        picture = []
    return [*picture, *words, []]
