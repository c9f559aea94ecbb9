"""Tags of this dataset that go with what is being typed. They wait: only Tab and → take one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.segment import Segment
from textual.message import Message
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from lora_tui.actions import of_scope
from lora_tui.core import words
from lora_tui.core.cells import fit
from lora_tui.core.completion import still
from lora_tui.keymap import Keymap
from lora_tui.widgets.tones import tone_style
from shared.wire import TagCount

MOST = 6
AFTER = 0.15  # seconds without a key until they are asked for: typing on is not held up


class Suggestions(Widget):
    """One a line, how many captions have it at the right; not there while there are none."""

    DEFAULT_CSS = """
    Suggestions { height: auto; display: none; background: $surface; margin-top: 1; }
    Suggestions.-shown { display: block; }
    """

    class Wanted(Message):
        """Something has been typed, and then nothing for a moment."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(id="suggestions")
        self._tags: list[TagCount] = []
        self._chosen = 0
        self._timer: Timer | None = None
        self.typed = ""
        self._take: Callable[[str, str], None] = lambda typed, tag: None

    @property
    def shown(self) -> bool:
        return bool(self._tags)

    def follow(self, typed: str, take: Callable[[str, str], None]) -> None:
        """``typed`` is what stands before the cursor now; ``take(typed, tag)`` puts a tag there."""
        self.typed, self._take = typed, take
        self._put(still(self._tags, typed))
        self._wait()
        if typed:
            self._timer = self.set_timer(AFTER, lambda: self.post_message(self.Wanted(typed)))

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def offer(self, typed: str, tags: Sequence[TagCount]) -> None:
        """What goes with ``typed``, unless something else is there by now."""
        if typed == self.typed:
            self._put(tags)

    def hide(self) -> None:
        """Until something else is typed."""
        self._wait()
        self.typed = ""
        self._put([])

    def key(self, key: str, keymap: Keymap) -> bool:
        """Whether ``key`` was for the suggestions, which are on screen."""
        if not self.shown:
            return False
        names = [a.name for a in of_scope("suggest") if key in keymap.keys_of(a)]
        for name in names:
            if name == "take":
                take, typed, tag = self._take, self.typed, self._tags[self._chosen].tag
                self.hide()
                take(typed, tag)
            elif name == "hide":
                self.hide()
            else:
                by = 1 if name == "next" else -1
                self._chosen = (self._chosen + by) % len(self._tags)
                self.refresh()
        return bool(names)

    def _put(self, tags: Sequence[TagCount]) -> None:
        tags = list(tags[:MOST])
        if tags != self._tags:
            self._tags, self._chosen = tags, 0
            self.styles.height = len(tags)
            self.set_class(bool(tags), "-shown")
            self.refresh()

    def render_line(self, y: int) -> Strip:
        base, width = self.rich_style, self.size.width
        if y >= len(self._tags):
            return Strip.blank(width, base)
        tag, chosen = self._tags[y], y == self._chosen
        count = words.count(tag.count)
        room = max(width - len(count) - 5, 1)
        key = "⇥ " if chosen else "  "
        return Strip(
            [
                Segment(key, base + tone_style(self, "primary bold")),
                Segment(fit(tag.tag, room), base + tone_style(self, "bold" if chosen else "")),
                Segment(f"  {count} ", base + tone_style(self, "muted")),
            ]
        ).adjust_cell_length(width, base)
