"""One stacked bar: who holds the memory."""

from __future__ import annotations

from dataclasses import dataclass

from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from lora_tui.core.cells import fit
from lora_tui.core.series import parts
from lora_tui.widgets.tones import tone_style


@dataclass(frozen=True)
class Part:
    """A part of the whole: its name in the legend, its character and tone in the bar."""

    name: str
    amount: float
    fill: str
    tone: str


class Bar(Widget):
    """A bar and, below it, its legend. The fills differ, so it reads without colour as well."""

    DEFAULT_CSS = "Bar { height: 2; background: $background; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._parts: list[Part] = []
        self._total = 0.0
        self._legend: list[tuple[str, str]] = []

    def show(self, shown: list[Part], total: float, legend: list[tuple[str, str]]) -> None:
        """``legend``: texts with their tones, in one line below."""
        width = self.size.width
        old = self._cells(width), self._legend
        self._parts, self._total, self._legend = shown, total, legend
        for y, changed in enumerate((old[0] != self._cells(width), old[1] != legend)):
            if changed:
                self.refresh(Region(0, y, width, 1))

    def _cells(self, width: int) -> list[int]:
        return parts([part.amount for part in self._parts], self._total, width - 2)

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        width = self.size.width
        segments = [Segment(" ", base)]
        if y == 0:
            room = width - 2
            cells = self._cells(width)
            for part, number in zip(self._parts, cells, strict=True):
                segments.append(Segment(part.fill * number, base + tone_style(self, part.tone)))
            segments.append(Segment("·" * (room - sum(cells)), base + tone_style(self, "faint")))
        else:
            left = width - 2
            for text, tone in self._legend:
                if left <= 0:
                    break
                shown = fit(text, min(left, len(text)))
                left -= len(shown)
                segments.append(Segment(shown, base + tone_style(self, tone)))
        return Strip(segments).adjust_cell_length(width, base).simplify()
