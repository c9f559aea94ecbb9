"""The window that adds a base: a path or a Hub id, then progress, then what came of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static

from lora_tui.core import words
from lora_tui.screens.base import Dialog
from lora_tui.screens.importing import Folders
from shared import wire
from shared.errors import LoraError

_HUB = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")


def request_for(what: str, name: str) -> wire.AddBase:
    """What was typed as a request: a path begins with / or ~, a Hub id is owner/name[@revision]."""
    if (match := _HUB.fullmatch(what)) is None or what.startswith("."):
        return wire.AddBase(path=str(Path(what).expanduser()), name=name)
    hub = wire.FromHub(
        id=match["id"],
        revision=match["revision"] or "",
        token=os.environ.get("HF_TOKEN", ""),
        mirror=os.environ.get("HF_ENDPOINT", ""),
    )
    return wire.AddBase(hub=hub, name=name)


class AddBase(Dialog[wire.BaseModel | None]):
    """Answers the base once it is there, None when left before."""

    BINDINGS = [
        Binding("escape", "leave", "leave", id="dialog.no", priority=True),
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
        self._under_way = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "Add a base"
            window.border_subtitle = "enter: add · tab: complete · esc: leave"
            yield Static(
                "A diffusers folder or a .safetensors file on the daemon's machine, which stays "
                "where it is; or owner/name of the Hugging Face Hub.",
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
        if self._under_way:
            return
        if not what:
            self._say("Type a path or a Hub id first.", error=True)
            return
        self._under_way = True
        self._say("Looking…")
        request = request_for(what, self.query_one("#name", Input).value.strip())
        self.run_worker(self._add(request), group="add")

    async def _add(self, request: wire.AddBase) -> None:
        def progress(done: int, total: int, text: str) -> None:
            self.post_message(self.Said(f"{words.size(done)} of {words.size(total)}  {text}"))

        try:
            self.post_message(self.Added(await self.lora.ask(request, on_progress=progress)))
        except LoraError as error:
            self.post_message(self.Said(error.message, error=True))

    def on_add_base_said(self, message: Said) -> None:
        self._under_way = not message.error
        self._say(message.text, error=message.error)

    def on_add_base_added(self, message: Added) -> None:
        self.dismiss(message.base)

    def _say(self, text: str, *, error: bool = False) -> None:
        said = self.query_one("#said", Static)
        said.update(text)
        said.set_class(error, "-error")

    def action_leave(self) -> None:
        if self._under_way:
            self.app.notify("It is added all the same; the daemon goes on.")
        self.dismiss(None)
