"""The window that tells all that is known of a LoRA."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.core import card_lines
from lora_tui.screens.base import Dialog
from lora_tui.screens.painted import picture_fetch
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.picture import Fetch, PictureView
from lora_tui.widgets.tones import tone_style
from shared import wire
from shared.errors import LoraError
from shared.lora_cards import LoraCard


class CardWindow(Dialog[None]):
    """Shows what the header says at once, and the spectrum when it is worked out."""

    BINDINGS = bindings("card")

    def __init__(self, name: str) -> None:
        super().__init__()
        self._wanted = name

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -page") as window:
            window.border_title = "LoRA"
            with Horizontal():
                with VerticalScroll():
                    yield Static("Reading…", id="text", markup=False)
                yield PictureView(self.lora.picture_cache, self.lora.depth, id="preview")
            yield Static("", id="going", markup=False)
            yield self.keys_line("card.weigh", "card.duplicates", "card.close")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
        self.query_one("#preview").display = False
        self.run_worker(self._ask(), group="ask", exclusive=True)

    async def _ask(self) -> None:
        request = wire.GetLoraCard(lora=self._wanted)
        self._going("Working out its singular values…")
        try:
            card = (await self.lora.ask(request)).found
            self._show(card)
            self._picture(card)
            request = wire.GetLoraCard(lora=self._wanted, spectrum=True)
            self._show((await self.lora.ask(request)).found)
        except LoraError as error:
            self._going(error.message)
        else:
            self._going("")

    async def _compare(self) -> None:
        self._going("Reading the files that may be the same…")
        try:
            await self.lora.ask(wire.FindDuplicates(), on_progress=self._advanced)
        except LoraError as error:
            self._going(error.message)
        else:
            await self._ask()

    def _advanced(self, done: int, total: int, message: str) -> None:
        self._going(f"Reading the files that may be the same, {done} of {total}…")

    def _picture(self, card: LoraCard) -> None:
        if not (card.preview or card.picture):
            return
        view = self.query_one("#preview", PictureView)
        view.display = True
        view.show(f"{card.path} {card.preview or card.picture}", self._fetch(card))

    def _fetch(self, card: LoraCard) -> Fetch:
        async def fetch(side: int) -> bytes:
            request = wire.GetLoraPreview(lora=self._wanted, width=side, height=side)
            return await self.lora.picture(request)

        return fetch if card.preview else picture_fetch(self, card.picture)

    def _going(self, text: str) -> None:
        self.query_one("#going", Static).update(text)

    def _show(self, card: LoraCard) -> None:
        drawn = Text()
        for row in card_lines.lines(card):
            for cell, tone in row:
                drawn.append(cell, tone_style(self, tone))
            drawn.append("\n")
        self.query_one("#text", Static).update(drawn)

    async def _weigh(self) -> None:
        self._going("Trying it at rising weights… Leaving the card gives it up.")
        try:
            request = wire.WeighLora(lora=self._wanted)
            await self.lora.ask(request, on_progress=self._weighed)
        except LoraError as error:
            self._going(error.message)
        else:
            await self._ask()

    def _weighed(self, done: int, total: int, message: str) -> None:
        self._going(f"Trying it at rising weights, {done} of {total}… Leaving gives it up.")

    def action_weigh(self) -> None:
        self.run_worker(self._weigh(), group="ask", exclusive=True)

    def action_duplicates(self) -> None:
        self.run_worker(self._compare(), group="ask", exclusive=True)

    def action_close(self) -> None:
        self.dismiss(None)
