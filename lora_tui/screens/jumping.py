"""Review's long steps: to the next picture that nobody has reviewed, or that a filter finds."""

from __future__ import annotations

from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.screens.dialogs import AskText
from lora_tui.screens.offering import Offering
from shared import wire

UNREVIEWED = "state:unreviewed"
ISSUE = "issue:any"
MOST_TRIES = 5  # places that the daemon finds and that are not so here any more


class Jumping(Offering):
    """Mixed into Review."""

    _like = ""  # the filter that was asked for last

    def action_next_unreviewed(self) -> None:
        roll = self._roll
        if roll is None or self._edited is not None:
            return
        place = self._place + 1  # what is loaded is looked at first: it has the newest changes
        while (item := roll.at(place)) is not None:
            if item.caption.state == "unreviewed":
                self._go(place)
                return
            place += 1
        self._jump(UNREVIEWED, place - 1, "Nothing is left: every picture here has been reviewed.")

    def action_next_issue(self) -> None:
        self._jump(ISSUE, self._place, "No picture here has an issue.")

    def action_next_like(self) -> None:
        def chosen(text: str | None) -> None:
            if text:
                self._like = text
                self._jump(text, self._place, f"No picture here passes {clean(text)}.")

        self.app.push_screen(
            AskText(
                "Go to the next picture like", "A filter, such as tag:dragon or tokens:>75.",
                self._like or ISSUE,
            ),
            chosen,
        )  # fmt: skip

    def _jump(self, wanted: str, after: int, none: str) -> None:
        """To the next place behind ``after`` that passes ``wanted``, from the top at the end."""
        roll = self._roll
        if roll is None or self._edited is not None:
            return
        self._steps += 1
        step = self._steps

        async def find() -> wire.FoundPlace:
            if self.desk.unsent:
                await self.desk_settled()
            at = after
            for _ in range(MOST_TRIES):
                found = await self.lora.ask(
                    wire.FindPlace(dataset=roll.dataset, wanted=wanted, after=at,
                                   filter=roll.filter, sort=roll.sort, view=roll.view)
                )  # fmt: skip
                item = roll.at(found.place) if found.place is not None else None
                stale = item is not None and item.caption.state != "unreviewed"
                if wanted != UNREVIEWED or not stale or found.place is None:
                    break
                at = found.place
            return found

        def found(there: wire.FoundPlace) -> None:
            if step != self._steps or roll is not self._roll:
                return
            if there.place is None:
                self.notify(none, markup=False)
            else:
                if wanted != UNREVIEWED:
                    said = words.plural(there.left, "picture")
                    self.notify(f"{clean(wanted)}: {said} here.", timeout=2, markup=False)
                self._go(there.place)

        self.attempt(find(), found, group="find")
