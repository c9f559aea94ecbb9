"""Datasets' browser: list or grid, in an order, several pictures chosen, changed as one."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partialmethod

from textual.timer import Timer

from lora_tui.actions import BY_ID
from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.core.roll import Roll
from lora_tui.core.selection import Selection
from lora_tui.screens import framing
from lora_tui.screens.base import Place
from lora_tui.screens.bulk import BulkEdit, kept_text
from lora_tui.screens.dialogs import Choose, Page
from lora_tui.widgets.grid import Grid, Tile
from lora_tui.widgets.picture import Fetch
from lora_tui.widgets.rows import Cell, Rows
from lora_tui.widgets.state_strip import StateStrip
from lora_tui.widgets.waiting import anew
from shared import wire
from shared.framing import stored
from shared.wire import CaptionState, Item

_ORDERS: dict[wire.SortBy, tuple[str, str]] = {
    "path": ("folder and name", "A to Z"),
    "name": ("file name", "A to Z"),
    "size": ("shorter side", "smallest first"),
    "ratio": ("width to height", "tallest first"),
    "tokens": ("tokens of the caption", "fewest first"),
    "state": ("state", "unreviewed first"),
    "changed": ("last change", "oldest first"),
}
_STRIP_AFTER = 0.5  # seconds after a change until the strip is asked for anew


def picture_key(item: Item) -> str:
    """What decides an item's picture: its file, and how it is turned and cropped."""
    return f"{item.id}:{item.content}:{stored(item.framing)}"


