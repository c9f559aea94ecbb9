"""A list of any length: only the rows on screen are drawn, and only they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from lora_tui.core.cells import Align, columns, fit
from lora_tui.core.summary import Said
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.tones import tone_style

Cell = str | tuple[str, str] | Callable[[int], Said]  # text, text and its tone, or a drawing


@dataclass(frozen=True)
class Column:
    """A column. ``width`` 0 shares what the others leave; ``wide``: only from that many cells."""

    title: str
    width: int = 0
    align: Align = "left"
    wide: int = 0


class Rows(ScrollView, can_focus=True):
    """Rows by number. ``cells(i)`` gives a row's cells, or None while it is not loaded."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--cursor", "rows--title", "rows--blurred"}
    BINDINGS: ClassVar[list[BindingType]] = bindings("list")
    DEFAULT_CSS = """
    Rows { height: 1fr; overflow-x: hidden; background: $background; scrollbar-size-vertical: 1; }
    Rows .rows--title { color: $faint; }
    Rows .rows--cursor { background: $cursor; color: $cursor-text; }
    Rows .rows--blurred { background: $surface; }
    Rows:ansi .rows--blurred { background: ansi_default; text-style: bold; }
    Rows:nocolor .rows--cursor { text-style: reverse; }
    Rows:nocolor .rows--blurred { text-style: bold; }
    """

    cursor: reactive[int] = reactive(0, repaint=False)

    class Moved(Message):
        """The cursor stands on another row."""

        def __init__(self, rows: Rows, index: int) -> None:
            super().__init__()
            self.rows = rows
            self.index = index

        @property
        def control(self) -> Rows:
            return self.rows

    class Chosen(Moved):
        """Enter, or a click on the row under the cursor."""

    class Wanted(Message):
        """Rows on screen are not loaded."""

        def __init__(self, rows: Rows, first: int, last: int) -> None:
            super().__init__()
            self.rows = rows
            self.first = first
            self.last = last

        @property
        def control(self) -> Rows:
            return self.rows

    def __init__(self, *titles: Column, empty: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns = titles
        self._empty = empty
        self._cells: Callable[[int], Sequence[Cell] | None] = lambda index: None
        self._asked: tuple[int, int] | None = None
        self._drawn: dict[int, Sequence[Cell] | None] = {}
        self.count = 0
        self._titled = 1 if any(column.title for column in titles) else 0

    def show(
        self,
        count: int,
        cells: Callable[[int], Sequence[Cell] | None],
        *,
        cursor: int | None = None,
    ) -> None:
        """Show ``count`` rows. The cursor stays where it was unless given."""
        self.count = count
        self._cells = cells
        self._asked = None
        self.virtual_size = Size(1, count + self._titled)
        wanted = self.cursor if cursor is None else cursor
        self.cursor = min(max(wanted, 0), max(count - 1, 0))
        self._bring_into_view()
        self.refresh()

    def say(self, empty: str) -> None:
        """What an empty list says."""
        self._empty = empty
        if not self.count:
            self.refresh()

    def update_row(self, index: int) -> None:
        """Draw one row again, if it has changed."""
        if self._drawn.get(index) != self._cells(index):
            self._refresh_line(index)

    # ── the cursor ──────────────────────────────────────────────────────────────────────────────

    def watch_cursor(self, old: int, new: int) -> None:
        for index in (old, new):
            self._refresh_line(index)
        self._bring_into_view()
        if self.count:
            self.post_message(self.Moved(self, new))

    def _refresh_line(self, index: int) -> None:
        y = index + self._titled - self.scroll_offset.y
        if self._titled <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def _bring_into_view(self) -> None:
        height = max(self.scrollable_content_region.height - self._titled, 1)
        top = self.scroll_offset.y
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, force=True)

    def _move(self, by: int) -> None:
        if self.count:
            self.cursor = min(max(self.cursor + by, 0), self.count - 1)

    def _page(self) -> int:
        return max(self.scrollable_content_region.height - self._titled - 1, 1)

    def action_up(self) -> None:
        self._move(-1)

    def action_down(self) -> None:
        self._move(1)

    def action_page_up(self) -> None:
        self._move(-self._page())

    def action_page_down(self) -> None:
        self._move(self._page())

    def action_first(self) -> None:
        self._move(-self.count)

    def action_last(self) -> None:
        self._move(self.count)

    def action_choose(self) -> None:
        if self.count:
            self.post_message(self.Chosen(self, self.cursor))

    def on_click(self, event: events.Click) -> None:
        index = event.y - self._titled + self.scroll_offset.y
        if event.y >= self._titled and 0 <= index < self.count:
            if index == self.cursor and event.chain > 1:
                self.action_choose()
            self.cursor = index

    def on_focus(self) -> None:
        self._refresh_line(self.cursor)

    def on_blur(self) -> None:
        self._refresh_line(self.cursor)

    def on_resize(self) -> None:
        self._bring_into_view()

    # ── drawing ─────────────────────────────────────────────────────────────────────────────────

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self.rich_style
        if y < self._titled:
            return self._line(
                [(column.title, "") for column in self._columns],
                width,
                base + self.get_component_rich_style("rows--title", partial=True),
                " ",
            )
        if not self.count:
            text = self._empty if y == self._titled else ""
            return Strip([Segment(fit(f" {text}", width), base + tone_style(self, "muted"))])
        index = y - self._titled + self.scroll_offset.y
        if index >= self.count:
            return Strip.blank(width, base)
        mark = " "
        if index == self.cursor:
            mark = "▌"
            kind = "rows--cursor" if self.has_focus else "rows--blurred"
            base += self.get_component_rich_style(kind, partial=True)
        cells = self._cells(index)
        self._drawn[index] = cells
        if len(self._drawn) > 500:
            self._drawn.clear()
        if cells is None:
            self._want(index)
            return Strip([Segment(fit(f"{mark}…", width), base)], width)
        return self._line(cells, width, base, mark)

    def _line(self, cells: Sequence[Cell], width: int, base: Style, mark: str) -> Strip:
        marked = base + tone_style(self, "primary") if mark != " " else base
        segments = [Segment(mark, marked)]
        for number, (_, room) in self._spans(width).items():
            cell = cells[number]
            if len(segments) > 1:
                segments.append(Segment("  ", base))
            if callable(cell):
                said = cell(room)
            else:
                text, tone = cell if isinstance(cell, tuple) else (cell, "")
                said = [(fit(text, room, self._columns[number].align), tone)]
            for text, tone in said:
                segments.append(Segment(text, base + tone_style(self, tone) if tone else base))
        return Strip(segments).adjust_cell_length(width, base).simplify()

    def _spans(self, width: int) -> dict[int, tuple[int, int]]:
        """Of each column that there is room for: its first cell, and how many."""
        shown = [n for n, column in enumerate(self._columns) if width >= column.wide]
        widths = columns([self._columns[number].width for number in shown], width - 2)
        spans, x = {}, 1
        for number, room in zip(shown, widths, strict=True):
            spans[number] = (x, room)
            x += room + 2
        return spans

    def _want(self, index: int) -> None:
        first = self.scroll_offset.y
        last = min(first + self.size.height, self.count - 1)
        if self._asked is None or not self._asked[0] <= index <= self._asked[1]:
            self._asked = (first, last)
            self.post_message(self.Wanted(self, first, last))
