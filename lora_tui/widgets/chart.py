"""A chart of braille dots that sends only what changed to the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from lora_tui.core import words
from lora_tui.core.cells import fit
from lora_tui.core.series import Frame, Line, braille, rounded, spread
from lora_tui.widgets.tones import tone_style

_LABEL = 7  # cells left of the plot, for the scale

Row = list[tuple[str, str]]


class Chart(Widget):
    """Lines over a common x. The scale stands at the left, the first and last x below."""

    DEFAULT_CSS = "Chart { height: 1fr; min-height: 2; background: $background; }"

    def __init__(
        self,
        *,
        floor: float | None = None,
        clip: float = 0.01,
        say_x: Callable[[float], str] | None = None,
        say_y: Callable[[float], str] = words.number,
        waiting: str = "",
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._floor = floor
        self._frame: Frame | None = None
        self._right: float | None = None
        self._clip = clip
        self._say_x = say_x
        self._say_y = say_y
        self._waiting = waiting
        self._lines: Sequence[Line] = ()
        self._rows: list[Row] = []

    def show(
        self, lines: Sequence[Line], *, frame: Frame | None = None, right: float | None = None
    ) -> None:
        """Draw these lines; later ones lie on top. ``frame``: the part of the plane to show, else
        all there is, up to ``right``."""
        self._lines, self._frame, self._right = lines, frame, right
        self._redraw()

    def on_resize(self) -> None:
        self._rows = []
        self._redraw()

    def _redraw(self) -> None:
        rows = self._draw(self.size.width, self.size.height)
        old, self._rows = self._rows, rows
        if len(old) != len(rows):
            self.refresh()
            return
        for y, (was, row) in enumerate(zip(old, rows, strict=True)):
            if was == row:
                continue
            if len(was) != len(row):
                self.refresh(Region(0, y, self.size.width, 1))
                continue
            for first, last in _differences(was, row):
                self.refresh(Region(first, y, last - first + 1, 1))

    def _draw(self, width: int, height: int) -> list[Row]:
        if width <= _LABEL + 2 or height < 1:
            return []
        axis = 1 if self._say_x is not None and height >= 4 else 0
        lines = [line for line in self._lines if len(line.xs)]
        if not lines:
            text = fit(f"{' ' * _LABEL} {self._waiting}", width)
            blank: Row = [(" ", "")] * width
            waiting: Row = [(char, "faint") for char in text]
            return [waiting if y == height // 2 else blank for y in range(height)]
        frame = self._frame or rounded(spread(lines, self._clip, self._floor), self._right)
        plot = braille(lines, frame, width - _LABEL - 1, height - axis)
        rows: list[Row] = []
        for y, cells in enumerate(plot):
            label = ""
            if y == 0:
                label = self._say_y(frame.top)
            elif y == len(plot) - 1:
                label = self._say_y(frame.bottom)
            rows.append(
                [*((c, "muted") for c in fit(label, _LABEL, "right")), ("▏", "line"), *cells]
            )
        if axis and self._say_x is not None:
            left, right = self._say_x(frame.left), self._say_x(frame.right)
            room = width - _LABEL - 1
            text = " " * (_LABEL + 1) + left + right.rjust(max(room - len(left), 0))
            rows.append([(char, "muted") for char in fit(text, width)])
        return rows

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        if y >= len(self._rows):
            return Strip.blank(self.size.width, base)
        segments: list[Segment] = []
        run, tone = "", ""
        for char, cell_tone in self._rows[y]:
            if char != " " and cell_tone != tone:
                if run:
                    segments.append(Segment(run, base + tone_style(self, tone)))
                run, tone = "", cell_tone
            run += char
        segments.append(Segment(run, base + tone_style(self, tone)))
        return Strip(segments).adjust_cell_length(self.size.width, base)


def _differences(was: Row, row: Row) -> list[tuple[int, int]]:
    """Stretches of cells that differ, joined where less than eight cells lie between them (moving
    the cursor costs about as much)."""
    stretches: list[tuple[int, int]] = []
    for x, (old, new) in enumerate(zip(was, row, strict=True)):
        if old == new or (old[0] == new[0] == " "):
            continue
        if stretches and x - stretches[-1][1] < 8:
            stretches[-1] = (stretches[-1][0], x)
        else:
            stretches.append((x, x))
    return stretches
