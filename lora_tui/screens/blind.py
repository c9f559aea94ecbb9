"""Two pictures without names, one key: which is better. What is taken goes before all measures."""

from __future__ import annotations

from typing import Literal

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from lora_tui.core.cells import clean
from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.picture import Fetch, PictureView
from shared import wire
from shared.errors import Code, LoraError


class Blind(Dialog[None]):
    """Shows pair after pair. A choice is kept at once, and can be taken back."""

    BINDINGS = bindings("blind")

    def __init__(self, run: wire.Run) -> None:
        super().__init__()
        self._run = run
        self._pair: wire.Pair | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -page") as window:
            window.border_title = "Which picture is better?"
            yield Static("", id="prompt", markup=False)
            with Horizontal(id="both"):
                for side in ("left", "right"):
                    with Vertical(classes="panel"):
                        yield PictureView(self.lora.picture_cache, self.lora.depth, id=side)
            yield Static("", id="said", markup=False)
            yield self.keys_line(
                "blind.left", "blind.right", "blind.neither", "blind.undo", "blind.close"
            )

    def on_mount(self) -> None:
        self._next()

    def _next(self) -> None:
        self._pair = None
        self.run_worker(self._look(), group="pair", exclusive=True)

    async def _look(self) -> None:
        said = self.query_one("#said", Static)
        try:
            pair, blobs = await self.lora.fetch(wire.GetPair(run=self._run.id))
        except LoraError as error:
            said.update(error.message)
            return
        self._pair = pair
        for side, blob in zip(("left", "right"), blobs, strict=True):
            self.query_one(f"#{side}", PictureView).show(f"{pair.pair} {side}", _given(blob))
        self.query_one("#prompt", Static).update(clean(pair.prompt))
        left = pair.wanted - pair.chosen
        said.update(
            f"{pair.chosen} chosen; the choice counts after {pair.wanted}."
            if left > 0
            else f"{pair.chosen} chosen. The choice counts; more make it surer."
        )

    def _choose(self, better: Literal["left", "right", "neither"]) -> None:
        if self._pair is None:
            return  # the next pair is on its way
        request = wire.ChoosePicture(run=self._run.id, pair=self._pair.pair, better=better)
        self._pair = None
        self.run_worker(self._send(request), group="choose")

    async def _send(self, request: wire.ChoosePicture | wire.UndoChoice) -> None:
        try:
            await self.lora.ask(request)
        except LoraError as error:
            self.notify(error.message, severity="warning")
            if error.code is not Code.CONFLICT:
                return
        self._next()

    def action_left(self) -> None:
        self._choose("left")

    def action_right(self) -> None:
        self._choose("right")

    def action_neither(self) -> None:
        self._choose("neither")

    def action_undo(self) -> None:
        self.run_worker(self._send(wire.UndoChoice(run=self._run.id)), group="choose")

    def action_close(self) -> None:
        self.dismiss(None)


def _given(blob: bytes) -> Fetch:
    async def fetch(_: int) -> bytes:
        return blob

    return fetch
