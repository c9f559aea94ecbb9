"""Review's changes of many captions at once, and what takes changes back, of one or of many."""

from __future__ import annotations

from msgspec import convert

from lora_tui.actions import BY_ID
from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.screens.bulk import Begin, BulkEdit, kept_text
from lora_tui.screens.dialogs import Page
from lora_tui.screens.mending import Mending
from lora_tui.screens.showing import Showing
from shared import wire
from shared.errors import LoraError


class Many(Mending, Showing):
    """Mixed into Review."""

    def _go(self, place: int) -> None:
        """To the picture at a place."""
        raise NotImplementedError

    def action_undo(self) -> None:
        self._take_back(redo=False)

    def action_redo(self) -> None:
        self._take_back(redo=True)

    def _take_back(self, *, redo: bool) -> None:
        if not self._dataset:
            return

        async def undo() -> wire.Undone:
            await self.desk_settled()
            try:
                return await self.lora.ask(wire.UndoCaption(dataset=self._dataset, redo=redo))
            except LoraError as error:
                if kept := error.data.get("kept"):
                    found = convert(kept, list[wire.Kept])
                    self.app.push_screen(Page(error.message, kept_text(found, len(found))))
                raise

        def undone(answer: wire.Undone) -> None:
            several = f" ({words.plural(answer.changed, 'caption')})" if answer.changed > 1 else ""
            self.notify(
                f"{'Done again' if redo else 'Taken back'}: {answer.what}{several}.", timeout=3,
                markup=False,
            )  # fmt: skip
            self._show_kept(answer)
            if self._roll is not None:
                self._roll.put_back(answer.item)
                place = self._roll.place(answer.item.id)
                if place is not None:
                    self._go(place)
                self._show_current(answer.item)

        self.attempt(undo(), undone, group="undo")

    def _show_kept(self, done: wire.Undone | wire.Edited) -> None:
        """Captions that others have changed were left alone: both texts of each."""
        if done.conflicts:
            title = f"{words.plural(done.conflicts, 'caption')} left alone"
            self.app.push_screen(Page(title, kept_text(done.kept, done.conflicts)))

    async def action_many(self) -> None:
        await self.edit_many()

    async def edit_many(self, begin: Begin | None = None) -> None:
        """The window for an edit of all captions shown. ``begin``: with one that is filled in."""
        dataset, roll = self.dataset, self._roll
        if dataset is None or roll is None or not roll.total:
            return
        which = f" · only {clean(roll.filter)}" if roll.filter else ""
        title = f"Edit {words.plural(roll.total, 'caption')} of {clean(dataset.name)}{which}"
        ask = wire.PreviewEdit(dataset=dataset.id, filter=roll.filter, view=roll.view)

        def changed(edited: wire.Edited | None) -> None:
            if edited is not None:
                self.notify(
                    f"{edited.what}: {words.plural(edited.changed, 'caption')} changed. "
                    f"{self.lora.keymap.shown(BY_ID['review.undo'])} takes it back.",
                    markup=False,
                )
                self._show_kept(edited)

        def settled(_: None) -> None:
            self.app.push_screen(BulkEdit(ask, title, begin), changed)

        if self.desk.unsent:  # what was typed before counts
            self.attempt(self.desk_settled(), settled, group="many")
        else:  # the window is there when this returns: the next key is for it
            await self.app.push_screen(BulkEdit(ask, title, begin), changed)
