"""Review's eyes: which pictures, which of them, and how it looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.timer import Timer
from textual.widgets import Static

from lora_tui.core import bucket_words, words
from lora_tui.core.cells import clean
from lora_tui.core.pace import Pace
from lora_tui.core.roll import Roll
from lora_tui.screens.base import Place
from lora_tui.screens.browsing import picture_key
from lora_tui.screens.datasets import thumbnail
from lora_tui.widgets.caption import MOST_EDITED, CaptionField, Filmstrip
from lora_tui.widgets.chips import Chips
from lora_tui.widgets.offers import Offers
from lora_tui.widgets.picture import PictureView
from lora_tui.widgets.steady import FewLines, Panel
from lora_tui.widgets.suggestions import Suggestions
from lora_tui.widgets.tag_entry import TagEntry
from lora_tui.widgets.waiting import anew
from shared import wire
from shared.errors import LoraError
from shared.tags import is_list
from shared.wire import Item

COUNTED = 0.2  # seconds without a change until it is said how many are left
NEAR = 10  # pictures on either side that tell what kind of captions these are


class Showing(Place):
    """Shows the picture at a place of the roll; changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._dataset = ""
        self._roll: Roll | None = None
        self._place = 0
        self._wanted = ""  # the item to open at, while it is being looked for
        self._steps = 0  # of navigation; a search that comes late sees that it is stale
        self._edited: tuple[Item, int] | None = None  # the item in the field and its revision
        self._kept: Timer | None = None
        self._counting: Timer | None = None
        self._pace = Pace()

    def body(self) -> ComposeResult:
        with Horizontal():
            with Panel(classes="panel", id="left") as panel:
                panel.entitle("review")
                yield PictureView(self.lora.picture_cache, self.lora.depth, id="picture")
                yield Filmstrip(id="strip")
            with Panel(classes="panel", id="right") as panel:
                panel.entitle("caption")
                suggestions = Suggestions()
                yield CaptionField(self._left_field, suggestions, id="text")
                yield Chips(self._left_field, self._chip_asked, id="chips")
                yield TagEntry(suggestions, self._tag_typed)
                yield suggestions
                yield FewLines(id="state")
                yield FewLines(id="facts", markup=False)
                yield Static(id="who", markup=False)
                yield Offers(id="offers")

    @property
    def field(self) -> CaptionField:
        return self.query_one(CaptionField)

    @property
    def chips(self) -> Chips:
        return self.query_one(Chips)

    @property
    def picture(self) -> PictureView:
        return self.query_one(PictureView)

    @property
    def dataset(self) -> wire.Dataset | None:
        return next((d for d in self.state.datasets if d.id == self._dataset), None)

    @property
    def item(self) -> Item | None:
        """The picture on screen, if it is loaded; a key can change no other."""
        return self._roll.at(self._place) if self._roll is not None else None

    def _left_field(self, text: str, advance: bool) -> None:
        """The person left the caption's field, or its tags."""
        raise NotImplementedError

    def _chip_asked(self, name: str) -> None:
        """A key among the tags that needs more than them."""
        raise NotImplementedError

    def _tag_typed(self, tag: str | None, more: bool) -> None:
        """A tag was typed; None: it was given up."""
        raise NotImplementedError

    async def action_grid(self) -> None:
        item = self.item
        if item is not None:
            self.lora.browse_at = (self._dataset, item.id)
            await self.lora.action_open("datasets")

    # ── opening ─────────────────────────────────────────────────────────────────────────────────

    def _open(self, dataset: str, item: str) -> None:
        if self._edited is not None:
            return  # the field goes first; it is taken up again when the screen is shown next
        self._dataset = dataset
        self._wanted = item
        self._steps += 1
        if not dataset:
            self._roll = None
            self._show()
            return
        filter = self.lora.picture_filters.get(dataset, "")
        roll = Roll(self.lora.ask, dataset, filter, self.lora.picture_sorts.get(dataset))
        self.attempt(self._opened(roll, item, self._steps), group="open")

    async def _opened(self, roll: Roll, item: str, step: int) -> None:
        place = 0
        await roll.load(0, 0)
        if item:
            with contextlib.suppress(LoraError):  # it is gone: begin at the first
                name = (await self.lora.ask(wire.GetItem(dataset=roll.dataset, item=item))).name
                place = await roll.locate(name, item) or 0
        if step == self._steps:
            if roll.filter and not roll.total:
                self.notify(f"No picture passes {clean(roll.filter)}: all are shown.", markup=False)
                self.lora.picture_filters.pop(self._dataset, None)
                self._open(self._dataset, item)
                return
            self._roll = roll
            self._place = place
            self._wanted = ""
            self._show()

    # ── what is on screen ───────────────────────────────────────────────────────────────────────

    def _show(self) -> None:
        self._show_title()
        item = self.item
        if self._roll is None or not self._roll.total:
            self.show_caption("")
            self.picture.clear(
                "No pictures. Import a folder on the Datasets screen (g d)."
                if self.lora.connection is not None
                else "Connecting to the daemon…"
            )
            self.query_one("#state", Static).update("")
            self.query_one("#facts", Static).update("")
            self.query_one("#strip", Filmstrip).show(lambda place: None, 0, 0)
            self.query_one(Offers).show("", [])
            return
        if item is None:
            self.show_caption("…")
            self.picture.clear()
            self._load(self._place)
        else:
            self._show_current(item)
            self.show_picture(item)
        self._look_ahead()

    def show_picture(self, item: Item) -> None:
        if item.problem and not item.width:
            self.picture.clear("This picture cannot be read.")
        else:
            self.picture.show(picture_key(item), thumbnail(self, item))

    def _show_current(self, item: Item) -> None:
        """The caption and its state, if this is the item on screen; the strip in any case."""
        roll = self._roll
        if roll is None:
            return
        self.query_one("#strip", Filmstrip).show(roll.at, self._place, roll.total)
        if self.item is None or item.id != self.item.id:
            return
        caption = item.caption
        self.query_one("#right", Panel).entitle(f"caption of {clean(item.name)}")
        if self._edited is None:
            self.show_caption(caption.text)
            self.query_one(Offers).show(caption.text)
        tone = self.lora.tone(f"{words.CAPTION_TONES[caption.state]} bold")
        state = Text.assemble((f"{words.MARKS[caption.state]} {caption.state}\n", tone))
        state.append(
            f"rev {caption.rev} · by {words.author(caption, self.lora.me)} · "
            f"{words.ago(caption.at)}",
            self.lora.tone("muted"),
        )
        self.query_one("#state", Static).update(state)
        size = f"{bucket_words.size(item)} · {words.size(item.size)}"
        number = len(caption.text.split())
        facts = clean(item.problem) or f"{words.plural(number, 'word')} · {size}"
        self.query_one("#facts", Static).update(facts)
        self.query_one("#facts").set_class(bool(item.problem), "-problem")

    def show_caption(self, text: str) -> None:
        """A caption to read: its tags one by one, or the text as it stands."""
        tags = self._as_tags(text)
        self._shape(tags)
        if tags:
            self.chips.show(text)
        else:
            self.field.show(text)

    def _shape(self, tags: bool) -> None:
        if self.chips.display != tags:
            self.chips.display, self.field.display = tags, not tags

    def _as_tags(self, text: str) -> bool:
        """Whether a caption is shown as tags: as somebody has said for the dataset, else as it
        reads, and where that does not tell, as those around it read."""
        said = self.lora.caption_shapes.get(self._dataset)
        if len(text) > MOST_EDITED or not text.strip():
            return False
        if said is None:
            said = is_list(text)
        if said is None and self._roll is not None:
            near = range(self._place - NEAR, self._place + NEAR + 1)
            items = [item for place in near if (item := self._roll.at(place)) is not None]
            read = [is_list(item.caption.text) for item in items]
            said = read.count(True) > read.count(False)
        return bool(said)

    def count_later(self) -> None:
        """Say how many are left once nobody goes on: each caption accepted makes it one less."""
        self._counting = anew(self, self._counting, COUNTED, self._show_title)

    def _show_title(self) -> None:
        panel = self.query_one("#left", Panel)
        dataset = self.dataset
        if dataset is None:
            panel.entitle("review")
            return
        left = dataset.counts.get("unreviewed", 0)
        reviewed = f"{words.count(dataset.items - left)}/{words.count(dataset.items)} reviewed"
        only = f" · only {clean(self._roll.filter)}" if self._roll and self._roll.filter else ""
        place = ""
        if self._roll is not None and self._roll.total:
            at = f"{words.count(self._place + 1)} of {words.count(self._roll.total)}"
            seconds = self._pace.seconds
            pace = (
                f" · {60 / seconds:.0f}/min · {words.duration(left * seconds)}" if seconds else ""
            )
            place = f"{at} · {words.count(left)} left{pace}"
        panel.entitle(f"{clean(dataset.name)} · {reviewed}{only}", place)

    def _load(self, place: int, then: Callable[[], None] | None = None) -> None:
        roll = self._roll
        if roll is None:
            return

        async def load() -> int:
            await roll.load(place, place)
            return place

        def loaded(at: int) -> None:
            if roll is self._roll and at == self._place and self.item is not None:
                self._show()

        self.attempt(load(), loaded, group="page")

    def _look_ahead(self) -> None:
        """Have the next pages and pictures at hand before they are asked for."""
        roll, place, picture = self._roll, self._place, self.picture
        if roll is None:
            return

        async def ahead() -> None:
            try:
                if roll.missing(place + 1, place + 40):
                    await roll.load(place + 1, place + 40)
                for near in (place + 1, place + 2, place - 1):
                    item = roll.at(near)
                    if item is not None and item.width:
                        await picture.prefetch(picture_key(item), thumbnail(self, item))
            except LoraError:
                pass  # it is said when the picture itself is shown

        # The function, not its coroutine: one that is replaced at once was never begun.
        self.run_worker(ahead, group="ahead", exclusive=True)  # type: ignore[arg-type]
