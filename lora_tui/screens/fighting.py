"""The window that says where the LoRAs of a mix fight."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.core import conflict_map
from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.tones import tone_style
from shared import wire
from shared.conflicts import Conflict
from shared.errors import LoraError


class Fighting(Dialog[None]):
    """Asks the daemon, and shows what it found: files may be on its machine alone."""

    BINDINGS = bindings("page")

    def __init__(self, request: wire.CompareLoras) -> None:
        super().__init__()
        self._request = request

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -page -wide") as window:
            window.border_title = "Where they fight"
            window.border_subtitle = "esc: close"
            with VerticalScroll():
                yield Static("Comparing…", id="text", markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
        self.run_worker(self._ask())

    async def _ask(self) -> None:
        text = self.query_one("#text", Static)
        try:
            told = (await self.lora.ask(self._request)).found
        except LoraError as error:
            text.update(error.message)
        else:
            text.update(self._drawn(told))

    def _drawn(self, told: Conflict) -> Text:
        drawn = Text()
        for row in conflict_map.lines(told, *conflict_map.shown_pair(told)):
            for cell, tone in row:
                drawn.append(cell, tone_style(self, tone))
            drawn.append("\n")
        return drawn

    def action_close(self) -> None:
        self.dismiss(None)
