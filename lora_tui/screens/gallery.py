"""Gallery: pictures made here and with other tools, what each was made with; used again, compared,
rated, exported."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial, partialmethod

from msgspec.structs import replace
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.timer import Timer
from textual.widgets import Static

from lora_tui.core import shown_lines, words
from lora_tui.core.cells import clean
from lora_tui.screens import gallery_keeping
from lora_tui.screens.base import Place
from lora_tui.screens.comparing import Compared
from lora_tui.screens.dialogs import AskText, Confirm
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.grid import Grid, Tile
from lora_tui.widgets.picture import Fetch, PictureView
from lora_tui.widgets.rows import Cell, Rows
from lora_tui.widgets.waiting import anew
from shared import gallery, mixes, wire
from shared.errors import Code, LoraError
from shared.gallery import Shown
from shared.pictures import PictureSpec

_NONE = "No pictures yet. Paint one, or import those of another tool (i)."
_ORDERS = tuple(gallery.ORDERS)
_SETTLED = 0.4  # seconds after news until the list is asked for anew
PAGE = 60
_NEWS = (wire.PictureAdded, wire.PictureRemoved, wire.PictureRated, wire.GalleryChanged)


class Gallery(Place):
    scope = "gallery"
    CSS_PATH = "gallery.tcss"
    BINDINGS = bindings("gallery")

    def __init__(self) -> None:
        super().__init__()
        self._filter = ""
        self._order: gallery.Order = "newest"
        self._known: dict[int, Shown] = {}  # by their places in the list
        self._listing = 0  # which answers are of the present list
        self._anew = True  # the next answer begins a list
        self._marked: Shown | None = None
        self._wanted = ""  # the picture to stand on when the list comes
        self._stale: Timer | None = None

    def body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(classes="panel", id="list") as panel:
                panel.border_title = "pictures"
                yield Grid(self.tile, self.lora.picture_cache, self.lora.depth, id="tiles")
            with Vertical(id="right"):
                with Vertical(classes="panel", id="shown"):
                    yield PictureView(self.lora.picture_cache, self.lora.depth, id="picture")
                with Vertical(classes="panel", id="about") as panel:
                    panel.border_title = "made with"
                    with VerticalScroll(can_focus=False):
                        yield Static("", id="info")

    @property
    def grid(self) -> Grid:
        return self.query_one(Grid)

    @property
    def view(self) -> PictureView:
        return self.query_one(PictureView)

    @property
    def here(self) -> Shown | None:
        """The picture under the cursor, if it is loaded."""
        return self._known.get(self.grid.cursor)

    def on_mount(self) -> None:
        self.grid.focus()

    # ── the list ────────────────────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent | None) -> None:
        if not self.built or not (event is None or isinstance(event, _NEWS)):
            return
        if isinstance(event, wire.PictureRated) and not self._by_rating:
            self._rated(event)
            return
        self._stale = anew(self, self._stale, _SETTLED if event else 0.01, self._list)

    def link_changed(self) -> None:
        self.state_changed(None)

    @property
    def _by_rating(self) -> bool:
        return self._order == "best" or "rating:" in self._filter

    def _rated(self, event: wire.PictureRated) -> None:
        for place, one in self._known.items():
            if one.id == event.picture:
                self._known[place] = replace(one, rating=event.rating)
                self.grid.update_row(place)
        self._show()

    def _list(self) -> None:
        """The whole list anew, the cursor on the picture where it was."""
        if not self.is_current or self.lora.connection is None:
            return
        self._listing += 1
        self._anew = True
        self._wanted = self.here.id if self.here is not None else ""
        first = max(self.grid.cursor - PAGE // 2, 0)
        self._ask(first, first + PAGE)

    def _ask(self, first: int, last: int) -> None:
        request = wire.ListGallery(
            filter=self._filter, order=self._order, offset=first, limit=max(last - first + 1, PAGE)
        )
        self.attempt(
            self.lora.ask(request), partial(self._listed, self._listing, first), group="gallery"
        )

    def _listed(self, listing: int, first: int, page: wire.GalleryPage) -> None:
        if listing != self._listing:
            return
        if self._anew:
            self._known, self._anew = {}, False
        self._known |= dict(enumerate(page.pictures, first))
        place = next((at for at, one in self._known.items() if one.id == self._wanted), None)
        self._wanted = ""
        self.grid.say("No picture passes this filter (/)." if self._filter else _NONE)
        self.grid.show(page.total, self._cells, cursor=place)
        shown = words.plural(page.total, "picture")
        only = f" · only {clean(self._filter)}" if self._filter else ""
        panel = self.query_one("#list")
        panel.border_title = Text(f"{shown}{only}")
        panel.border_subtitle = gallery.ORDERS[self._order]
        self._show()

    def on_rows_wanted(self, message: Rows.Wanted) -> None:
        self._ask(message.first, message.last)

    def _cells(self, index: int) -> Sequence[Cell] | None:
        one = self._known.get(index)
        return None if one is None else [one.id, str(one.rating)]

    def tile(self, index: int) -> Tile | None:
        one = self._known.get(index)
        if one is None:
            return None
        name = one.made.prompt or one.path.rsplit("/", 1)[-1]
        return Tile(
            key="" if one.problem else f"g:{one.id}:{one.created}",
            fetch=fetch(self, one),
            label=clean(name),
            mark="!" if one.problem else str(one.rating or "·"),
            tone="error" if one.problem else "warning" if one.rating else "faint",
            chosen=self._marked is not None and self._marked.id == one.id,
        )

    def on_rows_moved(self, message: Rows.Moved) -> None:
        self._show()

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        if self.here is not None:
            self.app.push_screen(Compared([self.here]))

    def _show(self) -> None:
        """The picture under the cursor, and what it was made with."""
        one = self.here
        panel, info = self.query_one("#shown"), self.query_one("#info", Static)
        if one is None:
            panel.border_title = ""
            self.view.clear()
            info.update("")
            return
        panel.border_title = Text(clean(one.path.rsplit("/", 1)[-1]))
        panel.border_subtitle = shown_lines.stars(one.rating) if one.rating else ""
        if one.problem:
            self.view.clear(one.problem)
        else:
            self.view.show(f"g:{one.id}:{one.created}", fetch(self, one))
        info.update(lines(self, one))

    # ── keys ────────────────────────────────────────────────────────────────────────────────────

    def action_filter(self) -> None:
        def typed(text: str | None) -> None:
            if text is None:
                return
            try:
                gallery.reader(text)
            except LoraError as error:
                self.notify(error.message, severity="warning", timeout=8, markup=False)
                return
            self._filter = " ".join(text.split())
            self.state_changed(None)

        self.app.push_screen(
            AskText(
                "Show pictures with",
                "Words, and rating:4  from:imported  tool:comfyui  model:…  lora:…  seed:…  -word",
                self._filter,
            ),
            typed,
        )

    def action_sort(self) -> None:
        self._order = _ORDERS[(_ORDERS.index(self._order) + 1) % len(_ORDERS)]
        self.state_changed(None)

    def _rate(self, rating: int) -> None:
        if (one := self.here) is not None:
            self.attempt(self.lora.ask(wire.RatePicture(picture=one.id, rating=rating)))

    action_rate_0 = partialmethod(_rate, 0)
    action_rate_1 = partialmethod(_rate, 1)
    action_rate_2 = partialmethod(_rate, 2)
    action_rate_3 = partialmethod(_rate, 3)
    action_rate_4 = partialmethod(_rate, 4)
    action_rate_5 = partialmethod(_rate, 5)

    def action_mark(self) -> None:
        one = self.here
        same = one is not None and self._marked is not None and one.id == self._marked.id
        self._marked = None if same else one
        self.grid.refresh()

    def action_beside(self) -> None:
        one = self.here
        if one is None:
            return
        if self._marked is None or self._marked.id == one.id:
            self.notify("Mark another picture first: space.", timeout=3)
        else:
            self.app.push_screen(Compared([self._marked, one]))

    def action_mix(self) -> None:
        """All that made the picture, into the live mix."""
        if (one := self.here) is None:
            return

        async def turn() -> list[str]:
            found = await self.lora.ask(wire.GetGalleryPicture(picture=one.id))
            live = next((mix.spec for mix in self.state.mixes if not mix.name), None)
            if live is None:
                raise LoraError(Code.NOT_FOUND, "The daemon has not told its mix yet: try again.")
            after = mixes.of_picture(found.spec, live)
            if after != live:
                await self.lora.ask(wire.ChangeMix(before=live, after=after))
            return [*found.left, *mixes.left_of(found.spec)]

        def turned(left: list[str]) -> None:
            for text in left:
                self.notify(text, severity="warning", timeout=10, markup=False)
            self.run_worker(self.lora.action_open("mixer"))

        self.attempt(turn(), turned, group="again")

    def action_again(self) -> None:
        self._paint(lambda spec: spec)

    def action_seed(self) -> None:
        self._paint(lambda spec: replace(spec, seed=random.randrange(2**31)))

    def _paint(self, changed: Callable[[PictureSpec], PictureSpec]) -> None:
        """Paint the picture once more; it comes to stand in the gallery."""
        if (one := self.here) is None:
            return

        async def paint() -> wire.Picture:
            found = await self.lora.ask(wire.GetGalleryPicture(picture=one.id))
            for text in found.left:
                self.notify(text, severity="warning", timeout=10, markup=False)
            return await self.lora.ask(wire.Generate(spec=changed(found.spec)))

        def painted(picture: wire.Picture) -> None:
            for note in picture.notes:
                self.notify(note, severity="warning", timeout=10, markup=False)
            self.notify(f"{picture.path} is there.")

        self.notify("Painting; X gives it up.", timeout=3)
        self.attempt(paint(), painted, group="paint")

    def action_cancel(self) -> None:
        self.workers.cancel_group(self, "paint")

    def action_copy(self) -> None:
        if (one := self.here) is not None:
            gallery_keeping.copy(self, one)

    def action_import(self) -> None:
        gallery_keeping.bring_in(self)

    def action_export(self) -> None:
        self._export(bare=False)

    def action_export_bare(self) -> None:
        self._export(bare=True)

    def _export(self, *, bare: bool) -> None:
        if (one := self.here) is not None:
            gallery_keeping.export(self, one, bare=bare)

    def action_remove(self) -> None:
        if (one := self.here) is None:
            return
        imported = one.origin == "imported"
        what = "The file stays where it is" if imported else "Its file is deleted"

        def answered(yes: bool | None) -> None:
            if yes:
                self.attempt(self.lora.ask(wire.RemovePicture(picture=one.id)))

        title = "Forget this picture?" if imported else "Delete this picture?"
        self.app.push_screen(Confirm(title, f"{what}: {clean(one.path)}"), answered)


def fetch(place: Place | Compared, one: Shown) -> Fetch:
    """How to fetch a picture of the gallery at a side in pixels."""

    async def ask(side: int) -> bytes:
        request = wire.GetGalleryPicture(picture=one.id, side=min(max(side, 1), 2048))
        return await place.lora.picture(request)

    return ask


def lines(place: Place | Compared, one: Shown, other: Shown | None = None) -> Text:
    """What a picture was made with; what is otherwise in ``other`` stands out."""
    mine = shown_lines.about(one)
    theirs = dict(shown_lines.about(other)) if other is not None else None
    said = Text()
    for name, value in mine:
        said.append(f"{name}  ", place.lora.tone("muted"))
        same = theirs is None or theirs.get(name) == value
        said.append(f"{clean(value)}\n", "" if same else place.lora.tone("primary bold"))
    return said
