"""What of a painted screen is news to the terminal. Textual sends a widget whole with all that lies
in it, whatever has changed: a panel's title would send its picture again."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console
from rich.control import Control
from rich.segment import Segment
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.geometry import Region
from textual.strip import Strip

_Piece = tuple[int, int, Strip]  # column, row, what stands from there on


class Pieces(CompositorUpdate):
    """Parts of lines to paint."""

    def __init__(self, pieces: list[_Piece]) -> None:
        self.pieces = pieces

    def render_segments(self, console: Console) -> str:
        return "".join(
            f"{Control.move_to(x, y).segment.text}{strip.render(console)}"
            for x, y, strip in self.pieces
        )


class Changes:
    """Knows what the terminal shows."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[int, Strip]] = {}  # by row and first column
        self.over: dict[object, tuple[str, Region]] = {}  # pictures that lie over cells, by owner

    def forget(self) -> None:
        """Nobody knows what the terminal shows: all of it is to be sent."""
        self._lines.clear()
        self.over.clear()

    def lift(self, owner: object) -> None:
        """The cells under a picture are to be sent, also those that are as they were."""
        _, region = self.over.pop(owner, ("", Region()))
        for y in range(region.y, region.bottom):
            self._clear(y, region.x, region.right)

    def of(self, update: ChopsUpdate | LayoutUpdate) -> Pieces:
        """The part of an update that the terminal does not show yet; from now on it does."""
        pieces = _of_chops(update) if isinstance(update, ChopsUpdate) else _of_layout(update)
        news = []
        for x, y, strip in pieces:
            old = self._lines.get(y, {}).get(x)
            if old is not None and old.cell_length == strip.cell_length:
                part = _different(x, y, old, strip)
                if part is None:
                    continue
                news.append(part)
            else:
                self._clear(y, x, x + strip.cell_length)
                news.append((x, y, strip))
            self._lines.setdefault(y, {})[x] = strip
        for x, y, strip in news if self.over else ():  # which takes away what lay there
            here = Region(x, y, strip.cell_length, 1)
            self.over = {who: it for who, it in self.over.items() if not it[1].overlaps(here)}
        return Pieces(news)

    def _clear(self, y: int, first: int, end: int) -> None:
        line = self._lines.get(y, {})
        for x, strip in list(line.items()):
            if x < end and first < x + strip.cell_length:
                del line[x]


def _of_layout(update: LayoutUpdate) -> Iterator[_Piece]:
    for y, line in enumerate(update.strips, update.region.y):
        x = update.region.x
        for strip in line:
            yield x, y, strip
            x += strip.cell_length


def _of_chops(update: ChopsUpdate) -> Iterator[_Piece]:
    for y, first, last in update.spans:
        for end, (x, strip) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if strip is None or x > last or end <= first:
                continue
            whole = last > x >= first and end <= last
            yield x, y, strip if whole else strip.crop(0, min(end, last) - x)


# Half-blocks, lines and marks: one cell each. Most of what is painted, and soon looked at.
_NARROW = dict.fromkeys(map(ord, "▀▌─│╭╮╰╯·…━●"))


def _different(x: int, y: int, old: Strip, new: Strip) -> _Piece | None:
    """The stretch of ``new`` that is not as in ``old``, which is as long."""
    before, after = list(old), list(new)
    if before == after:
        return None
    rare = not (old.text + new.text).translate(_NARROW).isascii()
    if rare and any(cell_len(one.text) != len(one.text) for one in (*before, *after)):
        return x, y, new  # terminals differ on how wide some characters are
    while before and after and before[-1] == after[-1]:
        before.pop()
        after.pop()
    skip = 0
    while skip < len(before) and skip < len(after) and before[skip] == after[skip]:
        skip += 1
    left = sum(len(segment.text) for segment in after[:skip])
    return x + left, y, _strip(after[skip:])


def _strip(segments: list[Segment]) -> Strip:
    return Strip(segments, sum(len(segment.text) for segment in segments))