class Browsing(Place):
    """Mixed into Datasets."""

    _dataset: str
    _roll: Roll | None
    _strip_timer: Timer | None = None

    def __init__(self) -> None:
        super().__init__()
        self.picked = Selection()

    # What the screen has.

    @property
    def dataset(self) -> wire.Dataset | None:
        raise NotImplementedError

    @property
    def item(self) -> Item | None:
        raise NotImplementedError

    def reopen(self, item: str) -> None:
        """Show the same pictures anew, the cursor on ``item``."""
        raise NotImplementedError

    def tile_fetch(self, item: Item) -> Fetch:
        raise NotImplementedError

    # ── list and grid ───────────────────────────────────────────────────────────────────────────

    @property
    def rows(self) -> Rows:
        return self.query_one("#item-rows", Rows)

    @property
    def grid(self) -> Grid:
        return self.query_one(Grid)

    @property
    def in_grid(self) -> bool:
        return self.has_class("-grid")

    @property
    def items(self) -> Rows:
        """The widget that shows the pictures."""
        return self.grid if self.in_grid else self.rows

    def action_view(self) -> None:
        self.show_grid(not self.in_grid)

    def show_grid(self, grid: bool) -> None:
        """The pictures as a grid, or as a list beside the one under the cursor."""
        old = self.items
        self.set_class(grid, "-grid")
        self.items.show(old.count, self.item_cells, cursor=old.cursor)
        self.items.focus()

    def item_cells(self, index: int) -> Sequence[Cell] | None:
        raise NotImplementedError

    def tile(self, index: int) -> Tile | None:
        item = self._roll.at(index) if self._roll is not None else None
        if item is None:
            return None
        state = item.caption.state
        unusable = bool(item.problem)
        return Tile(
            key="" if unusable and not item.width else picture_key(item),
            fetch=self.tile_fetch(item),
            label=item.name.rpartition("/")[2],
            mark="!" if unusable else words.MARKS[state],
            tone="error" if unusable else words.CAPTION_TONES[state],
            chosen=index in self.picked,
        )

    # ── the strip ───────────────────────────────────────────────────────────────────────────────

    def show_strip(self, *, now: bool = False) -> None:
        """Ask how the whole list stands, once changes have settled."""
        self._strip_timer = anew(
            self, self._strip_timer, 0.01 if now else _STRIP_AFTER, self._ask_strip
        )

    def _ask_strip(self) -> None:
        roll, strip = self._roll, self.query_one(StateStrip)
        if roll is None or not roll.opened or not roll.total or not strip.size.width:
            strip.show([])
            return

        async def ask() -> wire.StateParts:
            request = wire.CountStates(
                dataset=roll.dataset, filter=roll.filter, view=roll.view, sort=roll.sort,
                parts=min(strip.size.width, 1000),
            )  # fmt: skip
            return await self.lora.ask(request)

        def answered(answer: wire.StateParts) -> None:
            if roll is self._roll:
                strip.show(answer.parts)
                strip.stand(self.items.cursor, roll.total)

        self.attempt(ask(), answered, group="strip")

    def on_state_strip_clicked(self, message: StateStrip.Clicked) -> None:
        self.items.cursor = message.place

    # ── order ───────────────────────────────────────────────────────────────────────────────────

    def sort_of(self, dataset: str) -> wire.Sort:
        return self.lora.picture_sorts.get(dataset, wire.Sort())

    def order_said(self) -> str:
        """The order, where it is not the usual one."""
        sort = self.sort_of(self._dataset)
        if sort == wire.Sort():
            return ""
        return f" · by {_ORDERS[sort.by][0]}{' ↓' if sort.descending else ' ↑'}"

    async def action_sort(self) -> None:
        dataset = self.dataset
        if dataset is None:
            return
        present = self.sort_of(dataset.id)

        def chosen(place: int | None) -> None:
            if place is not None:
                by = wire.SORTS[place]
                turned = by == present.by and not present.descending
                self.lora.picture_sorts[dataset.id] = wire.Sort(by=by, descending=turned)
                self.reopen(self.item.id if self.item is not None else "")

        options = []
        for by in wire.SORTS:
            label, way = _ORDERS[by]
            if by == present.by:
                way = "back to this way" if present.descending else "the other way"
            options.append(("", label, way))
        window = Choose("Show pictures in order of", options, chosen=wire.SORTS.index(present.by))
        await self.app.push_screen(window, chosen)  # it is there when this returns

    # ── choosing several ────────────────────────────────────────────────────────────────────────

    def _among_pictures(self) -> bool:
        """Whether keys are for pictures; they would change some that nobody looks at."""
        if self.items.has_focus:
            return True
        self.notify("Go to the pictures first: tab, or enter on the dataset.", timeout=4)
        return False

    def action_select(self) -> None:
        if self._among_pictures() and self.items.count:
            here = self.items.cursor
            self.picked.toggle(here)
            self.items.update_row(here)
            self.items.cursor = min(here + 1, self.items.count - 1)
            self._show_selection()

    def action_stretch(self) -> None:
        if self._among_pictures() and self.items.count:
            self.picked.stretch(self.items.cursor)
            self.items.refresh()
            self._show_selection()

    def action_all(self) -> None:
        if self._roll is not None:
            self.picked.all(self._roll.total)
            self.items.refresh()
            self._show_selection()

    def action_unselect(self) -> None:
        self.picked.clear()
        self.items.refresh()
        self._show_selection()

    def _show_selection(self) -> None:
        raise NotImplementedError

    def selection_said(self) -> str:
        return f" · {words.count(len(self.picked))} chosen" if len(self.picked) else ""

    # ── changing them ───────────────────────────────────────────────────────────────────────────

    def _which(self) -> wire.PreviewEdit | None:
        """The chosen pictures, else the one under the cursor."""
        roll = self._roll
        if roll is None or not roll.total:
            return None
        places = self.picked.spans or [(self.items.cursor, self.items.cursor)]
        return wire.PreviewEdit(
            dataset=roll.dataset, view=roll.view, filter=roll.filter, places=list(places)
        )

    def _set(self, state: CaptionState) -> None:
        from msgspec.structs import replace

        which = self._which() if self._among_pictures() else None
        if which is None:
            return
        one = not self.picked.spans

        async def change() -> wire.Edited:
            preview = await self.lora.ask(replace(which, state=state))
            return await self.lora.ask(wire.ApplyEdit(preview=preview.preview))

        def changed(edited: wire.Edited) -> None:
            if not one:
                self._told(edited)
            elif edited.conflicts:
                self._show_kept(edited)

        self.attempt(change(), changed, group="change")
        if one:
            self.items.cursor = min(self.items.cursor + 1, self.items.count - 1)

    def action_accept(self) -> None:
        self._set("accepted")

    def action_reject(self) -> None:
        self._set("rejected")

    def action_flag(self) -> None:
        self._set("flagged")

    def _turn(self, by: int) -> None:
        which = self._which() if self._among_pictures() else None
        if which is not None:
            ask = wire.FramePictures(
                dataset=which.dataset, view=which.view, filter=which.filter, places=which.places
            )
            framing.turn(self, ask, by)

    action_turn_left = partialmethod(_turn, -90)
    action_turn_right = partialmethod(_turn, 90)

    def action_frame(self) -> None:
        roll = self._roll
        item = roll.at(self.items.cursor) if roll is not None else None
        if item is not None and self._among_pictures():
            framing.edit(self, item)

    async def action_many(self) -> None:
        from msgspec.structs import replace

        roll, dataset = self._roll, self.dataset
        if roll is None or dataset is None or not roll.total:
            return
        number = len(self.picked) or roll.total
        which = self.picked.spans or [(0, roll.total - 1)]
        ask = self._which()
        assert ask is not None
        title = f"Edit {words.plural(number, 'caption')} of {clean(dataset.name)}"

        def changed(edited: wire.Edited | None) -> None:
            if edited is not None:
                self._told(edited)

        # The window is there when this returns: the next key is for it.
        await self.app.push_screen(BulkEdit(replace(ask, places=list(which)), title), changed)

    def _told(self, edited: wire.Edited) -> None:
        self.notify(
            f"{edited.what}: {words.plural(edited.changed, 'caption')} changed. "
            f"{self.lora.keymap.shown(BY_ID['datasets.undo'])} takes it back.",
            markup=False,
        )
        self._show_kept(edited)

    def _show_kept(self, done: wire.Edited | wire.Undone) -> None:
        if done.conflicts:
            title = f"{words.plural(done.conflicts, 'caption')} left alone"
            self.app.push_screen(Page(title, kept_text(done.kept, done.conflicts)))

    def action_undo(self) -> None:
        self._take_back(redo=False)

    def action_redo(self) -> None:
        self._take_back(redo=True)

    def _take_back(self, *, redo: bool) -> None:
        if not self._dataset:
            return
        undo: Awaitable[wire.Undone] = self.lora.ask(
            wire.UndoCaption(dataset=self._dataset, redo=redo)
        )

        def undone(answer: wire.Undone) -> None:
            many = f" ({words.plural(answer.changed, 'caption')})" if answer.changed > 1 else ""
            said = "Done again" if redo else "Taken back"
            self.notify(f"{said}: {answer.what}{many}.", timeout=3, markup=False)
            self._show_kept(answer)

        self.attempt(undo, undone, group="undo")
