"""One picture of the gallery as large as the terminal, or two side by side with what made them."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.core.cells import clean
from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.picture import PictureView
from shared.gallery import Shown


class Compared(Dialog[None]):
    """What is otherwise in the other picture stands out."""

    BINDINGS = bindings("page")

    def __init__(self, pictures: Sequence[Shown]) -> None:
        super().__init__()
        self._pictures = pictures

    def compose(self) -> ComposeResult:
        from lora_tui.screens.gallery import lines

        with Vertical(classes="window -whole") as window:
            window.border_title = "side by side" if len(self._pictures) > 1 else "picture"
            window.border_subtitle = "esc: close"
            with Horizontal(id="pair"):
                for side, one in enumerate(self._pictures):
                    with Vertical(classes="panel") as panel:
                        panel.border_title = clean(one.path.rsplit("/", 1)[-1])
                        yield PictureView(
                            self.lora.picture_cache, self.lora.depth, id=f"picture{side}"
                        )
                        if len(self._pictures) > 1:
                            with VerticalScroll(classes="caption", can_focus=False):
                                yield Static(lines(self, one, self._pictures[1 - side]))

    def on_mount(self) -> None:
        from lora_tui.screens.gallery import fetch

        for side, one in enumerate(self._pictures):
            view = self.query_one(f"#picture{side}", PictureView)
            if one.problem:
                view.clear(one.problem)
            else:
                view.show(f"g:{one.id}:{one.created}", fetch(self, one))

    def action_close(self) -> None:
        self.dismiss(None)
