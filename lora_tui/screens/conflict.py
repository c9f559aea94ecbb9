"""Two texts for one caption: both are shown, the person decides, neither is lost."""

from __future__ import annotations

import difflib
from typing import Literal

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.core.desk import Conflicted
from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings

Decision = Literal["mine", "theirs", "merge", "later"]


class Conflict(Dialog[Decision]):
    """Answers what to do with a change that came second."""

    BINDINGS = bindings("conflict")

    def __init__(self, conflict: Conflicted) -> None:
        super().__init__()
        self._conflict = conflict

    def compose(self) -> ComposeResult:
        item, draft, current = (
            self._conflict.item, self._conflict.draft, self._conflict.current,
        )  # fmt: skip
        mine = draft.text if draft.text is not None else item.caption.text
        with Vertical(classes="window -wide") as window:
            window.border_title = f"{clean(item.name)}: two people changed this caption"
            yield Static(
                f"{current.by} changed it {words.ago(current.at)}, while you had revision "
                f"{draft.if_rev} before you. Nothing is lost yet: choose.",
                markup=False,
                classes="lead",
            )
            with Horizontal(id="both"):
                with VerticalScroll(classes="panel", id="mine") as panel:
                    panel.border_title = f"mine · {draft.state or 'edited'}"
                    panel.can_focus = False
                    yield Static(self._marked(mine, current.text, "success"))
                with VerticalScroll(classes="panel", id="theirs") as panel:
                    panel.border_title = f"theirs · {current.state} · rev {current.rev}"
                    panel.can_focus = False
                    yield Static(self._marked(current.text, mine, "warning"))
            yield self.keys_line(
                "conflict.mine", "conflict.theirs", "conflict.merge", "conflict.later"
            )

    def _marked(self, text: str, other: str, tone: str) -> Text:
        """``text`` with the words the other one has not, marked."""
        if not text:
            return Text("(no caption)", style=self.lora.tone("muted"))
        mine, theirs = _words(text), _words(other)
        result = Text()
        style = self.lora.tone(f"{tone} bold underline")
        for kind, i1, i2, _, _ in difflib.SequenceMatcher(
            a=mine, b=theirs, autojunk=False
        ).get_opcodes():
            result.append("".join(mine[i1:i2]), style=style if kind != "equal" else None)
        return result

    def action_mine(self) -> None:
        self.dismiss("mine")

    def action_theirs(self) -> None:
        self.dismiss("theirs")

    def action_merge(self) -> None:
        self.dismiss("merge")

    def action_later(self) -> None:
        self.dismiss("later")


def merged(mine: str, theirs: str) -> str:
    """What the field starts with when both are to be edited into one: mine, then theirs."""
    if mine.strip() == theirs.strip():
        return mine
    return f"{mine.rstrip()}\n{theirs.lstrip()}" if mine.strip() else theirs


def _words(text: str) -> list[str]:
    """Words with the space behind them."""
    parts: list[str] = []
    for char in text[:20_000]:
        if parts and (not parts[-1][-1].isspace() or char.isspace()):
            parts[-1] += char
        else:
            parts.append(char)
    return parts
