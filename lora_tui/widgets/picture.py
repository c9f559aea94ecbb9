"""A picture in cells, sharp once the cursor rests. It is fetched and worked out off the UI thread;
stale ones are cancelled."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.segment import Segment
from rich.style import Style
from textual.dom import NoScreen
from textual.filter import ANSIToTruecolor, LineFilter
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from lora_tui import pixels
from lora_tui.core.cells import fit
from lora_tui.graphics.canvas import Canvas, Sharp
from lora_tui.pixels import Depth, Picture
from lora_tui.widgets.tones import tone_style
from lora_tui.widgets.waiting import anew
from shared.errors import LoraError

Fetch = Callable[[int], Awaitable[bytes]]  # side in pixels → PNG or JPEG
REST = 0.15  # seconds without another picture until one is worth being sharp
_GONE_ON = 0.25  # the same on a slow link, until one is worth being sent at all
_KEPT = 64  # pictures worked out
_SLOW = (48, 24)  # cells of a picture on a slow link, at most


@dataclass(frozen=True)
class Manner:
    """How pictures are painted here."""

    aspect: float = 2.0  # height of a cell to its width
    slow: bool = False  # the link is


class PictureCache:
    """Pictures worked out lately, by (key, columns, rows, depth), and the bytes behind them."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self.manner = Manner()
        self.canvas: Canvas | None = None  # of a terminal that shows more than cells
        self._pictures: OrderedDict[tuple[str, int, int, Depth, Manner], Picture] = OrderedDict()
        self._blobs: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def get(self, key: str, columns: int, rows: int, depth: Depth) -> Picture | None:
        place = (key, *self._room(columns, rows), depth, self.manner)
        found = self._pictures.get(place)
        if found is not None:
            self._pictures.move_to_end(place)
        return found

    async def make(self, key: str, columns: int, rows: int, depth: Depth, fetch: Fetch) -> Picture:
        """The picture, from here or by fetching. Raises LoraError."""
        found = self.get(key, columns, rows, depth)
        if found is not None:
            return found
        columns, rows = self._room(columns, rows)
        manner = self.manner
        blob = await self.blob(key, pixels.wanted_side(columns, rows), fetch)
        thrift = pixels.FRUGAL if manner.slow else pixels.THRIFT
        picture = await asyncio.to_thread(
            pixels.render, blob, columns, rows, depth, manner.aspect, thrift
        )
        self._pictures[key, columns, rows, depth, manner] = picture
        while len(self._pictures) > self._kept:
            self._pictures.popitem(last=False)
        return picture

    async def blob(self, key: str, side: int, fetch: Fetch) -> bytes:
        """The bytes behind a picture, at most ``side`` pixels wide and high. Raises LoraError."""
        blob = self._blobs.get((key, side))
        if blob is None:
            blob = await fetch(side)
            self._blobs[key, side] = blob
            while sum(map(len, self._blobs.values())) > 16_000_000 and len(self._blobs) > 1:
                self._blobs.popitem(last=False)
        return blob

    def _room(self, columns: int, rows: int) -> tuple[int, int]:
        return (
            (min(columns, _SLOW[0]), min(rows, _SLOW[1])) if self.manner.slow else (columns, rows)
        )


