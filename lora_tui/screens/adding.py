"""The window that adds a base from where it is typed to be, and what came of it."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static
from textual.worker import Worker

from lora_tui.core import words
from lora_tui.screens.base import Dialog
from lora_tui.screens.importing import Folders
from shared import wire
from shared.addresses import add_base
from shared.errors import LoraError

_FETCHES = "^b: in background · esc: cancel"
_TAKES = "enter: add · tab: complete · esc: leave"


def request_for(what: str, name: str) -> wire.AddBase:
    """What was typed as a request: a path, a Hub id (owner/name[@revision]) or an address.

    Raises LoraError(BAD_REQUEST) for an address that is not taken.
    """
    request = add_base(what) or wire.AddBase(path=str(Path(what).expanduser()))
    return replace(request, name=name)


class AddBase(Dialog[wire.BaseModel | None]):
    """Answers the base once it is there, None when left before."""

    BINDINGS = [
        Binding("escape", "leave", "leave", id="dialog.no", priority=True),
        Binding("ctrl+b", "hide", "in background", id="import.hide"),
        Binding("tab", "complete", "complete", id="import.complete", priority=True),
    ]

    class Said(Message):
        """How far it is; ``error``: why it is over."""

        def __init__(self, text: str, error: bool = False) -> None:
            super().__init__()
            self.text = text
            self.error = error

    class Added(Message):
        """The base is there."""

        def __init__(self, base: wire.BaseModel) -> None:
            super().__init__()
            self.base = base

    def __init__(self) -> None:
        super().__init__()
        self._work: Worker[None] | None = None  # of the app: it may outlive this window

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "Add a base"
            window.border_subtitle = _TAKES
            yield Static(
                "A diffusers folder or a .safetensors file on the daemon's machine, which stays "
                "where it is; owner/name of the Hugging Face Hub; or the https address of a file "
                "or of a page of Civitai, which is fetched.",
                markup=False,
                classes="lead",
            )
            yield Input(
                placeholder="/path/to/model.safetensors",
                compact=True,
                suggester=Folders((".safetensors",)),
                id="what",
            )
            yield Input(placeholder="name (its own if empty)", compact=True, id="name")
            yield Static("", markup=False, id="said")

    def on_mount(self) -> None:
        self.query_one("#what", Input).focus()

    def action_complete(self) -> None:
        field = self.focused
        if isinstance(field, Input) and field.id == "what" and field._suggestion:
            field.action_cursor_right()
        else:
            self.focus_next()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        what = self.query_one("#what", Input).value.strip()
        if self._work is not None:
            return
        if not what:
            self._say("Type a path, a Hub id or an address first.", error=True)
            return
        try:
            request = request_for(what, self.query_one("#name", Input).value.strip())
        except LoraError as error:
            self._say(error.message, error=True)
            return
        self._say("Looking…")
        self.query_one(".window").border_subtitle = _FETCHES
        self._work = self.app.run_worker(self._add(request), group="add base")

    async def _add(self, request: wire.AddBase) -> None:
        app, lora = self.app, self.lora

        def progress(done: int, total: int, text: str) -> None:
            of = f" of {words.size(total)}" if total else ""
            self.post_message(self.Said(f"{words.size(done)}{of}  {text}"))

        try:
            base = await lora.ask(request, on_progress=progress)
        except LoraError as error:
            if self.is_attached:
                self.post_message(self.Said(error.message, error=True))
            else:
                app.notify(error.message, severity="error")
        else:
            if self.is_attached:
                self.post_message(self.Added(base))
            else:
                app.notify(f"{base.name} is added.")

    def on_add_base_said(self, message: Said) -> None:
        if self._work is not None:
            self._say(message.text, error=message.error)
        if message.error:
            self._end()

    def on_add_base_added(self, message: Added) -> None:
        self.dismiss(message.base)

    def _say(self, text: str, *, error: bool = False) -> None:
        said = self.query_one("#said", Static)
        said.update(text)
        said.set_class(error, "-error")

    def _end(self) -> None:
        self._work = None
        self.query_one(".window").border_subtitle = _TAKES

    def action_leave(self) -> None:
        if self._work is None:
            self.dismiss(None)
            return
        self._work.cancel()
        self._end()
        self._say("Cancelled. What was fetched stays; add it again to go on.")

    def action_hide(self) -> None:
        self.dismiss(None)
