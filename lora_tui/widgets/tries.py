"""The strip of what has been tried: small pictures with the keys that bring them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Static

from lora_tui.pixels import Depth
from lora_tui.widgets.picture import Fetch, PictureCache, PictureView

MANY = 9  # as many as there are digits


class Try(Vertical):
    """One of them."""

    class Clicked(Message):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, number: int, cache: PictureCache, depth: Callable[[], Depth]) -> None:
        super().__init__()
        self._number = number
        self._cache, self._depth = cache, depth

    def compose(self) -> ComposeResult:
        yield PictureView(self._cache, self._depth)
        yield Static("", markup=False)

    def show(self, key: str, fetch: Fetch, said: str, *, here: bool) -> None:
        self.query_one(PictureView).show(key, fetch, keep=True)
        self.query_one(Static).update(f"{self._number} {said}")
        self.set_class(here, "-here")

    def clear(self) -> None:
        self.query_one(PictureView).clear()
        self.query_one(Static).update("")
        self.remove_class("-here")

    def on_click(self, event: events.Click) -> None:
        self.post_message(self.Clicked(self._number))


class Tries(Horizontal):
    """Up to nine, the newest first."""

    DEFAULT_CSS = """
    Tries Try { width: 1fr; padding: 0 1 0 0; }
    Tries Try PictureView { height: 1fr; }
    Tries Try Static { height: 1; color: $muted; text-align: center; text-overflow: ellipsis;
        text-wrap: nowrap; }
    Tries Try.-here Static { color: $primary; text-style: bold reverse; }
    """

    def __init__(
        self, cache: PictureCache, depth: Callable[[], Depth], *, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._tries = [Try(number, cache, depth) for number in range(1, MANY + 1)]

    def compose(self) -> ComposeResult:
        yield from self._tries

    def show(self, tries: Sequence[tuple[str, Fetch, str, bool]]) -> None:
        """(key, how to fetch, what it is, whether it is the one on screen) of each."""
        for place, widget in enumerate(self._tries):
            if place < len(tries):
                key, fetch, said, here = tries[place]
                widget.show(key, fetch, said, here=here)
            else:
                widget.clear()