class PictureView(Widget):
    """Shows one picture, or says why not."""

    DEFAULT_CSS = "PictureView { height: 1fr; background: $background; }"

    class Shown(Message):
        """The picture is on screen."""

        def __init__(self, view: PictureView, key: str) -> None:
            super().__init__()
            self.view = view
            self.key = key

    class _Made(Message):
        def __init__(self, key: str, picture: Picture | None, said: str) -> None:
            super().__init__()
            self.key = key
            self.picture = picture
            self.said = said

    class _Sharpened(Message):
        def __init__(self, key: str, sharp: Sharp) -> None:
            super().__init__()
            self.key = key
            self.sharp = sharp

    def __init__(
        self, cache: PictureCache, depth: Callable[[], Depth], *, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._cache = cache
        self._depth = depth
        self._key = ""
        self._fetch: Fetch | None = None
        self._picture: Picture | None = None
        self._sharp: Sharp | None = None
        self._resting: Timer | None = None
        self._waiting: Timer | None = None
        self._making = ""  # the key of the picture that is being made sharp
        self._said = ""
        self._keeps = False
        self._base = Style.null()

    @property
    def shown_key(self) -> str:
        """The key of the picture on screen; empty while there is none."""
        return self._key if self._picture is not None else ""

    @property
    def side(self) -> int:
        """Pixels worth fetching for this widget's size."""
        canvas = self._cache.canvas
        if canvas is not None:
            return pixels.side_for(canvas.side(self.size.width, self.size.height))
        return pixels.wanted_side(self.size.width, self.size.height)

    def show(self, key: str, fetch: Fetch, *, keep: bool = False) -> None:
        """Show the picture of ``key``; nothing happens if it is there already. ``keep``: the one
        before stands until this one is worked out."""
        if key == self._key and (self._picture is not None or self._fetch is not None):
            return
        self._key, self._fetch, self._keeps = key, fetch, keep
        if self._cache.manner.slow and not keep:
            self._put_off()
        else:
            self._start()

    def _put_off(self) -> None:
        """What one goes on from at once would only hold up the words of the next."""
        self.workers.cancel_node(self)
        if self._picture is not None or self._said:
            self._said = ""
            self._take(None)
        self._waiting = anew(self, self._waiting, _GONE_ON, self._start)

    def clear(self, said: str = "") -> None:
        """Show no picture, but a sentence."""
        if self._waiting is not None:
            self._waiting.stop()
        self.workers.cancel_node(self)
        if (self._key, self._picture, self._said) != ("", None, said):
            self._key, self._fetch, self._said = "", None, said
            self._take(None)

    def again(self) -> None:
        """Paint anew: pictures are shown in another way now."""
        self._said = ""
        self.on_resize()

    async def prefetch(self, key: str, fetch: Fetch) -> None:
        """Work a picture out for later, at this widget's size."""
        if self._depth() != "off" and self.size.width and self.size.height:
            await self._cache.make(key, self.size.width, self.size.height, self._depth(), fetch)

    def _start(self) -> None:
        fetch, depth = self._fetch, self._depth()
        columns, rows = self.size.width, self.size.height
        if fetch is None or not columns or not rows:
            return
        if depth == "off":
            self._said = "Pictures are off."
            self._take(None)
            return
        ready = self._cache.get(self._key, columns, rows, depth)
        if ready is not None:
            self.workers.cancel_node(self)
            self._take(ready)
            self.post_message(self.Shown(self, self._key))
            return
        if (self._picture is not None and not self._keeps) or self._said:
            self._said = ""
            self._take(None)
        # The function, not its coroutine: one that is replaced at once was never begun.
        make = partial(self._make, self._key, columns, rows, depth, fetch)
        self.run_worker(make, exclusive=True)  # type: ignore[arg-type]

    async def _make(self, key: str, columns: int, rows: int, depth: Depth, fetch: Fetch) -> None:
        try:
            picture = await self._cache.make(key, columns, rows, depth, fetch)
        except LoraError as error:
            self.post_message(self._Made(key, None, error.message))
        else:
            self.post_message(self._Made(key, picture, ""))

    def on_picture_view__made(self, message: _Made) -> None:
        message.stop()
        if message.key == self._key:  # a stale one says nothing
            self._said = message.said
            self._take(message.picture)
            if message.picture is not None:
                self.post_message(self.Shown(self, message.key))

    def on_resize(self) -> None:
        self._picture = self._sharp = None
        self._start()

    def _take(self, picture: Picture | None) -> None:
        """Paint this; sharp at once if it is with the terminal already, else once it rests."""
        self._picture, self._sharp = picture, None
        canvas = self._cache.canvas
        if canvas is not None and canvas.over:
            canvas.lift(self)
        elif canvas is not None and picture:
            self._sharp = canvas.known(self._key, *_cells(picture))
        self._rest()
        self.refresh()

    # ── sharp ───────────────────────────────────────────────────────────────────────────────────

    def _rest(self) -> None:
        """Begin to wait for the rest anew."""
        if self._resting is not None:
            self._resting.stop()
            self._resting = None
        if self._cache.canvas is not None and self._picture and self._sharp is None:
            self._resting = self.set_timer(REST, self._sharpen)

    def _sharpen(self) -> None:
        self._resting = None
        canvas, picture, fetch = self._cache.canvas, self._picture, self._fetch
        if canvas is None or not picture or fetch is None or self._making == self._key:
            return
        across, down = _cells(picture)
        sharp = canvas.known(self._key, across, down)
        if sharp is not None:
            self._lay(canvas, sharp)
            return
        make = partial(self._make_sharp, canvas, self._key, across, down, fetch)
        self.run_worker(make, group="sharp", exclusive=True)  # type: ignore[arg-type]

    async def _make_sharp(
        self, canvas: Canvas, key: str, across: int, down: int, fetch: Fetch
    ) -> None:
        side = pixels.side_for(canvas.side(across, down))
        self._making = key
        try:
            blob = await self._cache.blob(key, side, fetch)
            sharp = await canvas.make(key, blob, across, down, lambda: self._passed(key))
        except LoraError:
            return  # the half-blocks stay
        finally:
            if self._making == key:
                self._making = ""
        if sharp is not None:
            self.post_message(self._Sharpened(key, sharp))

    def _passed(self, key: str) -> bool:
        """Whether nobody looks at this picture any more. Threads ask it too."""
        try:
            return key != self._key or not self.screen.is_current
        except NoScreen:  # it has just been taken down
            return True

    def on_picture_view__sharpened(self, message: _Sharpened) -> None:
        message.stop()
        canvas, picture, sharp = self._cache.canvas, self._picture, message.sharp
        if canvas is None or message.key != self._key or not picture:
            return
        if _cells(picture) == (sharp.across, sharp.down):
            self._lay(canvas, sharp)
        else:  # it has another size since
            self._rest()

    def _lay(self, canvas: Canvas, sharp: Sharp) -> None:
        if not canvas.over:
            self._sharp = sharp
            self.refresh()
        elif self._uncovered():
            left, top = (self.size.width - sharp.across) // 2, (self.size.height - sharp.down) // 2
            canvas.lay(self, self._key, sharp, self.region.x + left, self.region.y + top)

    def _uncovered(self) -> bool:
        """Whether nothing lies over any part of this."""
        if self.app.screen is not self.screen or not self.is_on_screen:
            return False
        place = self.screen.find_widget(self)
        if place.visible_region != place.region:
            return False
        toasts = self.screen.query("Toast")
        return not any(toast.region.overlaps(place.region) for toast in toasts)

    def render_lines(self, crop: Region) -> list[Strip]:
        """A cell that changes takes away a picture that lay over it: that is sent again."""
        if self._resting is None:
            self._rest()
        self._base = self.rich_style  # once for all lines: it is worked out anew at each asking
        return super().render_lines(crop)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Without the one that looks for colours of the terminal's own, where there are none."""
        filters = super().get_line_filters()
        if self._depth() == "full":
            return [one for one in filters if not isinstance(one, ANSIToTruecolor)]
        return filters

    # ── drawing ─────────────────────────────────────────────────────────────────────────────────

    def render_line(self, y: int) -> Strip:
        base = self._base
        width, height = self.size
        picture = self._picture
        if self._sharp is not None and self._sharp.cells is not None:
            picture = self._sharp.cells
        if picture is None:
            text = fit(self._said, min(width, len(self._said))) if y == height // 2 else ""
            left = (width - len(text)) // 2
            strip = [Segment(" " * left + text, base + tone_style(self, "muted"))]
            return Strip(strip).adjust_cell_length(width, base)
        row = y - (height - len(picture)) // 2
        if not 0 <= row < len(picture):
            return Strip.blank(width, base)
        line = picture[row]
        across = sum(segment.cell_length for segment in line)
        segments = [Segment(" " * ((width - across) // 2), base)]
        segments += [
            part if part.style and part.style.bgcolor else Segment(part.text, base + part.style)
            for part in line
        ]
        return Strip(segments).adjust_cell_length(width, base)


def _cells(picture: Picture) -> tuple[int, int]:
    return sum(segment.cell_length for segment in picture[0]), len(picture)
