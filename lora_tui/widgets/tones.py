"""Colours by meaning: a tone's name to a style of the present theme."""

from __future__ import annotations

from rich.color import Color as RichColor
from rich.style import Style
from textual.color import Color
from textual.widget import Widget

_cache: dict[tuple[str, str], Style] = {}


def tone_style(widget: Widget, tone: str) -> Style:
    """The foreground of a tone: a theme variable such as "muted" or "success"; "bold" as well.

    Tones join with a space: "success bold".
    """
    key = (widget.app.theme, tone)
    style = _cache.get(key)
    if style is None:
        style = Style.null()
        for name in tone.split():
            if name in ("bold", "reverse", "italic", "underline", "dim", "strike"):
                style += Style.parse(name)
                continue
            value = widget.app.theme_variables.get(name, "")
            if value:
                style += Style(color=_rich(value))
        _cache[key] = style
    return style


def _rich(value: str) -> RichColor:
    if value.startswith("ansi_"):
        name = value.removeprefix("ansi_")
        return RichColor.parse(name)
    return Color.parse(value).rich_color
