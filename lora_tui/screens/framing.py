"""How a picture is seen: turned, cropped, and what training sees of it drawn over it."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from lora_tui.core import bucket_words, words
from lora_tui.core.cells import clean
from lora_tui.core.crop_desk import CropDesk
from lora_tui.screens.base import Dialog, Place
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.picture import PictureView
from shared import wire
from shared.errors import LoraError
from shared.framing import Framing, stored


def turn(place: Place, which: wire.FramePictures, by: int) -> None:
    """Turn pictures by ``by`` degrees clockwise."""
    from msgspec.structs import replace

    def done(framed: wire.Framed) -> None:
        if framed.changed > 1:
            place.notify(
                f"{words.plural(framed.changed, 'picture')} turned; u takes it back.", timeout=3
            )

    place.attempt(place.lora.ask(replace(which, rotate=by % 360)), done, group="turn")


def edit(place: Place, item: wire.Item) -> None:
    """Open the window that crops a picture, if there is something to be seen."""
    if item.problem or not item.width:
        place.notify("This picture cannot be read.", severity="warning")
    else:
        place.app.push_screen(FrameWindow(item, _last_run(place, item.dataset)))


def _last_run(place: Place, dataset: str) -> str:
    """The run that trained on this dataset last; empty if none has."""
    names = [one.name for one in place.state.datasets if one.id == dataset]
    runs = [run for run in place.state.runs if run.dataset in names]
    return max(runs, key=lambda run: run.created).id if runs else ""


class FrameWindow(Dialog[None]):
    """One picture, dark where training does not see it: as ``run`` had it, or by the defaults."""

    BINDINGS = bindings("frame")

    def __init__(self, item: wire.Item, run: str = "") -> None:
        super().__init__()
        self._item = item
        self._run = run
        self._recipe = ""  # of that run, once it is asked for
        self._desk = CropDesk(item.framing, (item.width, item.height))
        self._seen: wire.BucketPreview | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -whole") as window:
            window.border_title = f"crop {clean(self._item.name)}"
            yield PictureView(self.lora.picture_cache, self.lora.depth, id="seen")
            yield Static("", id="facts", markup=False)
            yield self.keys_line(
                "frame.hand", "frame.smaller", "frame.larger", "frame.fit", "frame.whole",
                "frame.keep", "frame.leave",
            )  # fmt: skip

    def on_mount(self) -> None:
        self.call_after_refresh(self._look)

    def _look(self) -> None:
        """Ask what training sees now; one that is asked meanwhile goes before it."""
        view, framing = self.query_one(PictureView), self._desk.framing
        side = max(1, view.side) if self.lora.depth() != "off" else 1
        ask = wire.PreviewBucket(
            dataset=self._item.dataset, item=self._item.id, framing=framing, width=side,
            height=side,
        )  # fmt: skip

        async def look() -> None:
            try:
                seen, blobs = await self._fetch(ask)
            except LoraError as error:
                self.query_one("#facts", Static).update(error.message)
                return

            self._seen = seen

            async def fetched(side: int) -> bytes:
                return blobs[0]

            key = f"{self._item.id}:{self._item.content}:{stored(framing)}:bucket"
            view.show(key, fetched, keep=True)
            self._tell()

        self.run_worker(look, group="look", exclusive=True)  # type: ignore[arg-type]

    async def _fetch(self, ask: wire.PreviewBucket) -> tuple[wire.BucketPreview, list[bytes]]:
        """By the run's recipe; by the defaults where there is none, or its base has gone. Raises
        LoraError."""
        from msgspec.structs import replace

        if self._run:
            try:
                if not self._recipe:
                    self._recipe = (await self.lora.ask(wire.GetRun(run=self._run))).recipe
                return await self.lora.fetch(replace(ask, recipe=self._recipe))
            except LoraError:
                self._run = self._recipe = ""
        return await self.lora.fetch(ask)

    def _tell(self) -> None:
        told = bucket_words.told(self._seen) if self._seen is not None else ""
        if self._recipe:
            told += f", as in run {self._run}"
        step = f"{self._desk.step} px a key" + (" (fine)" if self._desk.fine else "")
        self.query_one("#facts", Static).update(f"{told}\nin hand: {self._desk.hand}, {step}")

    def _do(self, name: str, *arguments: Any) -> None:
        getattr(self._desk, name)(*arguments)
        self._tell()
        self._look()

    action_left = partialmethod(_do, "move", -1, 0)
    action_right = partialmethod(_do, "move", 1, 0)
    action_up = partialmethod(_do, "move", 0, -1)
    action_down = partialmethod(_do, "move", 0, 1)
    action_larger = partialmethod(_do, "grow", 1)
    action_smaller = partialmethod(_do, "grow", -1)
    action_turn_left = partialmethod(_do, "turn", -90)
    action_turn_right = partialmethod(_do, "turn", 90)
    action_whole = partialmethod(_do, "whole")

    def action_fit(self) -> None:
        if self._seen is not None:
            self._do("fit", self._seen.shown)

    def action_hand(self) -> None:
        self._desk.next_hand()
        self._tell()

    def action_fine(self) -> None:
        self._desk.fine = not self._desk.fine
        self._tell()

    def action_keep(self) -> None:
        before, after = self._item.framing, self._desk.framing
        if before == after:
            self.dismiss(None)
            return
        self.run_worker(self._save(before, after), group="save", exclusive=True)

    async def _save(self, before: Framing, after: Framing) -> None:
        ask = wire.FramePictures(
            dataset=self._item.dataset, items=[self._item.id],
            rotate=(after.turn - before.turn) % 360, crop=after.crop, whole=after.crop is None,
            seen=before,
        )  # fmt: skip
        try:
            await self.lora.ask(ask)
        except LoraError as error:
            self.notify(error.message, severity="error", timeout=8)
        else:
            self.dismiss(None)

    def action_leave(self) -> None:
        self.dismiss(None)
