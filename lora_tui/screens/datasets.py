"""Datasets: the folders there are, their pictures beside their captions, import and delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from lora_tui.core import bucket_words, words
from lora_tui.core.cells import clean, clean_lines
from lora_tui.core.roll import Roll
from lora_tui.screens import behind, captioning, exporting, health
from lora_tui.screens.base import Dialog, Place
from lora_tui.screens.browsing import Browsing, picture_key
from lora_tui.screens.dialogs import Confirm
from lora_tui.screens.filtering import Filter
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.grid import Grid
from lora_tui.widgets.picture import Fetch, PictureView
from lora_tui.widgets.rows import Cell, Column, Rows
from lora_tui.widgets.state_strip import StateStrip
from shared import wire
from shared.wire import CAPTION_STATES, Item


class Datasets(Browsing):
    scope = "datasets"
    CSS_PATH = "datasets.tcss"
    BINDINGS = bindings("datasets")

    def __init__(self) -> None:
        super().__init__()
        self._dataset = ""  # shown at present
        self._roll: Roll | None = None
        self._wanted = ""  # the picture to stand on, while it is being looked for

    def body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="left"):
                with Vertical(classes="panel", id="sets") as panel:
                    panel.border_title = "datasets"
                    yield Rows(
                        Column("name"),
                        Column("pictures", 8, "right"),
                        Column("reviewed", 8, "right"),
                        Column("problems", 8, "right", wide=44),
                        id="set-rows",
                        empty="No datasets yet. Press i to import a folder of pictures.",
                    )
                with Vertical(classes="panel", id="items") as panel:
                    panel.border_title = "pictures"
                    yield Rows(Column("", 1), Column(""), Column("", 11, "right"), id="item-rows")
                    yield Grid(self.tile, self.lora.picture_cache, self.lora.depth, id="item-grid")
                    yield Static(id="told", markup=False)
                    yield StateStrip(id="strip")
            with Vertical(classes="panel", id="shown") as panel:
                panel.border_title = "picture"
                yield PictureView(self.lora.picture_cache, self.lora.depth, id="picture")
                yield Static(id="caption", markup=False)
                yield Static(id="facts", markup=False)

    @property
    def sets(self) -> Rows:
        return self.query_one("#set-rows", Rows)

    @property
    def picture(self) -> PictureView:
        return self.query_one(PictureView)

    def on_mount(self) -> None:
        self.sets.focus()

    # ── the state ───────────────────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent | None) -> None:
        if not self.built:
            return
        if event is None or isinstance(event, wire.DatasetChanged | wire.DatasetRemoved):
            dataset, item = self.lora.browse_at
            if dataset:
                self._dataset = dataset
            self._show_sets()
            if event is None and dataset:
                self.lora.browse_at = ("", "")
                self.show_grid(True)
                self.reopen(item)
            elif event is None and self._roll is not None:
                self._look_again()
        elif isinstance(event, wire.CaptionChanged) and event.dataset == self._dataset:
            roll = self._roll
            if roll is not None and roll.changed(event.item, event.caption):
                self.items.update_row(roll.place(event.item) or 0)
                self._show_item()
                self.show_strip()
        elif isinstance(event, wire.CaptionsChanged) and event.dataset == self._dataset:
            self._look_again()

    def _look_again(self) -> None:
        """Captions may be others now. The list stands, and what is chosen in it, unless it is
        another daemon's, or Review has another filter or order by now."""
        roll = self._roll
        wanted = (self.lora.picture_filters.get(self._dataset, ""), self.sort_of(self._dataset))
        if roll is None or not roll.opened or (roll.filter, roll.sort) != wanted:
            self._open(self._dataset, again=True, item=self._wanted)
            return
        view = roll.view

        def refreshed(_: None) -> None:
            if roll is self._roll:
                if roll.view != view:
                    self.picked.clear()
                    self._show_title()
                self.items.show(roll.total, self.item_cells)
                self._show_item()
                self.show_strip(now=True)

        self.attempt(roll.refresh(self.items.cursor), refreshed, group="again")

    def link_changed(self) -> None:
        if self.built:
            linked = self.lora.connection is not None
            self.sets.say(
                "No datasets yet. Press i to import a folder of pictures."
                if linked
                else "Connecting to the daemon…"
            )

    def _show_sets(self) -> None:
        datasets = self.state.datasets
        place = next((i for i, d in enumerate(datasets) if d.id == self._dataset), 0)
        self.sets.show(len(datasets), lambda i: self._set_cells(datasets[i]), cursor=place)
        if not datasets:
            self._open("")
        elif datasets[place].id != self._dataset:
            self._open(datasets[place].id)
        else:
            self._refresh_if_grown(datasets[place])
        self._show_title()

    def _refresh_if_grown(self, dataset: wire.Dataset) -> None:
        """More or fewer pictures than we know of: the folder was read again."""
        roll = self._roll
        if roll is not None and roll.opened and not roll.filter and roll.total != dataset.items:
            self._open(dataset.id, again=True)

    def _set_cells(self, dataset: wire.Dataset) -> Sequence[Cell]:
        reviewed = dataset.items - dataset.counts.get("unreviewed", 0)
        percent = f"{100 * reviewed // dataset.items} %" if dataset.items else "–"
        problems: Cell = ("–", "faint")
        if dataset.problems or dataset.empty:
            problems = (words.count(dataset.problems + dataset.empty), "warning")
        return [
            dataset.name,
            words.count(dataset.items),
            (percent, "success" if reviewed == dataset.items else ""),
            problems,
        ]

    @property
    def dataset(self) -> wire.Dataset | None:
        return next((d for d in self.state.datasets if d.id == self._dataset), None)

    def _show_title(self) -> None:
        panel = self.query_one("#items")
        dataset = self.dataset
        if dataset is None:
            panel.border_title, panel.border_subtitle = "pictures", ""
            return
        shown, roll = words.plural(dataset.items, "picture"), self._roll
        if roll is not None and roll.filter:
            number = f"{words.count(roll.total)} of " if roll.opened else ""
            shown = f"{number}{shown} · only {clean(roll.filter)}"
        panel.border_title = Text(f"{shown}{self.order_said()}{self.selection_said()}")
        counts = [
            f"{words.MARKS[state]} {words.count(dataset.counts.get(state, 0))} {state}"
            for state in CAPTION_STATES
            if dataset.counts.get(state, 0)
        ]
        problems = []
        if dataset.problems:
            problems.append(f"{words.count(dataset.problems)} unusable")
        if dataset.empty:
            problems.append(f"{words.count(dataset.empty)} without caption")
        panel.border_subtitle = " · ".join([*counts, *problems])

    # ── the pictures of one dataset ─────────────────────────────────────────────────────────────

    def _open(self, dataset: str, *, again: bool = False, item: str = "") -> None:
        self._dataset = dataset
        self._wanted = item
        self.picked.clear()
        cursor = self.items.cursor if again else 0
        if not dataset:
            self._roll = None
            self.items.show(0, lambda i: None, cursor=0)
            self.query_one(StateStrip).show([])
            self.picture.clear()
            self.query_one("#caption", Static).update("")
            self.query_one("#facts", Static).update("")
            return
        filter = self.lora.picture_filters.get(dataset, "")
        self._roll = Roll(self.lora.ask, dataset, filter, self.sort_of(dataset))
        self._load(self._roll, cursor, cursor + 60, cursor, item)
        self._show_title()

    def reopen(self, item: str) -> None:
        self._open(self._dataset, item=item)

    def _load(
        self, roll: Roll, first: int, last: int, cursor: int | None = None, item: str = ""
    ) -> None:
        async def load() -> int | None:
            place = await roll.locate("", item) if item else None
            if place is None:
                await roll.load(first, last)
                return cursor
            await roll.load(place, place + 60)
            return place

        def loaded(cursor: int | None) -> None:
            if roll is self._roll:
                if cursor is not None:
                    self._wanted = ""
                    self.show_strip(now=True)
                self.items.say(
                    "No picture passes this filter (/)." if roll.filter else "No pictures."
                )
                self.items.show(roll.total, self.item_cells, cursor=cursor)
                self._show_item()
                self._show_title()

        self.attempt(load(), loaded, group="items")

    def tile_fetch(self, item: Item) -> Fetch:
        return thumbnail(self, item)

    def _show_selection(self) -> None:
        self._show_title()

    def item_cells(self, index: int) -> Sequence[Cell] | None:
        item = self._roll.at(index) if self._roll is not None else None
        if item is None:
            return None
        state = item.caption.state
        name: Cell = (f"■ {item.name}", "primary") if index in self.picked else item.name
        if item.problem:
            return [("!", "error"), name, ("unusable", "error")]
        remark = state if item.caption.text.strip() else "no caption"
        tone = words.CAPTION_TONES[state] if item.caption.text.strip() else "warning"
        return [(words.MARKS[state], words.CAPTION_TONES[state]), name, (remark, tone)]

    @property
    def item(self) -> Item | None:
        return self._roll.at(self.items.cursor) if self._roll is not None else None

    def _show_item(self) -> None:
        item = self.item
        caption = self.query_one("#caption", Static)
        facts = self.query_one("#facts", Static)
        told = self.query_one("#told", Static)
        panel = self.query_one("#shown")
        if item is None:
            panel.border_title = "picture"
            self.picture.clear()
            caption.update("")
            facts.update("")
            told.update("")
            return
        panel.border_title = clean(item.name)
        caption.update(clean_lines(item.caption.text) or "(no caption)")
        told.update(clean(item.problem or item.caption.text) or "(no caption)")
        caption.set_class(not item.caption.text, "-empty")
        size = f"{bucket_words.size(item)} · {words.size(item.size)}"
        by = words.author(item.caption, self.lora.me)
        state = f"{item.caption.state}, rev {item.caption.rev} by {by}"
        facts.update(clean(item.problem) if item.problem else f"{size} · {state}")
        facts.set_class(bool(item.problem), "-problem")
        if item.problem and not item.width:
            self.picture.clear("This picture cannot be read.")
        else:
            self.picture.show(picture_key(item), thumbnail(self, item))

    def on_rows_moved(self, message: Rows.Moved) -> None:
        if message.rows is self.sets:
            datasets = self.state.datasets
            if message.index < len(datasets) and datasets[message.index].id != self._dataset:
                self._open(datasets[message.index].id)
        elif message.rows is self.items:
            self._show_item()
            self.query_one(StateStrip).stand(message.index, self.items.count)

    def on_rows_wanted(self, message: Rows.Wanted) -> None:
        if self._roll is not None:
            self._load(self._roll, message.first, message.last)

    async def on_rows_chosen(self, message: Rows.Chosen) -> None:
        if message.rows is self.sets:
            self.items.focus()
        else:
            self.app.call_later(self.action_review)

    # ── actions ─────────────────────────────────────────────────────────────────────────────────

    def action_import(self) -> None:
        from lora_tui.screens.importing import Import

        self.app.push_screen(Import(), self._imported)

    def action_again(self) -> None:
        from lora_tui.screens.importing import Import

        if self.dataset is not None:
            self.app.push_screen(Import(self.dataset.path, self.dataset.name), self._imported)

    def _imported(self, dataset: str | None) -> None:
        if dataset:
            self._dataset = ""
            place = next((i for i, d in enumerate(self.state.datasets) if d.id == dataset), None)
            if place is not None:
                self._open(dataset)
                self._show_sets()

    async def action_review(self) -> None:
        from lora_tui.screens.review import Review

        if self.dataset is None:
            self.notify("Import a folder first: press i.")
            return
        self.lora.review_at = (self._dataset, self.item.id if self.item is not None else "")
        await self.lora.action_open(Review.scope)

    async def action_train(self) -> None:
        if self.dataset is not None:
            self.lora.train_with = self.dataset.name
            await self.lora.action_open("train")

    def action_filter(self) -> None:
        dataset = self.dataset
        if dataset is None:
            return

        def chosen(text: str | None) -> None:
            if text is not None:
                self.lora.picture_filters[dataset.id] = text
                if dataset.id == self._dataset:
                    self._open(self._dataset)

        present = self.lora.picture_filters.get(dataset.id, "")
        self.app.push_screen(Filter(dataset, present), chosen)

    def action_export(self) -> None:
        exporting.export(self, self.dataset)

    def action_caption(self) -> None:
        captioning.fill(self, self.dataset)

    def action_health(self) -> None:
        health.look(self, self.dataset)

    def action_delete(self) -> None:
        dataset = self.dataset
        if dataset is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.attempt(self.lora.ask(wire.RemoveDataset(dataset=dataset.id)))

        self.app.push_screen(
            Confirm(
                f"Forget {dataset.name}?",
                f"lora-tui forgets the {words.plural(dataset.items, 'picture')} of this dataset, "
                "their states and their history.\n\nThe pictures and their caption files stay in "
                f"{dataset.path}.",
            ),
            answered,
        )

    def action_cancel(self) -> None:
        under_way = {
            "import": self.lora.imports.running,
            "export": behind.running(self, exporting.GROUP),
            "captioning": behind.running(self, captioning.GROUP),
            "health check": behind.running(self, health.GROUP),
        }
        what = next((name for name, running in under_way.items() if running), "")
        if not what:
            self.notify("No import, export, captioning or check of yours is running.")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.lora.imports.cancel()
                behind.cancel(self, exporting.GROUP)
                behind.cancel(self, captioning.GROUP)
                behind.cancel(self, health.GROUP)

        said = "" if what == "export" else "What is done so far stays; asked again, it goes on."
        self.app.push_screen(
            Confirm(f"Cancel the {what}?", said),
            answered,
        )


def thumbnail(place: Place | Dialog[Any], item: Item) -> Fetch:
    """How to fetch an item's picture at a side in pixels."""

    async def fetch(side: int) -> bytes:
        request = wire.GetThumbnail(dataset=item.dataset, item=item.id, width=side, height=side)
        return await place.lora.picture(request)

    return fetch
