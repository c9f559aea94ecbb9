"""How this app shows pictures at present, and how a person changes that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lora_tui.graphics.canvas import Canvas, cell_size
from lora_tui.graphics.detect import Terminal, detect
from lora_tui.widgets.grid import Grid
from lora_tui.widgets.picture import Manner, PictureView
from shared import settings
from shared.errors import LoraError
from shared.settings import PictureMode

if TYPE_CHECKING:
    from lora_tui.app import LoraApp

_SLOW = "slow link"
_CHOICES: tuple[tuple[PictureMode, str], ...] = (
    ("auto", "the best this terminal has"),
    ("kitty", "sharp, by the kitty protocol"),
    ("sixel", "sharp, by Sixel"),
    ("iterm2", "sharp, as iTerm2 and WezTerm do it"),
    ("half-blocks", "as text, in any terminal"),
    ("off", "words alone"),
)


class Here:
    """The app's pictures: the terminal they are for, and whether its link is slow."""

    def __init__(self, app: LoraApp, terminal: Terminal, *, slow: bool = False) -> None:
        self._app = app
        self.terminal = terminal
        self.slow = slow

    @property
    def off(self) -> bool:
        return self.terminal.protocol == "off"

    def begin(self) -> None:
        """The terminal is ours now, or another size."""
        cache, cell = self._app.picture_cache, cell_size()
        aspect = cell[1] / cell[0] if all(cell) else 2.0
        cache.manner = Manner(aspect if 1.2 < aspect < 3.5 else 2.0, self.slow)
        if not self._sharp():
            self.end()
        elif cache.canvas is None or cache.canvas.cell != cell:
            self.end()
            narrow = self.terminal.narrow or self._app.colours == "256"
            terminal = replace(self.terminal, narrow=narrow)
            cache.canvas = Canvas(terminal, self._write, cell, self._app.changes)

    def _sharp(self) -> bool:
        if self.slow or self._app.colours not in ("full", "256"):
            return False  # kitty's cells say by their colour which picture they show
        return self.terminal.protocol in ("kitty", "sixel", "iterm2")

    def end(self) -> str:
        """Give up the sharp pictures; what frees them in the terminal has been sent, and is
        returned for when nothing can be sent any more."""
        canvas, self._app.picture_cache.canvas = self._app.picture_cache.canvas, None
        farewell = canvas.farewell() if canvas is not None else ""
        if farewell:
            self._write(farewell)
        return farewell

    def _write(self, text: str) -> None:
        driver = self._app._driver
        if driver is not None and self._app.is_running:
            driver.write(text)

    # ── a person's choice ───────────────────────────────────────────────────────────────────────

    async def choose(self) -> None:
        """Ask how pictures are to be shown; it is so at once, and kept in the settings."""
        from lora_tui.screens.dialogs import Choose

        options = [("", label, str(mode)) for mode, label in _CHOICES]
        options.append(("", "a slow link no more" if self.slow else "small, of few colours", _SLOW))

        def chosen(place: int | None) -> None:
            if place is None:
                return
            try:
                if place < len(_CHOICES):
                    mode = _CHOICES[place][0]
                    self.terminal = detect(mode)
                    settings.put("pictures", mode)
                else:
                    self.slow = not self.slow
                    settings.put("slow_link", self.slow)
            except LoraError as error:
                self._app.notify(error.message, severity="warning", timeout=8)
            self._again()
            slow = ", for a slow link" if self.slow else ""
            self._app.notify(
                f"Pictures: {self.terminal.protocol}{slow} ({self.terminal.why}).", markup=False
            )

        title = f"Pictures: {self.terminal.protocol} now ({self.terminal.why})"
        await self._app.push_screen(Choose(title, options), chosen)

    def _again(self) -> None:
        self.end()
        self.begin()
        for place in self._app.every_place():
            for view in place.query(PictureView):
                view.again()
            for grid in place.query(Grid):
                grid.again()
