"""Review's candidates: fetched when a picture stays, taken by a digit, or word by word."""

from __future__ import annotations

from functools import partialmethod

from textual.timer import Timer

from lora_tui.core.cells import clean
from lora_tui.core.offers import whose
from lora_tui.screens.parts import Parts
from lora_tui.screens.tagging import Tagging
from lora_tui.widgets.offers import Offers
from lora_tui.widgets.waiting import anew
from shared import wire
from shared.errors import LoraError

AFTER = 0.2  # seconds a picture stays until its candidates are asked for


class Offering(Tagging):
    """Mixed into Review."""

    _offered_for = ""  # item
    _offering: Timer | None = None

    def take_text(self, item: wire.Item, text: str) -> None:
        """Make a text the caption."""
        raise NotImplementedError

    @property
    def offers(self) -> Offers:
        return self.query_one(Offers)

    def offer(self, item: wire.Item, *, keep: bool = False) -> None:
        """Show what this picture's caption could be, once nobody goes on from it. ``keep``: those
        that are on screen stay until then."""
        if item.id == self._offered_for:
            return
        self._offered_for = item.id
        if not keep:
            self.offers.show(item.caption.text, [])
        self._offering = anew(self, self._offering, AFTER, lambda: self._ask(item))

    def offer_again(self) -> None:
        """Captions have changed: what they were is a candidate now."""
        self._offered_for = ""
        if self.item is not None:
            self.offer(self.item, keep=True)

    def _ask(self, item: wire.Item) -> None:
        async def look() -> None:
            try:
                found = await self.lora.ask(wire.GetCandidates(dataset=item.dataset, item=item.id))
            except LoraError:  # no link, or the picture is gone: there are none
                return
            here = self.item
            if here is not None and here.id == item.id:
                self.offers.show(here.caption.text, found.candidates)

        self.run_worker(look, group="offers", exclusive=True)  # type: ignore[arg-type]

    def _take(self, number: int) -> None:
        item, offers = self.item, self.offers.candidates
        if item is None or self._edited is not None:
            return
        if number > len(offers):
            self.notify(
                f"There is no candidate {number} here. c lets a captioner write some.", timeout=3
            )
            return
        self.take_text(item, offers[number - 1].text)
        self.notify(f"Taken: {clean(whose(offers[number - 1]))}. u brings the other back.",
                    timeout=2, markup=False)  # fmt: skip

    action_take_1 = partialmethod(_take, 1)
    action_take_2 = partialmethod(_take, 2)
    action_take_3 = partialmethod(_take, 3)
    action_take_4 = partialmethod(_take, 4)
    action_take_5 = partialmethod(_take, 5)
    action_take_6 = partialmethod(_take, 6)
    action_take_7 = partialmethod(_take, 7)
    action_take_8 = partialmethod(_take, 8)
    action_take_9 = partialmethod(_take, 9)

    async def action_differences(self) -> None:
        item, offers = self.item, self.offers.candidates
        if item is None or self._edited is not None:
            return
        if not offers:
            self.notify("This picture has no candidates. c lets a captioner write some.", timeout=3)
            return

        def chosen(text: str | None) -> None:
            if text is not None:
                self.take_text(item, text)

        await self.app.push_screen(Parts(item, offers), chosen)
