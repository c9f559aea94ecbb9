"""Small windows: yes or no, one line of text, one of several, a page to read."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Input, Static

from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.rows import Column, Rows


class Confirm(Dialog[bool]):
    """Asks once before something is stopped or discarded. Answers True for yes."""

    BINDINGS = bindings("dialog")

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = self._title
            yield Static(self._text, markup=False)
            yield self.keys_line("dialog.yes", "dialog.no")

    def action_yes(self) -> None:
        self.dismiss(True)

    def action_no(self) -> None:
        self.dismiss(False)


class AskText(Dialog[str | None]):
    """Asks for one line of text. Answers None when left."""

    BINDINGS = [Binding("escape", "no", "leave", id="dialog.no", priority=True)]

    def __init__(self, title: str, text: str = "", value: str = "", placeholder: str = "") -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._value = value
        self._placeholder = placeholder

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = self._title
            window.border_subtitle = "enter: take it · esc: leave"
            if self._text:
                yield Static(self._text, markup=False)
            yield Input(self._value, placeholder=self._placeholder, compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())

    def action_no(self) -> None:
        self.dismiss(None)


class Choose(Dialog[int | None]):
    """Asks for one of several. Answers its place, or None when left.

    Each option is (key, text, remark); the key chooses at once where there is one.
    """

    BINDINGS = [Binding("escape", "no", "leave", id="dialog.no")]

    def __init__(
        self, title: str, options: Sequence[tuple[str, str, str]], *, chosen: int = 0
    ) -> None:
        super().__init__()
        self._title = title
        self._options = options
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = self._title
            window.border_subtitle = "enter: take it · esc: leave"
            remarks = any(remark for _, _, remark in self._options)  # else the text has their room
            yield Rows(Column("", 1), Column(""), *[Column("", 16, "right")] * remarks)

    def on_mount(self) -> None:
        rows = self.query_one(Rows)
        rows.styles.height = min(len(self._options), 14)
        rows.show(
            len(self._options),
            lambda i: [
                (self._options[i][0], "primary bold"),
                self._options[i][1],
                (self._options[i][2], "muted"),
            ],
            cursor=self._chosen,
        )
        rows.focus()

    def key_of(self, character: str) -> int | None:
        return next(
            (i for i, (key, _, _) in enumerate(self._options) if key and key == character), None
        )

    def on_key(self, event: object) -> None:
        from textual.events import Key

        assert isinstance(event, Key)
        place = self.key_of(event.character or "")
        if place is not None:
            event.stop()
            self.dismiss(place)

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.dismiss(message.index)

    def action_no(self) -> None:
        self.dismiss(None)


class Page(Dialog[None]):
    """Text to read, as long as it is."""

    BINDINGS = bindings("page")

    def __init__(self, title: str, text: str, *, at_end: bool = False) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._at_end = at_end

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -page") as window:
            window.border_title = self._title
            window.border_subtitle = "esc: close"
            with VerticalScroll():
                yield Static(self._text, markup=False, id="text")

    def on_mount(self) -> None:
        scroll = self.query_one(VerticalScroll)
        scroll.focus()
        if self._at_end:
            scroll.scroll_end(animate=False)

    def show(self, text: str) -> None:
        """Another text in the same window."""
        self._text = text
        if self.is_mounted:
            self.query_one("#text", Static).update(text)

    def action_close(self) -> None:
        self.dismiss(None)
