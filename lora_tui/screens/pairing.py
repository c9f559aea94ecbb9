"""Review's picture itself: turned, cropped, or marked and shown beside another one."""

from __future__ import annotations

from functools import partialmethod

from lora_tui.screens import framing
from lora_tui.screens.jumping import Jumping
from lora_tui.screens.side_by_side import SideBySide
from shared import wire


class Pairing(Jumping):
    """Mixed into Review."""

    _marked: tuple[str, str] | None = None  # dataset and item

    def _turn(self, by: int) -> None:
        if self.item is not None and self._edited is None:
            which = wire.FramePictures(dataset=self.item.dataset, items=[self.item.id])
            framing.turn(self, which, by)

    action_turn_left = partialmethod(_turn, -90)
    action_turn_right = partialmethod(_turn, 90)

    def action_frame(self) -> None:
        if self.item is not None and self._edited is None:
            framing.edit(self, self.item)

    def action_mark(self) -> None:
        item = self.item
        if item is None:
            return
        taken = self._marked == (item.dataset, item.id)
        self._marked = None if taken else (item.dataset, item.id)
        said = "Not marked any more" if taken else "Marked; b at another picture shows both"
        self.notify(f"{said}.", timeout=2)

    def action_beside(self) -> None:
        item = self.item
        if item is None or self._edited is not None:
            return
        if self._marked is None:
            self.notify("Mark a picture first: m.", timeout=3)
        elif self._marked == (item.dataset, item.id):
            self.notify("This is the marked picture: go to another one.", timeout=3)
        else:
            dataset, marked = self._marked

            def show(other: wire.Item) -> None:
                self.app.push_screen(SideBySide(other, item))

            ask = wire.GetItem(dataset=dataset, item=marked)  # it may have changed since
            self.attempt(self.lora.ask(ask), show, group="beside")
