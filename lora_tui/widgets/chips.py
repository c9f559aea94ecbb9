"""A caption as tags one can take in the hand. Leaving them is what saves, as with the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from lora_tui.actions import of_scope
from lora_tui.core.cells import clean, fit
from lora_tui.core.chips import ChipRow
from lora_tui.keymap import Keymap
from lora_tui.widgets.caption import MOST_SHOWN
from lora_tui.widgets.tones import tone_style
from shared.tags import BREAK, spans_of


@dataclass(frozen=True)
class _Chip:
    place: int
    label: str
    x: int


class Chips(Widget):
    """Shows a caption's tags; ``begin`` lets the keyboard at them."""

    DEFAULT_CSS = """
    Chips { height: 1fr; background: $background; display: none; }
    Chips:focus { background: $surface; }
    Chips .chips--tag { background: $panel; }
    Chips .chips--cursor { background: $cursor; color: $cursor-text; text-style: bold; }
    Chips:ansi .chips--tag { background: ansi_default; }
    Chips:nocolor .chips--cursor { text-style: reverse; }
    """
    COMPONENT_CLASSES = {"chips--tag", "chips--cursor"}

    class Changed(Message):
        """The text that the tags make is another one now."""

    def __init__(
        self, left: Callable[[str, bool], None], asked: Callable[[str], None], *, id: str
    ) -> None:
        """``left(text, advance)`` is called the moment the person leaves, ``asked(action)`` for a
        key that needs more than the chips: both before any further key is looked at."""
        super().__init__(id=id)
        self.can_focus = False
        self.row = ChipRow("")
        self.editing = False
        self._left, self._asked = left, asked
        self._first = 0  # line at the top
        self._drawn: list[list[_Chip]] = []  # from there on
        self._more = False  # lines below them
        self._base = Style.null()
        self._kinds: dict[str, Style] = {}
        self.lent = False  # to the entry of a tag, which has the keyboard meanwhile

    @property
    def text(self) -> str:
        """The caption as leaving would save it."""
        return self.row.result

    def show(self, text: str) -> None:
        """Show a caption to read. Not while one is edited."""
        assert not self.editing
        if text != self.row.text or self.row.off:
            self.row = ChipRow(text[:MOST_SHOWN])
            self._first = 0
            self._repaint()

    def begin(self, text: str) -> None:
        """Edit ``text``; the cursor stands at its last tag."""
        self.row = ChipRow(text)
        self.editing = self.can_focus = True
        self.screen.set_focus(self)  # now: the next key is for the chips already
        self.refresh()

    def leave(self, advance: bool = False) -> None:
        """End editing, as escape does."""
        if self.editing:
            self.editing = self.can_focus = self.lent = False
            self.screen.set_focus(None)
            text = self.row.result
            self.row = ChipRow(text)
            self.refresh()
            self._left(text, advance)

    def changed(self) -> None:
        self._repaint()
        self.post_message(self.Changed())

    # ── keys ────────────────────────────────────────────────────────────────────────────────────

    def on_key(self, event: events.Key) -> None:
        if not self.editing:
            return
        event.stop()
        event.prevent_default()
        keymap: Keymap = self.app.keymap  # type: ignore[attr-defined]
        for action in of_scope("chips"):
            if event.key in keymap.keys_of(action):
                self._do(action.name)
                return

    def _do(self, name: str) -> None:
        row = self.row
        match name:
            case "leave":
                self.leave()
            case "save_next":
                self.leave(advance=True)
            case "left" | "right":
                row.go(row.cursor + (1 if name == "right" else -1))
            case "up" | "down":
                row.go(self._beside(1 if name == "down" else -1))
            case "first":
                row.go(0)
            case "last":
                row.go(len(row.tags))
            case "earlier" | "later":
                row.shift(1 if name == "later" else -1)
            case "toggle":
                row.toggle()
            case "remove":
                row.remove()
            case _:
                self._asked(name)
                return
        if self.editing:
            self.changed()

    def on_blur(self, event: events.Blur) -> None:
        if self.app.app_focus and not self.lent:
            self.leave()

    # ── drawing ─────────────────────────────────────────────────────────────────────────────────

    def _lines(self) -> list[list[_Chip]]:
        """The chips line by line; a line break of the caption begins one."""
        width = max(self.size.width, 4)
        lines: list[list[_Chip]] = [[]]
        x, end, text = 0, 0, self.row.text
        for place, span in enumerate(spans_of(text)):
            label = self._label(clean(text[slice(*span)]), width)
            wide = cell_len(label)
            if lines[-1] and (x + wide > width or BREAK.search(text[end : span[0]])):
                lines.append([])
                x = 0
            lines[-1].append(_Chip(place, label, x))
            x, end = x + wide + 1, span[1]
        return lines

    def _label(self, tag: str, width: int) -> str:
        bare = self.app.colours == "none"  # type: ignore[attr-defined]
        shown = fit(tag, min(cell_len(tag), width - 2))
        return f"[{shown}]" if bare else f" {shown} "

    def _beside(self, by: int) -> int:
        """The place of the chip a line below, or above."""
        lines = self._lines()
        at = next((n for n, line in enumerate(lines) if self._in(line)), 0)
        if not 0 <= at + by < len(lines):
            return self.row.cursor
        x = next((chip.x for chip in lines[at] if chip.place == self.row.cursor), 0)
        return min(lines[at + by], key=lambda chip: abs(chip.x - x)).place

    def _in(self, line: list[_Chip]) -> bool:
        return any(chip.place == self.row.cursor for chip in line)

    def _repaint(self) -> None:
        """Only the lines that there were, and those there are now."""
        number = max(len(self._drawn), len(self._lines()), 1)
        self.refresh(Region(0, 0, self.size.width, min(number, self.size.height)))

    def render_lines(self, crop: Region) -> list[Strip]:
        lines, height = self._lines(), max(self.size.height, 1)
        at = next((n for n, line in enumerate(lines) if self._in(line)), 0)
        if not self.editing:
            self._first = 0
        elif not self._first <= at < self._first + height:
            self._first = max(at - height + 1, 0) if at > self._first else at
        self._drawn = lines[self._first : self._first + height]
        self._more = self._first + height < len(lines)
        self._base = self.rich_style
        self._kinds = {
            kind: self._base + self.get_component_rich_style(f"chips--{kind}", partial=True)
            for kind in ("tag", "cursor")
        }
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        base, width = self._base, self.size.width
        chips = self._drawn[y] if y < len(self._drawn) else []
        if not chips:
            said = "(no tags)" if not y else ""
            return Strip([Segment(fit(said, width), base + tone_style(self, "warning"))], width)
        segments: list[Segment] = []
        for chip in chips:
            here = self.editing and chip.place == self.row.cursor
            style = self._kinds["cursor" if here else "tag"]
            if chip.place in self.row.off:
                style += tone_style(self, "faint strike")
            if chip.x:
                segments.append(Segment(" ", base))
            segments.append(Segment(chip.label, style))
        strip = Strip(segments).adjust_cell_length(width, base)
        if self._more and y == len(self._drawn) - 1:
            more = Segment("…", base + tone_style(self, "warning bold"))
            strip = Strip([*strip.crop(0, width - 1), more], width)
        return strip
