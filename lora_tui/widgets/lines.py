"""The lines around every screen: places above, status and keys below, a banner when it matters."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from lora_tui.actions import PLACES
from lora_tui.core.cells import fit
from lora_tui.core.summary import Said, length
from lora_tui.widgets.tones import tone_style


class OneLine(Widget):
    """A line with a left and a right part; the right one gives way."""

    DEFAULT_CSS = "OneLine { height: 1; width: 1fr; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._left: Said = []
        self._right: Said = []

    def show(self, left: Said, right: Said | None = None) -> None:
        """Only what differs is sent to the terminal."""
        right = right or []
        width = self.size.width
        same = 1 + length(_common(left, self._left))
        ends = width - 1 - max(length(right), length(self._right))
        changed_left = left != self._left
        changed_right = right != self._right
        before = max(length(left), length(self._left)) + 1
        self._left, self._right = left, right
        if changed_right and not changed_left and before < ends:
            self.refresh(Region(ends, 0, width - ends, 1))
        elif changed_left or changed_right:
            self.refresh(Region(same, 0, max(width - same, 1), 1))

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        width = self.size.width
        left = [(" ", ""), *self._left]
        room = width - length(left) - 3
        right = self._right if length(self._right) <= room else []
        segments = [Segment(text, self._style(base, tone)) for text, tone in left]
        gap = max(width - length(left) - length(right) - (1 if right else 0), 0)
        segments.append(Segment(" " * gap, base))
        segments += [Segment(text, self._style(base, tone)) for text, tone in right]
        line = Strip(segments)
        if line.cell_length > width:
            line = Strip([*line.crop(0, width - 1), Segment("…", base)])
        return line.adjust_cell_length(width, base).simplify()

    def _style(self, base: Style, tone: str) -> Style:
        return base + tone_style(self, tone) if tone else base


def _common(one: Said, other: Said) -> Said:
    """The entries both begin with."""
    number = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        number += 1
    return one[:number]


class Places(OneLine):
    """The screens there are, the present one marked; the active run at the right."""

    DEFAULT_CSS = "Places { dock: top; background: $surface; }"

    class Clicked(Message):
        def __init__(self, place: str) -> None:
            super().__init__()
            self.place = place

    def __init__(self, here: str) -> None:
        super().__init__(id="places")
        self._here = here
        self.run_said([])

    def run_said(self, said: Said) -> None:
        left: Said = []
        for name, title, _, _ in PLACES:
            here = name == self._here
            left.append((f" {title} ", "primary bold reverse" if here else "muted"))
            left.append((" ", ""))
        self.show(left, said)

    def on_click(self, event: events.Click) -> None:
        x = 1
        for name, title, _, _ in PLACES:
            if x <= event.x < x + len(title) + 2:
                self.post_message(self.Clicked(name))
            x += len(title) + 3


class StatusLine(OneLine):
    """The daemon, who else is there, the engine, warnings."""

    DEFAULT_CSS = "StatusLine { background: $surface; color: $muted; }"


class Banner(OneLine):
    """What stands between the person and the daemon; not there when nothing does."""

    DEFAULT_CSS = """
    Banner { dock: top; background: $warning; color: $background; display: none; text-style: bold; }
    Banner.-shown { display: block; }
    Banner:ansi { background: ansi_yellow; color: ansi_black; }
    Banner:nocolor { text-style: reverse; }
    """

    def say(self, text: str) -> None:
        self.set_class(bool(text), "-shown")
        self.show([(fit(text, len(text)), "")])


class KeyBar(OneLine):
    """The keys of where you are, as many as fit; or a hint in their place."""

    DEFAULT_CSS = "KeyBar { background: $background; color: $muted; }"

    class Pressed(Message):
        """Somebody clicked a key."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(self) -> None:
        super().__init__(id="keys")
        self._keys: list[tuple[str, str, str]] = []  # key, label, action id
        self._everywhere: list[tuple[str, str, str]] = []
        self._hint: Said = []
        self._spans: list[tuple[int, int, str]] = []

    def keys(
        self, screen: list[tuple[str, str, str]], everywhere: list[tuple[str, str, str]]
    ) -> None:
        """The screen's keys fill from the left, those of everywhere stand at the right."""
        self._keys, self._everywhere = screen, everywhere
        self.refresh()

    def hint(self, said: Said) -> None:
        """Show this in place of the keys; nothing: the keys again."""
        self._hint = said
        self.refresh()

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        if self._hint:
            self._spans = []
            shown = [Segment(text, self._style(base, tone)) for text, tone in self._hint]
            return Strip([Segment(" ", base), *shown]).adjust_cell_length(self.size.width, base)
        width = self.size.width
        right = self._everywhere
        right_width = sum(len(key) + len(label) + 3 for key, label, _ in right)
        if width < 100:  # narrow: go and help lead to everything else
            right = [entry for entry in right if entry[2] in ("app.help", "app.go")]
            right_width = sum(len(key) + len(label) + 3 for key, label, _ in right)
        segments = [Segment(" ", base)]
        self._spans = []
        x = 1
        for key, label, action in self._keys:
            cells = len(key) + len(label) + 3
            if x + cells > width - right_width:
                break
            x = self._entry(segments, x, key, label, action)
        segments.append(Segment(" " * max(width - right_width - x, 0), base))
        x = width - right_width
        for key, label, action in right:
            x = self._entry(segments, x, key, label, action)
        return Strip(segments).adjust_cell_length(width, base)

    def _entry(self, segments: list[Segment], x: int, key: str, label: str, action: str) -> int:
        base = self.rich_style
        segments.append(Segment(key, base + tone_style(self, "primary bold")))
        segments.append(Segment(f" {label}  ", base + tone_style(self, "muted")))
        end = x + len(key) + len(label) + 3
        self._spans.append((x, end - 1, action))
        return end

    def on_click(self, event: events.Click) -> None:
        for first, last, action in self._spans:
            if first <= event.x < last:
                self.post_message(self.Pressed(action))
