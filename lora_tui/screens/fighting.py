"""The window that says where the LoRAs of a mix fight, and what wins back what they lose."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partialmethod

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.actions import BY_ID
from lora_tui.core import conflict_map, probe_table
from lora_tui.core.conflict_map import Cell
from lora_tui.core.summary import Said
from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.lines import OneLine
from lora_tui.widgets.tones import tone_style
from shared import company, wire
from shared.errors import LoraError
from shared.pictures import LoraUse
from shared.probes import KINDS, Remedy

_TAKEN = len(KINDS)  # remedies that have a key
_KEYS = ("fighting.probe", "fighting.losses", "fighting.remedies", "fighting.close")


class Fighting(Dialog[list[LoraUse] | None]):
    """Asks the daemon, and shows what it found: files may be on its machine alone. Answers the
    weights of the remedy that was taken.

    ``probe``: what to try on the base; at once where ``remedies`` is asked for.
    """

    BINDINGS = bindings("fighting")

    def __init__(
        self, compare: wire.CompareLoras, probe: wire.ProbeLoras, *, remedies: bool = False
    ) -> None:
        super().__init__()
        self._compare, self._probe = compare, probe
        self._at_once = remedies
        self._pictures = 0  # that are painted to foretell losses: none before that is asked for
        self._remedies: list[Remedy] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -page -wide") as window:
            window.border_title = "Where they fight"
            with VerticalScroll():
                yield Static("Comparing…", id="text", markup=False)
            yield Static("", id="going", markup=False)
            yield self.keys_line(*_KEYS)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
        if self._at_once:
            self.action_remedies()
        else:
            self.run_worker(self._compared(), group="ask", exclusive=True)

    async def _compared(self) -> None:
        try:
            found = (await self.lora.ask(self._compare)).found
        except LoraError as error:
            self._say(error.message)
        else:
            self._show(conflict_map.lines(found, *conflict_map.shown_pair(found)))

    def _try(self, *, remedies: bool) -> None:
        self._going("Trying them on the base…")
        self.run_worker(self._tried(remedies), group="ask", exclusive=True)

    async def _tried(self, remedies: bool) -> None:
        from msgspec.structs import replace

        request = replace(self._probe, blocks=True, remedies=remedies, losses=self._pictures)
        try:
            found = (await self.lora.ask(request, on_progress=self._advanced)).found
        except LoraError as error:
            self._say(error.message)
            return
        self._remedies = found.remedies
        self._show(probe_table.lines(found))
        self.query_one(".keys", OneLine).show(self._taking() + self.keys_said(*_KEYS))
        if found.remedies:
            self._going("A remedy goes into the mix; x in the Mixer flips back and forth.")
        elif remedies:
            self._going("Nothing that was tried wins anything back.")

    def _taking(self) -> Said:
        """The keys that take a remedy, where there are any to be taken."""
        shown = [
            self.lora.keymap.shown(BY_ID[f"fighting.take_{n}"])
            for n, _ in enumerate(self._remedies[:_TAKEN], 1)
        ]
        if not shown:
            return []
        return [("–".join(dict.fromkeys((shown[0], shown[-1]))), "primary bold"),
                (" take   ", "muted")]  # fmt: skip

    def _advanced(self, done: int, total: int, message: str) -> None:
        self._going(f"Trying them on the base, {done} of {total}…")

    def _going(self, text: str) -> None:
        self.query_one("#going", Static).update(text)

    def _say(self, text: str) -> None:
        self._going("")
        self.query_one("#text", Static).update(text)

    def _show(self, rows: Iterable[list[Cell]]) -> None:
        drawn = Text()
        for row in rows:
            for cell, tone in row:
                drawn.append(cell, tone_style(self, tone))
            drawn.append("\n")
        self._going("")
        self.query_one("#text", Static).update(drawn)
        self.query_one(VerticalScroll).scroll_home(animate=False)

    def action_probe(self) -> None:
        self._pictures = 0
        self._try(remedies=False)

    def action_losses(self) -> None:
        self._pictures = company.PICTURES
        self._try(remedies=False)

    def action_remedies(self) -> None:
        self._try(remedies=True)

    def _take(self, number: int) -> None:
        if number <= len(self._remedies):
            self.dismiss(self._remedies[number - 1].loras)

    action_take_1 = partialmethod(_take, 1)
    action_take_2 = partialmethod(_take, 2)
    action_take_3 = partialmethod(_take, 3)
    action_take_4 = partialmethod(_take, 4)

    def action_close(self) -> None:
        self.dismiss(None)
