"""The caption: read in place, edited in place. Leaving the field is what saves."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.document._document import Location
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import TextArea

from lora_tui.actions import of_scope
from lora_tui.core import words
from lora_tui.core.cells import boundaries, dotted
from lora_tui.core.completion import typed
from lora_tui.keymap import Keymap
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.suggestions import Suggestions
from lora_tui.widgets.tones import tone_style
from shared.wire import Item

MOST_SHOWN = 20_000  # characters of a caption to read; more would stop the screen
MOST_EDITED = 50_000
LEAST_TYPED = 2  # letters until tags are suggested: "a" begins a sentence more often


class _Line(Text):
    """A line of the field. What is painted of it, such as the cursor, takes whole characters."""

    def stylize(self, style, start=0, end=None):  # type: ignore[no-untyped-def]
        if not self.plain.isascii() and end is not None:
            places = boundaries(self.plain)
            start = places[max(bisect_right(places, start) - 1, 0)]
            end = places[min(bisect_left(places, end), len(places) - 1)]
        super().stylize(style, start, end)


class CaptionField(TextArea):
    """Shows a caption; ``begin`` turns it into a field."""

    BINDINGS = bindings("edit")
    DEFAULT_CSS = """
    CaptionField { border: none; padding: 0; height: 1fr; background: $background; }
    CaptionField:focus { border: none; background: $surface; }
    CaptionField.-empty { color: $warning; }
    """

    class CaptionTyped(Message):
        """The text in the field is another one now."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(
        self, left: Callable[[str, bool], None], suggestions: Suggestions, *, id: str | None = None
    ) -> None:
        """``left(text, advance)`` is called the moment the person leaves the field, before any
        further key is looked at: a message would come behind keys typed fast."""
        super().__init__(
            id=id, compact=True, read_only=True, show_line_numbers=False, soft_wrap=True
        )
        self.can_focus = False
        self.show_cursor = False
        self._left = left
        self._suggestions = suggestions

    @property
    def editing(self) -> bool:
        return not self.read_only

    def show(self, text: str) -> None:
        """Show a caption to read. Not while one is edited."""
        assert self.read_only
        empty = not text.strip()
        self.set_class(empty, "-empty")
        text = text if not empty else "(no caption)"
        if len(text) > MOST_SHOWN:
            text = f"{text[:MOST_SHOWN]}…\n({words.count(len(text))} characters in all)"
        if text != self.text:
            self._put(text)

    def begin(self, text: str) -> None:
        """Edit ``text``; the cursor stands at its end."""
        self.remove_class("-empty")
        self._put(text)
        self.read_only = False
        self.can_focus = True
        self.show_cursor = True
        self.move_cursor(self.document.end)
        self.screen.set_focus(self)  # now: the next key is for the field already

    def get_line(self, line_index: int) -> Text:
        """A line as it is painted: what could move the terminal's cursor is a dot, one for one."""
        line = super().get_line(line_index)
        return _Line(dotted(line.plain), end="", no_wrap=True)

    def _step(self, location: Location, by: int) -> Location:
        """The next place of the cursor in a line, which is not inside of what is one character.
        ``by`` 0: that place itself, or the one before."""
        row, column = location
        line = self.document[row]
        if line.isascii() or (by < 0 and not column) or (by > 0 and column >= len(line)):
            return location
        places = boundaries(dotted(line))
        if by > 0:
            return row, places[min(bisect_right(places, column), len(places) - 1)]
        if by < 0:
            return row, places[max(bisect_left(places, column) - 1, 0)]
        return row, places[max(bisect_right(places, column) - 1, 0)]

    def get_cursor_left_location(self) -> Location:
        there = self._step(self.cursor_location, -1)
        return there if there != self.cursor_location else super().get_cursor_left_location()

    def get_cursor_right_location(self) -> Location:
        there = self._step(self.cursor_location, 1)
        return there if there != self.cursor_location else super().get_cursor_right_location()

    def get_cursor_up_location(self) -> Location:
        return self._step(super().get_cursor_up_location(), 0)

    def get_cursor_down_location(self) -> Location:
        return self._step(super().get_cursor_down_location(), 0)

    def get_target_document_location(self, event: events.MouseEvent) -> Location:
        return self._step(super().get_target_document_location(event), 0)

    def _put(self, text: str) -> None:
        """``load_text``, painted: Textual keeps the old lines where the new text has as many."""
        self.load_text(text)
        self.notify_style_update()
        self.refresh()

    def leave(self, advance: bool = False) -> None:
        """End editing, as escape does."""
        if self.editing:
            self.read_only = True
            self.show_cursor = False
            self.can_focus = False
            self._suggestions.hide()
            self.screen.set_focus(None)
            self._left(self.text, advance)

    def on_key(self, event: events.Key) -> None:
        """Leaving is a key among the others: what was typed before it is in the text, and what
        comes after it is not."""
        if self.read_only:
            return
        keymap: Keymap = self.app.keymap  # type: ignore[attr-defined]
        if self._suggestions.key(event.key, keymap) or event.key in ("tab", "shift+tab"):
            event.stop()
            event.prevent_default()
            return
        for action in of_scope("edit"):
            if event.key in keymap.keys_of(action):
                event.stop()
                event.prevent_default()
                self.leave(advance=action.name == "save_next")

    def action_leave(self) -> None:
        self.leave()

    def action_save_next(self) -> None:
        self.leave(advance=True)

    def on_blur(self, event: events.Blur) -> None:
        if self.app.app_focus:  # else only the terminal's window lost the focus
            self.leave()

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        if self.editing:
            self.post_message(self.CaptionTyped(self.text))
            text = self._typed()
            self._suggestions.follow(text if len(text) >= LEAST_TYPED else "", self._complete)

    def on_text_area_selection_changed(self, event: TextArea.SelectionChanged) -> None:
        """The cursor may have gone where something else is being typed."""
        now, then = self._typed(), self._suggestions.typed
        if self.editing and not (now and (now.startswith(then) or then.startswith(now))):
            self._suggestions.hide()

    def _typed(self) -> str:
        row, column = self.cursor_location
        return typed(self.document[row], column) if self.selection.is_empty else ""

    def _complete(self, text: str, tag: str) -> None:
        """``tag`` in place of ``text``, where that still ends at the cursor."""
        row, column = self.cursor_location
        if self._typed() == text:
            self.replace(tag, (row, column - len(text)), (row, column))


