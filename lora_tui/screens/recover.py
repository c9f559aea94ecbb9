"""Captions that a crash or a lost connection kept back: looked at, saved or thrown away."""

from __future__ import annotations

from typing import Literal

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from lora_tui.core import words
from lora_tui.core.drafts import Draft
from lora_tui.screens.base import Dialog
from lora_tui.screens.dialogs import Confirm
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.rows import Cell, Column, Rows


class Recover(Dialog[Literal["save", "discard", "later"]]):
    """Answers what to do with drafts that were left behind."""

    BINDINGS = bindings("recover")

    def __init__(self, drafts: list[Draft]) -> None:
        super().__init__()
        self._drafts = drafts

    def compose(self) -> ComposeResult:
        number = len(self._drafts)
        with Vertical(classes="window -wide") as window:
            window.border_title = f"{words.plural(number, 'caption')} not saved yet"
            yield Static(
                "They were typed here before the connection or this program ended. Saving asks "
                "again where somebody else has changed the caption since.",
                markup=False,
                classes="lead",
            )
            yield Rows(Column("picture", 24), Column("kept text"), Column("when", 12, "right"))
            yield self.keys_line("recover.save", "recover.discard", "recover.later")

    def on_mount(self) -> None:
        rows = self.query_one(Rows)
        rows.styles.height = min(len(self._drafts) + 1, 12)
        rows.show(
            len(self._drafts),
            lambda i: [
                self._drafts[i].name,
                _kept(self._drafts[i]),
                (words.ago(self._drafts[i].at), "muted"),
            ],
        )
        rows.focus()

    def action_save(self) -> None:
        self.dismiss("save")

    def action_later(self) -> None:
        self.dismiss("later")

    def action_discard(self) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.dismiss("discard")

        number = words.plural(len(self._drafts), "text")
        self.app.push_screen(
            Confirm("Throw them away?", f"{number} that you typed will be gone for good."), answered
        )


def _kept(draft: Draft) -> Cell:
    return draft.text if draft.text is not None else (f"→ {draft.state}", "muted")
