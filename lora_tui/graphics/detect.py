"""Which pictures a terminal can show, from what the environment and tmux say of it.

Nothing is asked of the terminal here: an answer that comes late would be typed into the app. Who
wants it asked has ``lora-tui settings detect``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lora_tui.graphics import tmux
from shared.settings import PictureMode

Protocol = Literal["kitty", "sixel", "iterm2", "half-blocks", "off"]
PLACEHOLDERS = ("kitty", "ghostty")  # terminals that know kitty's placeholders
_SIXEL = ("foot", "mlterm", "contour", "yaft")


@dataclass(frozen=True)
class Terminal:
    """How pictures are shown. ``why`` is for the person."""

    protocol: Protocol = "half-blocks"
    why: str = "half-blocks work everywhere"
    tmux: bool = False
    narrow: bool = False  # tmux hands on 256 colours only


def detect(
    mode: PictureMode = "auto",
    environment: Mapping[str, str] = os.environ,
    ask_tmux: Callable[[], tmux.Client | None] = tmux.client,
) -> Terminal:
    """What to use. A ``mode`` that was chosen is taken as it is."""
    inside = bool(environment.get("TMUX"))
    if mode == "off":
        return Terminal("off", "you chose it")
    if mode == "half-blocks":
        return Terminal(mode, "you chose it")
    client = ask_tmux() if inside else None
    if mode != "auto":
        narrow = client is not None and "RGB" not in client.features
        return Terminal(mode, "you chose it", tmux=inside, narrow=narrow)
    if inside:
        return _in_tmux(client)
    if environment.get("STY"):
        return Terminal(why="GNU screen shows no pictures")
    return _alone(environment)


def _in_tmux(client: tmux.Client | None) -> Terminal:
    if client is None:
        return Terminal(why="tmux does not say which terminal it is in")
    if any(name in client.name for name in PLACEHOLDERS):
        if not client.passthrough:
            return Terminal(why="tmux needs `set -g allow-passthrough on` for sharp pictures")
        narrow = "RGB" not in client.features
        return Terminal("kitty", f"tmux is in {client.name}", tmux=True, narrow=narrow)
    if "sixel" in client.features:
        return Terminal("sixel", "tmux and its terminal know Sixel", tmux=True)
    return Terminal(why=f"tmux in {client.name.strip() or 'this terminal'} shows no others")


def _alone(environment: Mapping[str, str]) -> Terminal:
    term = environment.get("TERM", "")
    program = environment.get("TERM_PROGRAM", "")
    for name in PLACEHOLDERS:
        if name in term or program == name:
            return Terminal("kitty", f"this is {name}")
    if environment.get("KITTY_WINDOW_ID"):
        return Terminal("kitty", "this is kitty")
    if program == "iTerm.app" or environment.get("LC_TERMINAL") == "iTerm2":
        return Terminal("iterm2", "this is iTerm2")
    if program == "WezTerm" or environment.get("WEZTERM_PANE"):
        return Terminal("iterm2", "this is WezTerm")
    if program == "mintty" or term.partition("-")[0] in _SIXEL:
        return Terminal("sixel", f"this is {program or term}")
    return Terminal(why=f"{term or 'this terminal'} does not say that it shows others")
