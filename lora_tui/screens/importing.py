"""The window that imports a folder: the path, then progress, then what came of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.suggester import Suggester
from textual.widgets import Input, ProgressBar, Static

from lora_tui.core import words
from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from shared import wire
from shared.filenames import PACKED


class Folders(Suggester):
    """Completes directories of this machine, and files that end so."""

    def __init__(self, suffixes: tuple[str, ...]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._suffixes = suffixes

    async def get_suggestion(self, value: str) -> str | None:
        return await asyncio.to_thread(self._look, value)

    def _look(self, value: str) -> str | None:
        if "/" not in value:
            return None
        head, _, tail = value.rpartition("/")
        folder = Path(head or "/").expanduser()
        try:
            with os.scandir(folder) as entries:
                names = sorted(
                    f"{e.name}/" if e.is_dir() else e.name
                    for e in entries
                    if e.name.startswith(tail) and (e.is_dir() or e.name.endswith(self._suffixes))
                )
        except OSError:
            return None
        names = [n for n in names if n.isprintable() and (tail or not n.startswith("."))]
        return f"{head}/{names[0]}" if names else None


class Import(Dialog[str | None]):
    """Answers the dataset's id once it is there, None when left before."""

    BINDINGS = [
        *bindings("import"),
        Binding("tab", "complete", "complete", id="import.complete", priority=True),
    ]

    def __init__(self, path: str = "", name: str = "") -> None:
        super().__init__()
        self._path = path
        self._dataset_name = name
        self._under_way = False
        self._dataset: str | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "Import pictures"
            window.border_subtitle = "enter: import · tab: complete · esc: leave"
            yield Static(
                "A folder on the daemon's machine: its pictures stay where they are. Or a .zip, "
                ".tar, .parquet or .arrow file, or hf:owner/name of the Hub: it is unpacked. "
                "Captions are read from .txt or .caption files, metadata.jsonl, metadata.csv, or "
                "kohya's meta_*.json.",
                markup=False,
                classes="lead",
            )
            yield Input(
                self._path,
                placeholder="/path/to/pictures",
                compact=True,
                suggester=Folders(PACKED),
                id="path",
            )
            yield Input(
                self._dataset_name,
                placeholder="name (the folder's or file's own if empty)",
                compact=True,
                id="name",
            )
            yield ProgressBar(show_eta=False, id="bar")
            yield Static("", markup=False, id="said")

    @property
    def said(self) -> Static:
        return self.query_one("#said", Static)

    def on_mount(self) -> None:
        self.query_one("#bar").display = False
        self.query_one("#path", Input).focus()
        if self._path:
            self._start()

    def action_complete(self) -> None:
        field = self.focused
        if isinstance(field, Input) and field.id == "path" and field._suggestion:
            field.action_cursor_right()
        else:
            self.focus_next()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if not self._under_way:
            self._start()

    def _start(self) -> None:
        path = self.query_one("#path", Input).value.strip()
        name = self.query_one("#name", Input).value.strip()
        if not path:
            self._say("Type a path first.", error=True)
            return
        if path.startswith("~"):
            path = str(Path(path).expanduser())
        self._under_way = True
        self.query_one("#path", Input).disabled = self.query_one("#name", Input).disabled = True
        self.query_one("#bar").display = True
        self.query_one(".window").border_subtitle = "esc: cancel the import · ^b: in background"
        self.focus()
        self._say("Reading…")
        self.lora.imports.start(path, name)

    def progressed(self, done: int, total: int, text: str) -> None:
        """The app tells how far it is."""
        self.query_one(ProgressBar).update(total=total or None, progress=done)
        self._say(text or f"{words.count(done)} of {words.count(total)}")

    def ended(self, result: wire.Imported | None, said: str, error: bool) -> None:
        """The app tells what came of it."""
        self._under_way = False
        self.query_one("#bar").display = False
        if result is None:
            for field in self.query(Input):
                field.disabled = False
            self.query_one("#path", Input).focus()
            self.query_one(".window").border_subtitle = "enter: try again · esc: leave"
            self._say(said, error=error)
            return
        self._dataset = result.dataset.id
        if not result.problems and not result.warnings:
            self.app.notify(said)
            self.dismiss(self._dataset)
            return
        lines = [said, *result.warnings]
        lines += [f"{name}: {reason}" for name, reason in result.problems[:12]]
        if len(result.problems) > 12:
            lines.append(f"… and {len(result.problems) - 12} more; they are marked ! in the list.")
        self.query_one(".window").border_subtitle = "esc: close"
        self._say("\n".join(lines))

    def _say(self, text: str, *, error: bool = False) -> None:
        self.said.update(text)
        self.said.set_class(error, "-error")

    def action_cancel(self) -> None:
        if self._under_way:
            self.lora.imports.cancel()
        else:
            self.dismiss(self._dataset)

    def action_hide(self) -> None:
        self.dismiss(self._dataset)
