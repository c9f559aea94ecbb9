"""Review in company: the others are told which picture is before us, and we see theirs."""

from __future__ import annotations

from collections.abc import Sequence

from textual.timer import Timer
from textual.widgets import Static

from lora_tui.core.cells import clean
from lora_tui.screens.pairing import Pairing
from lora_tui.widgets.caption import Filmstrip
from lora_tui.widgets.waiting import anew
from shared import wire
from shared.errors import LoraError

AFTER = 0.5  # seconds a picture stays until it is told


class Company(Pairing):
    """Mixed into Review."""

    _told: wire.Looking | None = None
    _telling: Timer | None = None
    _who = ""  # is at which picture, as it is on screen
    _away = True  # on another screen, not under a window

    def look(self) -> None:
        """Tell the others, once nobody goes on from this picture."""
        self._telling = anew(self, self._telling, AFTER, self._tell)

    def look_anew(self) -> None:
        """The daemon does not know any more."""
        self._told = None
        self.look()

    def on_screen_suspend(self) -> None:
        self._away = self not in self.app.screen_stack
        self.look()

    def returned(self) -> None:
        if self._away:  # under a window, news went on coming
            super().returned()

    def _tell(self) -> None:
        item, at = self.item, None
        if item is not None and self in self.app.screen_stack:  # a window over it, or none
            at = wire.Looking(dataset=item.dataset, item=item.id, name=item.name)
        if at == self._told or self.lora.connection is None:
            return
        self._told = at

        async def tell() -> None:
            try:
                await self.lora.ask(wire.Look(at=at))
            except LoraError:  # no link, or a daemon that does not know of this
                self._told = None

        self.run_worker(tell, group="look", exclusive=True)  # type: ignore[arg-type]

    # ── the others ──────────────────────────────────────────────────────────────────────────────

    def live_changed(self, values: Sequence[wire.AnyLive]) -> None:
        if self.built and any(isinstance(value, wire.Attached) for value in values):
            self.show_company()

    def show_company(self) -> None:
        """Who is at which picture of this dataset: a line, and marks in the strip."""
        others = [
            (client.name, client.looking)
            for client in self.lora.known.clients
            if client.looking is not None and client.looking.dataset == self._dataset
            and client.session != self.lora.session
        ]  # fmt: skip
        here = self.item.id if self.item is not None else ""
        with_us = [clean(name) for name, looking in others if looking.item == here]
        away = [f"{clean(name)} at {clean(at.name)}" for name, at in others if at.item != here]
        said = []
        if with_us:
            verb = "is" if len(with_us) == 1 else "are"
            said.append(f"{', '.join(with_us)} {verb} on this picture, too")
        said += away
        line = " · ".join(said)
        if line != self._who:  # most steps change nothing here
            self._who = line
            who = self.query_one("#who", Static)
            who.display = bool(said)
            who.update(line)
            who.set_class(bool(with_us), "-here")
        roll = self._roll
        places = {roll.place(looking.item) for _, looking in others} if roll is not None else set()
        self.query_one("#strip", Filmstrip).mark({p for p in places if p is not None})
