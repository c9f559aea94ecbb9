"""A whole list of pictures in one line: what was decided, part by part, and where the cursor is."""

from __future__ import annotations

from rich.segment import Segment
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from lora_tui.core import words
from lora_tui.widgets.tones import tone_style
from shared.wire import CAPTION_STATES


class StateStrip(Widget):
    """Each cell is the state that most captions of its part have."""

    DEFAULT_CSS = "StateStrip { height: 1; background: $background; }"

    class Clicked(Message):
        """Somebody wants to go to that place."""

        def __init__(self, place: int) -> None:
            super().__init__()
            self.place = place

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._parts: list[list[int]] = []
        self._place = 0
        self._total = 0

    def show(self, parts: list[list[int]]) -> None:
        if parts != self._parts:
            self._parts = parts
            self.refresh()

    def stand(self, place: int, total: int) -> None:
        """Where in the list the cursor is."""
        before = self._cell()
        self._place, self._total = place, total
        if self._cell() != before:
            self.refresh()

    def _cell(self) -> int:
        return self._place * len(self._parts) // max(self._total, 1)

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        segments = []
        for number, counts in enumerate(self._parts):
            state = CAPTION_STATES[counts.index(max(counts))]
            tone = words.CAPTION_TONES[state]
            if number == self._cell():
                tone += " bold reverse"
            segments.append(Segment(words.MARKS[state], base + tone_style(self, tone)))
        return Strip(segments).adjust_cell_length(self.size.width, base).simplify()

    def on_click(self, event: events.Click) -> None:
        if self._parts and event.x < len(self._parts):
            self.post_message(self.Clicked(event.x * self._total // len(self._parts)))
