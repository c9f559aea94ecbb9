"""The mix along one to three axes: what varies is asked, the painting goes on behind."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Static

from lora_tui.core import words
from lora_tui.screens import behind
from lora_tui.screens.base import Dialog, Place
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.picture import PictureView
from shared import grids, wire
from shared.errors import LoraError
from shared.pictures import PictureSpec, stem

GROUP = "grid"
_AXES = (("x", "columns"), ("y", "rows"), ("z", "blocks"))


def grid(place: Place, spec: PictureSpec) -> None:
    """Ask what varies of ``spec`` and have it painted; while one is painted, whether to give up."""
    kept = "Its pictures are kept; the same grid goes on with them."
    if behind.offer_to_give_up(place, GROUP, "Give up the grid?", kept):
        return

    def chosen(axes: list[str] | None) -> None:
        if axes:
            ask = wire.PaintGrid(spec=spec, axes=axes)
            behind.begin(place, GROUP, ask, summed, "The grid is given up; its pictures stay.", 12)

    place.app.push_screen(Axes(spec), chosen)


def summed(made: wire.Grid) -> str:
    """25 pictures in /home/ana/…; the sheet: /home/ana/….png"""
    pictures = words.plural(made.pictures, "picture")
    return f"{pictures} on {made.picture.path}. G shows it."


class Axes(Dialog[list[str] | None]):
    """Asks for the axes; shows the latest grid beneath. Answers None when left."""

    BINDINGS = bindings("axes")

    def __init__(self, spec: PictureSpec) -> None:
        super().__init__()
        self._spec = spec

    def compose(self) -> ComposeResult:
        loras = [stem(use.lora) for use in self._spec.loras]
        first = [f"weight:{name}=0-1 (+0.25)" for name in loras[:2]]
        values = dict(zip("xyz", [*first, f"seed={self._spec.seed}"][:2], strict=False))
        with Vertical(classes="window -page -wide") as window:
            window.border_title = "A grid of the mix"
            for name, what in _AXES:
                with Horizontal(classes="line"):
                    yield Static(what, classes="name")
                    yield Input(
                        values.get(name, ""), compact=True, id=name,
                        placeholder="seed=1-4 · cfg=3,5,7 · prompt=red,blue · base=a,b",
                    )  # fmt: skip
            yield Static("", id="wrong", markup=False)
            yield PictureView(self.lora.picture_cache, self.lora.depth, id="sheet")
            yield self.keys_line("axes.paint", "axes.leave")

    def on_mount(self) -> None:
        self.query_one("#x", Input).focus()
        self._tell()
        made = [p for p in self.lora.state.pictures if "/outputs/grids/" in p.path]
        sheet = self.query_one("#sheet", PictureView)
        if not made:
            sheet.clear("The latest grid will be shown here.")
            return
        latest = max(made, key=lambda picture: picture.created)

        async def fetch(side: int) -> bytes:
            _, blobs = await self.lora.fetch(
                wire.GetPicture(picture=latest.id, width=side, height=side)
            )
            return blobs[0]

        sheet.show(f"{latest.id}:{latest.created}", fetch)

    def on_input_changed(self, event: Input.Changed) -> None:
        self._tell()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.action_paint()

    def _axes(self) -> list[str]:
        texts = [self.query_one(f"#{name}", Input).value.strip() for name, _ in _AXES]
        return [text for text in texts if text]

    def _tell(self) -> str:
        """Say how many pictures that would be, or what is wrong with it; return the latter."""
        said = self.query_one("#wrong", Static)
        try:
            number = len(grids.cells(self._spec, [grids.read(text) for text in self._axes()]))
        except LoraError as error:
            said.update(error.message)
            return error.message
        said.update(words.plural(number, "picture"))
        return ""

    def action_paint(self) -> None:
        if self._axes() and not self._tell():
            self.dismiss(self._axes())

    def action_leave(self) -> None:
        self.dismiss(None)
