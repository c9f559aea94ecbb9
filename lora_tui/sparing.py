"""Only what has changed is sent to the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.app import App
from textual.screen import Screen

from lora_tui.graphics.changes import Changes


class Sparing(App[int]):
    """Another screen, or a window over it, is painted whole: that also mends what some other
    program has written into this terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.changes = Changes()
        self._painted: Screen[Any] | None = None

    def on_mount(self) -> None:
        self.app_resume_signal.subscribe(self, lambda _: self.changes.forget())

    def on_resize(self) -> None:
        self.changes.forget()

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        shown = self._running and not self._closed
        if shown and not self._batch_count and isinstance(renderable, ChopsUpdate | LayoutUpdate):
            if screen is not self._painted:
                self._painted = screen
                self.changes.forget()
            changed = self.changes.of(renderable)
            super()._display(screen, changed if changed.pieces else None)  # type: ignore[arg-type]
        else:
            super()._display(screen, renderable)
