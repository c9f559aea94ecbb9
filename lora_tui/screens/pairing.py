"""Review's two pictures: one is marked, and shown beside the one that is there."""

from __future__ import annotations

from lora_tui.screens.jumping import Jumping
from lora_tui.screens.side_by_side import SideBySide
from shared import wire


class Pairing(Jumping):
    """Mixed into Review."""

    _marked: tuple[str, str] | None = None  # dataset and item

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
