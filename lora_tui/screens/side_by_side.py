"""Two pictures side by side, their captions below, the words that only one has marked."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.core import bucket_words, words
from lora_tui.core.cells import clean, clean_lines
from lora_tui.core.differences import pieces
from lora_tui.screens.base import Dialog
from lora_tui.screens.browsing import picture_key
from lora_tui.screens.datasets import thumbnail
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.picture import PictureView
from shared.wire import Item

MOST_SHOWN = 20_000  # characters of a caption


class SideBySide(Dialog[None]):
    """The marked picture at the left, the other one at the right."""

    BINDINGS = [*bindings("page"), Binding("b", "close", "close", id="page.close_beside")]

    def __init__(self, marked: Item, other: Item) -> None:
        super().__init__()
        self._items = (marked, other)

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -whole") as window:
            window.border_title = "side by side"
            window.border_subtitle = "esc: close"
            with Horizontal(id="pair"):
                for side, item in enumerate(self._items):
                    with Vertical(classes="panel") as panel:
                        panel.border_title = f"{clean(item.name)}{' · marked' * (not side)}"
                        yield PictureView(
                            self.lora.picture_cache, self.lora.depth, id=f"picture{side}"
                        )
                        with VerticalScroll(classes="caption", can_focus=False):
                            yield Static(self._caption(side))
                        yield Static(self._facts(item), classes="facts", markup=False)

    def on_mount(self) -> None:
        for side, item in enumerate(self._items):
            view = self.query_one(f"#picture{side}", PictureView)
            if item.problem and not item.width:
                view.clear("This picture cannot be read.")
            else:
                view.show(picture_key(item), thumbnail(self, item))

    def _caption(self, side: int) -> Text:
        """The caption, with the words that the other one has not."""
        own = self._items[side].caption.text[:MOST_SHOWN]
        other = self._items[1 - side].caption.text[:MOST_SHOWN]
        if not own.strip():
            return Text("(no caption)", style=self.lora.tone("warning"))
        text, style = Text(), self.lora.tone("primary bold underline")
        for kind, piece in pieces(other, own):
            if kind != "gone":
                text.append(clean_lines(piece) or piece, style if kind == "new" else None)
        return text

    def _facts(self, item: Item) -> str:
        size = f"{bucket_words.size(item)} · {words.size(item.size)}"
        return f"{words.MARKS[item.caption.state]} {item.caption.state} · {size}"

    def action_close(self) -> None:
        self.dismiss(None)
