"""A caption and a candidate for it, word by word: what differs is taken part by part, or whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partialmethod

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.core.offers import Part, parts, taken, whose
from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from shared.wire import Candidate, Item

MOST_SHOWN = 20_000  # characters of each text


class Parts(Dialog[str | None]):
    """Answers the caption that is made of both; None when left."""

    BINDINGS = bindings("parts")

    def __init__(self, item: Item, candidates: Sequence[Candidate]) -> None:
        super().__init__()
        self._item = item
        self._candidates = candidates
        self._candidate = candidates[0]
        self._parts: list[Part] = []
        self._places: list[int] = []  # of the parts that differ
        self._at = 0  # which of them has the cursor
        self._taken: set[int] = set()

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -wide") as window:
            window.border_title = f"{clean(self._item.name)}: word by word"
            window.border_subtitle = "enter: save what is taken, or all of it · esc: leave"
            yield Static(id="whose", markup=False)
            with VerticalScroll(id="both", can_focus=False):
                yield Static(id="differences")
                yield Static("the caption would be", classes="part")
                yield Static(id="becomes")
            yield self.keys_line("parts.pick", "parts.left", "parts.right", "parts.show_1")

    def on_mount(self) -> None:
        self._show_candidate(1)

    def _show_candidate(self, number: int) -> None:
        if number > len(self._candidates):
            return
        self._candidate = self._candidates[number - 1]
        self._parts = parts(self._item.caption.text, self._candidate.text)
        self._places = [place for place, part in enumerate(self._parts) if not part.same]
        self._at, self._taken = 0, set()
        count = words.plural(len(self._places), "difference")
        self.query_one("#whose", Static).update(
            f"{number} of {len(self._candidates)} · {whose(self._candidate)} · {count}"
        )
        self._show()

    action_show_1 = partialmethod(_show_candidate, 1)
    action_show_2 = partialmethod(_show_candidate, 2)
    action_show_3 = partialmethod(_show_candidate, 3)
    action_show_4 = partialmethod(_show_candidate, 4)
    action_show_5 = partialmethod(_show_candidate, 5)
    action_show_6 = partialmethod(_show_candidate, 6)
    action_show_7 = partialmethod(_show_candidate, 7)
    action_show_8 = partialmethod(_show_candidate, 8)
    action_show_9 = partialmethod(_show_candidate, 9)

    def _show(self) -> None:
        tone = self.lora.tone
        text = Text()
        for place, part in enumerate(self._parts):
            if part.same:
                text.append(clean(part.old))
                continue
            here = " reverse" if self._places[self._at] == place else ""
            chosen = place in self._taken
            text.append("[x]" if chosen else "[ ]", tone(f"primary bold{here}"))
            text.append(clean(part.old), tone(f"error{' strike' * chosen}{here}"))
            text.append("→" if part.old and part.new else "", tone(f"muted{here}"))
            text.append(clean(part.new), tone(f"success{' bold' * chosen}{here}"))
        text.truncate(MOST_SHOWN)
        self.query_one("#differences", Static).update(text)
        self.query_one("#becomes", Static).update(Text(clean(self._result()[:MOST_SHOWN])))

    def _result(self) -> str:
        """Part by part; where none is taken, all of the candidate."""
        return taken(self._parts, self._taken) if self._taken else self._candidate.text

    def action_pick(self) -> None:
        if self._places:
            self._taken ^= {self._places[self._at]}
            self.action_right()

    def action_left(self) -> None:
        self._at = max(self._at - 1, 0)
        self._show()

    def action_right(self) -> None:
        self._at = min(self._at + 1, max(len(self._places) - 1, 0))
        self._show()

    def action_apply(self) -> None:
        self.dismiss(self._result())

    def action_leave(self) -> None:
        self.dismiss(None)
