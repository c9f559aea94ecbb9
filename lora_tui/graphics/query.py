"""Asking the terminal itself what it is: only for a command of its own, as an answer that comes
late would be taken for keys."""

from __future__ import annotations

import os
import re
import select
import termios
import time
import tty
from dataclasses import dataclass

from lora_tui.graphics.detect import PLACEHOLDERS, Terminal
from shared.errors import Code, LoraError

_ASK = b"\x1b[>q\x1b[c"  # its name, and what it can; every terminal answers the second
_NAME = re.compile(rb"\x1bP>\|([^\x1b]*)\x1b\\")
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_SIXEL = b"4"


@dataclass(frozen=True)
class Answer:
    """``name`` is empty where the terminal does not tell."""

    name: str
    sixel: bool


def ask(within: float = 2.0, path: str = "/dev/tty") -> Answer | None:
    """What the terminal says; None if it says nothing within so many seconds. The terminal is left
    as it was. Raises LoraError(BAD_REQUEST) where there is none."""
    try:
        terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
    except OSError:
        raise LoraError(Code.BAD_REQUEST, "There is no terminal here to ask.") from None
    try:
        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal, termios.TCSAFLUSH)
            os.write(terminal, _ASK)
            return _read(terminal, time.monotonic() + within)
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    finally:
        os.close(terminal)


def _read(terminal: int, until: float) -> Answer | None:
    said = b""
    while (left := until - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left)[0]:
            break
        said += os.read(terminal, 4096)
        if found := _ATTRIBUTES.search(said):
            name = _NAME.search(said)
            return Answer(
                name[1].decode(errors="replace") if name else "", _SIXEL in found[1].split(b";")
            )
    return None


def best(answer: Answer) -> Terminal:
    """What a terminal that says this can show."""
    name = answer.name.lower()
    said = f"it says that it is {answer.name}" if name else "it does not tell its name"
    if name.startswith(PLACEHOLDERS):
        return Terminal("kitty", said)
    if name.startswith(("iterm2", "wezterm")):
        return Terminal("iterm2", said)
    if answer.sixel:
        return Terminal("sixel", f"{said} and knows Sixel")
    return Terminal(why=f"{said} and names nothing else")
