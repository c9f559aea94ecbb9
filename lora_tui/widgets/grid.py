"""Pictures beside and below each other, as many as there are: only those on screen are fetched,
and those that come next in the direction of the cursor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip

from lora_tui.core.cells import fit
from lora_tui.pixels import Depth, Picture
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.picture import Fetch, PictureCache
from lora_tui.widgets.rows import Cell, Column, Rows
from lora_tui.widgets.tones import tone_style
from shared.errors import LoraError

WIDE, HIGH = 18, 10  # cells of a tile with its label and the gaps, at least
_AT_ONCE = 6  # pictures under way


@dataclass(frozen=True)
class Tile:
    """A picture of the grid. ``key`` is empty where there is none to show."""

    key: str
    fetch: Fetch
    label: str
    mark: str
    tone: str
    chosen: bool = False


class Grid(Rows):
    """Rows with several pictures each; a picture's number is its place in the list."""

    BINDINGS = bindings("grid")

    class Made(Message):
        """A picture was worked out."""

        def __init__(self, grid: Grid, index: int) -> None:
            super().__init__()
            self.grid = grid
            self.index = index

    def __init__(
        self,
        tile: Callable[[int], Tile | None],
        shared: PictureCache,
        depth: Callable[[], Depth],
        *,
        id: str | None = None,
    ) -> None:
        super().__init__(Column(""), id=id)
        self._tile = tile
        self._shared = shared  # says in what manner pictures are painted
        self._pictures = PictureCache(kept=400)
        self._depth = depth
        self._failed: set[str] = set()
        self._forward = True

    # ── where things are ────────────────────────────────────────────────────────────────────────

    @property
    def across(self) -> int:
        """Pictures side by side."""
        return max(self.scrollable_content_region.width // WIDE, 1)

    @property
    def _wide(self) -> int:
        return max(self.scrollable_content_region.width // self.across, 1)

    @property
    def _high(self) -> int:
        return HIGH if self._depth() != "off" else 2

    def show(
        self,
        count: int,
        cells: Callable[[int], Sequence[Cell] | None],
        *,
        cursor: int | None = None,
    ) -> None:
        super().show(count, cells, cursor=cursor)
        self._measure()

    def _measure(self) -> None:
        self.virtual_size = Size(1, -(-self.count // self.across) * self._high)
        self._bring_into_view()
        self._look()

    def on_resize(self) -> None:
        self._measure()

    def update_row(self, index: int) -> None:
        self._refresh_line(index)

    def _refresh_line(self, index: int) -> None:
        row, column = divmod(index, self.across)
        y = row * self._high - self.scroll_offset.y
        if -self._high < y < self.size.height:
            self.refresh(Region(column * self._wide, max(y, 0), self._wide, self._high + min(y, 0)))

    def _bring_into_view(self) -> None:
        top = self.cursor // self.across * self._high
        height = max(self.scrollable_content_region.height, 1)
        if top < self.scroll_offset.y:
            self.scroll_to(y=top, animate=False, force=True)
        elif top + self._high > self.scroll_offset.y + height:
            self.scroll_to(y=top + self._high - height, animate=False, force=True)

    # ── the cursor ──────────────────────────────────────────────────────────────────────────────

    def watch_cursor(self, old: int, new: int) -> None:
        super().watch_cursor(old, new)
        self._forward = new >= old
        self._look()

    def action_up(self) -> None:
        self._move(-self.across if self.cursor >= self.across else 0)

    def action_down(self) -> None:
        rest = self.count - 1 - self.cursor
        self._move(min(self.across, rest) if rest >= self._beyond() else 0)

    def _beyond(self) -> int:
        """Pictures after the cursor's in its own line, and one."""
        return self.across - self.cursor % self.across

    def action_left(self) -> None:
        self._move(-1)

    def action_right(self) -> None:
        self._move(1)

    def _page(self) -> int:
        return max(self.scrollable_content_region.height // self._high, 1) * self.across

    def on_click(self, event: events.Click) -> None:
        row = (event.y + self.scroll_offset.y) // self._high
        index = row * self.across + event.x // self._wide
        if event.x // self._wide < self.across and index < self.count:
            if index == self.cursor and event.chain > 1:
                self.action_choose()
            self.cursor = index

    def watch_scroll_y(self, old: float, new: float) -> None:
        super().watch_scroll_y(old, new)
        self._look()

    # ── pictures ────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        """Fetch what is on screen, then what comes next; what has gone by is given up."""
        if self.count and self.display and self._depth() != "off" and self.size.height:
            self.run_worker(self._fetch_tiles, group="tiles", exclusive=True)  # type: ignore[arg-type]

    def again(self) -> None:
        """Pictures are painted in another way now."""
        self._failed.clear()
        self._measure()
        self.refresh()

    def _seen(self) -> range:
        first = int(self.scroll_offset.y) // self._high * self.across
        rows = self.size.height // self._high + 2
        return range(first, min(first + rows * self.across, self.count))

    async def _fetch_tiles(self) -> None:
        self._pictures.manner = self._shared.manner
        seen = self._seen()
        many = 0 if self._shared.manner.slow else len(seen)
        after = range(seen.stop, min(seen.stop + many, self.count))
        before = range(seen.start - 1, max(seen.start - many, 0) - 1, -1)
        ahead = [*after, *before] if self._forward else [*before, *after]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(index: int) -> None:
            async with gate:
                tile = self._tile(index)
                if tile is not None and tile.key and tile.key not in self._failed:
                    await self._make(index, tile)

        async with asyncio.TaskGroup() as group:
            for index in [*seen, *ahead[: len(seen)]]:
                group.create_task(one(index))

    async def _make(self, index: int, tile: Tile) -> None:
        if self._picture(tile) is not None:
            return
        size = (self._wide - 2, self._high - 2)
        try:
            await self._pictures.make(tile.key, *size, self._depth(), tile.fetch)
        except LoraError:
            self._failed.add(tile.key)  # its row says what is wrong with it
        self.post_message(self.Made(self, index))

    def _picture(self, tile: Tile) -> Picture | None:
        return self._pictures.get(tile.key, self._wide - 2, self._high - 2, self._depth())

    def on_grid_made(self, message: Made) -> None:
        message.stop()
        self._refresh_line(message.index)

    # ── drawing ─────────────────────────────────────────────────────────────────────────────────

    def render_line(self, y: int) -> Strip:
        base, width = self.rich_style, self.scrollable_content_region.width
        if not self.count:
            return super().render_line(y)
        row, line = divmod(y + int(self.scroll_offset.y), self._high)
        segments: list[Segment] = []
        for index in range(row * self.across, min((row + 1) * self.across, self.count)):
            segments += self._part(index, line, base)
        return Strip(segments).adjust_cell_length(width, base)

    def _part(self, index: int, line: int, base: Style) -> list[Segment]:
        """One line of one picture."""
        room = self._wide - 2
        edge = " "
        if index == self.cursor:
            edge = "▌"
            kind = "rows--cursor" if self.has_focus else "rows--blurred"
            base += self.get_component_rich_style(kind, partial=True)
        side = Segment(edge, base + tone_style(self, "primary") if edge != " " else base)
        tile = self._tile(index)
        if tile is None:
            self._want(index)
            text = fit("…" if line == self._high - 2 else "", room)
            return [side, Segment(f"{text} ", base)]
        if line == self._high - 2:
            chosen = "■ " if tile.chosen else ""
            label = fit(tile.label, room - 2 - len(chosen))
            return [
                side,
                Segment(f"{tile.mark} ", base + tone_style(self, tile.tone)),
                Segment(chosen, base + tone_style(self, "primary bold")),
                Segment(f"{label} ", base),
            ]
        if line > self._high - 2:
            return [Segment(" " * self._wide, self.rich_style)]
        return [side, *self._pixels(tile, line, room, base), Segment(" ", base)]

    def _pixels(self, tile: Tile, line: int, room: int, base: Style) -> list[Segment]:
        picture = self._picture(tile) if tile.key else None
        if picture is None:
            wait = "" if tile.key and tile.key not in self._failed else "no picture"
            text = fit(wait.center(room) if line == self._high // 2 - 1 else "", room)
            return [Segment(text, base + tone_style(self, "faint"))]
        row = line - (self._high - 2 - len(picture)) // 2
        if not 0 <= row < len(picture):
            return [Segment(" " * room, base)]
        left = (room - sum(segment.cell_length for segment in picture[row])) // 2
        strip = Strip(
            [Segment(" " * left, base)]
            + [Segment(part.text, base + part.style) for part in picture[row]]
        )
        return list(strip.adjust_cell_length(room, base))

    def _want(self, index: int) -> None:
        seen = self._seen()
        if self._asked is None or not self._asked[0] <= index <= self._asked[1]:
            self._asked = (seen.start, max(seen.stop - 1, seen.start))
            self.post_message(self.Wanted(self, *self._asked))
