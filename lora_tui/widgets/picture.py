"""A picture in cells. It is fetched and worked out off the UI thread; stale ones are cancelled."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

from rich.segment import Segment
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from lora_tui import pixels
from lora_tui.core.cells import fit
from lora_tui.pixels import Depth, Picture
from lora_tui.widgets.tones import tone_style
from shared.errors import LoraError

Fetch = Callable[[int], Awaitable[bytes]]  # side in pixels → PNG or JPEG
_KEPT = 64  # pictures worked out


class PictureCache:
    """Pictures worked out lately, by (key, columns, rows, depth), and the bytes behind them."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[tuple[str, int, int, Depth], Picture] = OrderedDict()
        self._blobs: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def get(self, key: str, columns: int, rows: int, depth: Depth) -> Picture | None:
        place = (key, columns, rows, depth)
        found = self._pictures.get(place)
        if found is not None:
            self._pictures.move_to_end(place)
        return found

    async def make(self, key: str, columns: int, rows: int, depth: Depth, fetch: Fetch) -> Picture:
        """The picture, from here or by fetching. Raises LoraError."""
        found = self.get(key, columns, rows, depth)
        if found is not None:
            return found
        side = pixels.wanted_side(columns, rows)
        blob = self._blobs.get((key, side))
        if blob is None:
            blob = await fetch(side)
            self._blobs[key, side] = blob
            while sum(map(len, self._blobs.values())) > 16_000_000 and len(self._blobs) > 1:
                self._blobs.popitem(last=False)
        picture = await asyncio.to_thread(pixels.render, blob, columns, rows, depth)
        self._pictures[key, columns, rows, depth] = picture
        while len(self._pictures) > _KEPT:
            self._pictures.popitem(last=False)
        return picture


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

    def __init__(
        self, cache: PictureCache, depth: Callable[[], Depth], *, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._cache = cache
        self._depth = depth
        self._key = ""
        self._fetch: Fetch | None = None
        self._picture: Picture | None = None
        self._said = ""
        self._keeps = False

    @property
    def shown_key(self) -> str:
        """The key of the picture on screen; empty while there is none."""
        return self._key if self._picture is not None else ""

    def show(self, key: str, fetch: Fetch, *, keep: bool = False) -> None:
        """Show the picture of ``key``; nothing happens if it is there already. ``keep``: the one
        before stands until this one is worked out."""
        if key == self._key and (self._picture is not None or self._fetch is not None):
            return
        self._key, self._fetch, self._keeps = key, fetch, keep
        self._start()

    def clear(self, said: str = "") -> None:
        """Show no picture, but a sentence."""
        self.workers.cancel_node(self)
        if (self._key, self._picture, self._said) != ("", None, said):
            self._key, self._fetch, self._picture, self._said = "", None, None, said
            self.refresh()

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
            self._picture, self._said = None, "Pictures are off."
            self.refresh()
            return
        ready = self._cache.get(self._key, columns, rows, depth)
        if ready is not None:
            self.workers.cancel_node(self)
            self._picture = ready
            self.refresh()
            self.post_message(self.Shown(self, self._key))
            return
        if (self._picture is not None and not self._keeps) or self._said:
            self._picture, self._said = None, ""
            self.refresh()
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
            self._picture, self._said = message.picture, message.said
            self.refresh()
            if message.picture is not None:
                self.post_message(self.Shown(self, message.key))

    def on_resize(self) -> None:
        self._picture = None
        self._start()

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        width, height = self.size
        if self._picture is None:
            text = fit(self._said, min(width, len(self._said))) if y == height // 2 else ""
            left = (width - len(text)) // 2
            strip = [Segment(" " * left + text, base + tone_style(self, "muted"))]
            return Strip(strip).adjust_cell_length(width, base)
        row = y - (height - len(self._picture)) // 2
        if not 0 <= row < len(self._picture):
            return Strip.blank(width, base)
        line = self._picture[row]
        across = sum(len(segment.text) for segment in line)
        segments = [Segment(" " * ((width - across) // 2), base)]
        segments += [Segment(part.text, base + part.style) for part in line]
        return Strip(segments).adjust_cell_length(width, base)
