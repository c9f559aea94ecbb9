"""Panels and lines that change with each picture one goes on to, and paint only what changes."""

from __future__ import annotations

from rich.text import Text
from textual.containers import Vertical
from textual.geometry import Region
from textual.visual import VisualType
from textual.widgets import Static


class Panel(Vertical):
    """A panel whose titles are others at each step. Textual would paint all of it for that."""

    _entitled: tuple[str, str] | None = None
    _only: tuple[Region, ...] = ()  # of it is to be painted

    def entitle(self, title: str, subtitle: str = "") -> None:
        """Put these into its upper and lower edge, as they are: nothing in them is markup."""
        if (title, subtitle) == self._entitled:
            return
        self._entitled = (title, subtitle)
        (wide, high), (left, above) = self.outer_size, self.content_offset
        if wide and high:
            self._only = tuple(Region(-left, y - above, wide, 1) for y in (0, high - 1))
        try:
            self.border_title, self.border_subtitle = Text(title), Text(subtitle)
        finally:
            self._only = ()

    def refresh(
        self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False
    ) -> Panel:
        regions = regions or self._only
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)


class FewLines(Static):
    """Text that is laid out anew only where it takes more or fewer lines than before. To lay out
    the whole screen at each step costs more than what is painted then."""

    _room = (0, 0)  # width it was laid out for, lines it has there

    def update(self, content: VisualType = "", *, layout: bool = True) -> None:
        super().update(content, layout=False)
        width = self.content_size.width
        high = self.visual.get_height(self.styles, width) if width else 0  # type: ignore[arg-type]
        room = (width, high)
        if layout and (not width or room != self._room):
            self._room = room
            self.refresh(layout=True)
