"""Review: one picture, its caption, one key each; what is typed is never lost."""

from __future__ import annotations

import time

from textual.message import Message
from textual.widgets import Static

from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.core.desk import Conflicted, Refused, Report, Saved
from lora_tui.screens import captioning, health
from lora_tui.screens.company import Company
from lora_tui.screens.dialogs import Choose
from lora_tui.screens.filtering import Filter
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.caption import MOST_EDITED, CaptionField
from lora_tui.widgets.steady import Panel
from lora_tui.widgets.waiting import anew
from shared import wire
from shared.wire import CaptionState, Item


class Review(Company):
    scope = "review"
    CSS_PATH = "review.tcss"
    BINDINGS = bindings("review")

    class Reported(Message):
        """The desk says what became of a change."""

        def __init__(self, report: Report) -> None:
            super().__init__()
            self.report = report

    # ── the state ───────────────────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent | None) -> None:
        if not self.built:
            return
        if event is None:
            self._take_up()
        elif isinstance(event, wire.CaptionChanged) and event.dataset == self._dataset:
            self._caption_changed(event)
        elif isinstance(event, wire.CaptionsChanged) and event.dataset == self._dataset:
            self._captions_changed()
        elif isinstance(event, wire.DatasetRemoved) and event.dataset == self._dataset:
            self.notify("This dataset has just been forgotten by somebody.", severity="warning")
            self._open("", "")
        elif isinstance(event, wire.DatasetChanged) and event.dataset.id == self._dataset:
            self.count_later()

    def _take_up(self) -> None:
        """Open what was asked for, or what was open, or the first dataset there is."""
        dataset, item = self.lora.review_at
        self.lora.review_at = ("", "")
        if not dataset and self.dataset is not None:
            here = self.item.id if self.item is not None else ""
            self._open(self._dataset, self._wanted or here)
        elif dataset or self.state.datasets:
            self._open(dataset or self.state.datasets[0].id, item)
        else:
            self._open("", "")
        self.offer_drafts()

    def _caption_changed(self, event: wire.CaptionChanged) -> None:
        if self._roll is None:
            return
        known = self._roll.get(event.item)
        if known is None or self.desk_pending(known):
            return
        news = event.caption.rev > known.caption.rev
        item = self._roll.changed(event.item, event.caption)
        if item is None:
            return
        if self._edited is not None and self._edited[0].id == item.id:
            if news and event.caption.by != self.lora.me:
                self.query_one("#facts", Static).update(
                    f"{event.caption.by} has just changed this caption. Go on: when you leave the "
                    "field, both texts are shown."
                )
        else:
            self._show_current(item)

    def _captions_changed(self) -> None:
        """Many are others now, or pictures are. What is in the field stays: leaving it shows both
        texts."""
        roll = self._roll
        if roll is None:
            return

        def shown(_: None) -> None:
            if roll is not self._roll:
                return
            if self._edited is None:
                self._show()
                self.offer_again()
            elif self.item is not None:  # it may have been turned, or replaced
                self.show_picture(self.item)

        self.attempt(roll.refresh(self._place), shown, group="again")

    def link_changed(self) -> None:
        if self.lora.connection is not None and not self.lora.link_problem:
            self.desk_link_back()
            self.look_anew()
        else:
            self.desk_keep()

    # ── going about ─────────────────────────────────────────────────────────────────────────────

    def _go(self, place: int) -> None:
        if self._roll is None or self._edited is not None:
            return
        place = min(max(place, 0), max(self._roll.total - 1, 0))
        self._steps += 1
        if place != self._place:
            self._place = place
            self._show()

    def _show(self) -> None:
        super()._show()
        if self.built:
            self.show_company()
            self.look()

    def _show_current(self, item: Item) -> None:
        super()._show_current(item)
        if self.item is not None and item.id == self.item.id:
            self.offer(item)

    def action_caption(self) -> None:
        captioning.fill(self, self.dataset)

    def action_health(self) -> None:
        health.look(self, self.dataset)

    def action_next(self) -> None:
        if self._roll is not None and self._place + 1 >= self._roll.total:
            self.notify("That was the last picture.", timeout=2)
        self._go(self._place + 1)

    def action_previous(self) -> None:
        self._go(self._place - 1)

    def action_first(self) -> None:
        self._go(0)

    def action_last(self) -> None:
        if self._roll is not None:
            self._go(self._roll.total - 1)

    # ── changing ────────────────────────────────────────────────────────────────────────────────

    def _set(self, state: CaptionState, *, advance: bool) -> None:
        item = self.item
        if item is None or self._roll is None:
            return
        if item.caption.state != state:
            self._reviewed(item)
            shown = self.desk_submit(item, state=state)
            self._roll.put_back(shown)
            self._show_current(shown)
        if advance:
            self.action_next()

    def _reviewed(self, item: Item) -> None:
        if item.caption.state == "unreviewed":
            self._pace.did(time.monotonic())

    def action_accept(self) -> None:
        if self.item is not None and self.item.caption.state == "edited":
            self.action_next()  # a text of a person's own is accepted already
        else:
            self._set("accepted", advance=True)

    def action_reject(self) -> None:
        self._set("rejected", advance=True)

    def action_flag(self) -> None:
        self._set("flagged", advance=True)

    def action_edit(self) -> None:
        item = self.item
        if item is not None:
            self.edit(item, item.caption.text, item.caption.rev)

    def edit(self, item: Item, text: str, rev: int, *, tags: bool = False) -> None:
        """Put a text into the field, or its tags into the hand: it is of ``item``, and written
        against ``rev``."""
        if len(text) > MOST_EDITED:
            self.notify(
                f"{clean(item.name)}: with {words.count(len(text))} characters this caption is too "
                "long to edit here. Mend its file, then read the folder again.",
                severity="warning",
            )
            return
        self._edited = (item, rev)
        self.add_class("-editing")
        self.query_one("#right", Panel).entitle(f"editing {clean(item.name)}")
        self.show_keys("chips" if tags else "edit")
        self._shape(tags)
        if tags:
            self.chips.begin(text)
        else:
            self.field.begin(text)

    def on_caption_field_caption_typed(self, message: CaptionField.CaptionTyped) -> None:
        self.keep_typed()

    def keep_typed(self) -> None:
        self._kept = anew(self, self._kept, 0.3, self._keep_draft)

    def _keep_draft(self) -> None:
        if self._edited is not None and (self.field.editing or self.chips.editing):
            item, rev = self._edited
            if self.typed_text != item.caption.text:
                self.desk_typing(item, self.typed_text, rev)

    def _left_field(self, text: str, advance: bool) -> None:
        if self._edited is None:
            return
        self._finish_editing(text)
        if advance:
            self.action_next()

    def _finish_editing(self, text: str) -> None:
        if self._kept is not None:
            self._kept.stop()
        assert self._edited is not None
        item, rev = self._edited
        self._edited = None
        self.remove_class("-editing")
        self.show_keys()
        if text != item.caption.text:  # what is only looked at stays as its file has it
            text = text.rstrip()
        if text == item.caption.text and rev == item.caption.rev:
            self.desk_forget(item)
            shown = self._roll.get(item.id) if self._roll is not None else None
        else:
            self._reviewed(item)
            shown = self.desk_submit(item, text=text, if_rev=rev)
            if self._roll is not None:
                self._roll.put_back(shown)
            self.offer_again()
        if shown is not None:
            self._show_current(shown)

    def take_text(self, item: Item, text: str) -> None:
        if self._roll is None or text == item.caption.text:
            return
        self._reviewed(item)
        shown = self.desk_submit(item, text=text)
        self._roll.put_back(shown)
        self._show_current(shown)

    def on_review_reported(self, message: Reported) -> None:
        report = message.report
        if isinstance(report, Saved):
            if self._roll is not None and not self.desk_pending(report.item):
                self._roll.put_back(report.item)
                self._show_current(report.item)
        elif isinstance(report, Conflicted):
            self.settle(report)
        elif isinstance(report, Refused):
            if self._roll is not None:
                self._roll.put_back(report.item)
                self._show_current(report.item)
            kept = " Your text is kept as a draft: r." if report.draft.text is not None else ""
            self.notify(
                f"{report.item.name}: {report.error.message}{kept}", severity="error", timeout=10
            )
        else:
            self.notify("No link: your changes are kept here and go when it is back.", timeout=4)

    def took(self, item: Item) -> None:
        if self._roll is not None:
            self._roll.put_back(item)
            self._show_current(item)

    def merge(self, item: Item, text: str, rev: int) -> None:
        if self._edited is not None:  # another caption is in the field: it goes first
            self.leave_caption()
        place = self._roll.place(item.id) if self._roll is not None else None
        if place is not None:
            self._go(place)
        self.edit(item, text, rev)

    # ── other pictures ──────────────────────────────────────────────────────────────────────────

    def action_filter(self) -> None:
        dataset = self.dataset
        if dataset is None:
            return
        here = self.item.id if self.item is not None else ""

        def chosen(text: str | None) -> None:
            if text is not None:
                self.lora.picture_filters[dataset.id] = text
                self._open(dataset.id, here)

        present = self.lora.picture_filters.get(dataset.id, "")
        self.app.push_screen(Filter(dataset, present), chosen)

    def action_dataset(self) -> None:
        datasets = self.state.datasets

        def chosen(place: int | None) -> None:
            if place is not None:
                self._open(datasets[place].id, "")

        options = [("", d.name, words.plural(d.items, "picture")) for d in datasets]
        if options:
            self.app.push_screen(Choose("Review which dataset?", options), chosen)

    def action_drafts(self) -> None:
        if not self.offer_drafts(again=True):
            self.notify("No caption is waiting to be saved.")

    async def before_leaving(self) -> None:
        """The app ends: what is in the field counts."""
        if self._edited is not None:
            self.leave_caption()
        await self.desk_leave()