class Filmstrip(Widget):
    """The pictures before and after this one, each by the mark of its state."""

    DEFAULT_CSS = "Filmstrip { height: 1; background: $background; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._marks: list[tuple[str, str]] = []  # each with its tone
        self._at: Callable[[int], Item | None] = lambda place: None
        self._place = 0
        self._total = 0
        self._marked: set[int] = set()

    def mark(self, places: set[int]) -> None:
        """Where other people are."""
        self._marked = places
        self._lay()

    def show(self, at: Callable[[int], Item | None], place: int, total: int) -> None:
        self._at, self._place, self._total = at, place, total
        self._lay()

    def on_resize(self) -> None:
        self._lay()

    def _lay(self) -> None:
        """Work out what stands there; it is painted if that is something else."""
        cells = max(self.size.width // 2, 1)
        first = max(min(self._place - cells // 2, self._total - cells), 0)
        marks = [self._mark(place) for place in range(first, min(first + cells, self._total))]
        if marks != self._marks:
            self._marks = marks
            self.refresh()

    def _mark(self, place: int) -> tuple[str, str]:
        item = self._at(place)
        mark, tone = "…", "faint"
        if item is not None and item.problem:
            mark, tone = "!", "error"
        elif item is not None:
            mark, tone = words.MARKS[item.caption.state], words.CAPTION_TONES[item.caption.state]
        if place == self._place:
            tone += " bold reverse"
        if place in self._marked:
            tone += " bold underline"
        return mark, tone

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        segments = []
        for mark, tone in self._marks:
            segments += [Segment(mark, base + tone_style(self, tone)), Segment(" ", base)]
        return Strip(segments).adjust_cell_length(self.size.width, base)
