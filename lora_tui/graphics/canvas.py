"""The sharp pictures of one terminal: encoded in threads, sent once, forgotten oldest first."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import sys
import termios
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from textual.geometry import Region

from lora_tui.graphics import iterm2, kitty, sixel
from lora_tui.graphics.changes import Changes
from lora_tui.graphics.detect import Terminal
from lora_tui.pixels import Picture

_KEPT = 32
_KEPT_CHARACTERS = 8_000_000  # of those that are sent again when something was over them
_UNKNOWN = (8, 16)  # pixels of a cell where the terminal does not tell; rather small than too large
_MOST = 1_000_000  # pixels of a picture that the terminal scales itself


def cell_size() -> tuple[int, int]:
    """Width and height of a cell in pixels, as the terminal tells; (0, 0) if it does not."""
    for stream in (sys.__stdout__, sys.__stderr__, sys.__stdin__):
        try:
            assert stream is not None
            answer = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        except (OSError, ValueError, AssertionError):
            continue
        rows, columns, width, height = struct.unpack("HHHH", answer)
        if rows and columns and width >= columns and height >= rows:
            return width // columns, height // rows
    return 0, 0


@dataclass(frozen=True)
class Sharp:
    """A picture as this terminal shows it: cells to paint, or what to send at its first cell."""

    across: int  # cells
    down: int
    cells: Picture | None = None
    sent: str = ""
    number: int = 0


class Canvas:
    """Makes them. All but ``make`` is at once; nothing is read from the terminal."""

    def __init__(
        self,
        terminal: Terminal,
        write: Callable[[str], None],
        cell: tuple[int, int],
        changes: Changes,
    ) -> None:
        self._changes = changes
        self._terminal = terminal
        self._write = write
        self.cell = cell  # as measured
        self._cell = cell if all(cell) else _UNKNOWN
        self._known: OrderedDict[tuple[str, int, int], Sharp] = OrderedDict()
        self._numbers = kitty.Numbers(narrow=terminal.narrow)

    @property
    def over(self) -> bool:
        """Whether pictures lie over cells, and go when those are painted."""
        return self._terminal.protocol != "kitty"

    def side(self, across: int, down: int) -> int:
        """Pixels of the longer side that so many cells show."""
        return max(across * self._cell[0], down * self._cell[1])

    def known(self, key: str, across: int, down: int) -> Sharp | None:
        """A picture made before."""
        found = self._known.get((key, across, down))
        if found is not None:
            self._known.move_to_end((key, across, down))
        return found

    async def make(
        self, key: str, blob: bytes, across: int, down: int, stale: Callable[[], bool]
    ) -> Sharp | None:
        """Encode a picture for so many cells; None once it is stale. Raises LoraError."""
        found = self.known(key, across, down)
        if found is not None or stale() or max(across, down) > kitty.MOST:
            return found
        width, height = across * self._cell[0], down * self._cell[1]
        if self._terminal.protocol == "kitty":
            less = min((_MOST / (width * height)) ** 0.5, 1.0)
            size = max(int(width * less), 1), max(int(height * less), 1)
            png = await asyncio.to_thread(kitty.encode, blob, *size)
            if stale():
                return None
            number, colour = self._numbers.take()
            self._write(kitty.sent(png, number, across, down, tmux=self._terminal.tmux))
            made = Sharp(across, down, cells=kitty.cells(colour, across, down), number=number)
        else:
            if self._terminal.protocol == "sixel":
                text = await asyncio.to_thread(sixel.encode, blob, width, height, stale)
            else:
                text = await asyncio.to_thread(iterm2.encode, blob, across, down)
            if text is None or stale():
                return None
            made = Sharp(across, down, sent=text)
        self._known[key, across, down] = made
        while len(self._known) > 1 and self._too_many():
            self._forget(self._known.popitem(last=False)[1])
        return made

    def lay(self, owner: object, key: str, sharp: Sharp, x: int, y: int) -> None:
        """Send a picture that lies over cells, its first one at column ``x`` and row ``y``; not
        if it still lies there."""
        here = (key, Region(x, y, sharp.across, sharp.down))
        if self._changes.over.get(owner) != here:
            self._write(f"\x1b7\x1b[{y + 1};{x + 1}H{sharp.sent}\x1b8")
            self._changes.over[owner] = here

    def lift(self, owner: object) -> None:
        """The owner shows something else now."""
        self._changes.lift(owner)

    def farewell(self) -> str:
        """What is to be sent when the app has ended."""
        numbers = [sharp.number for sharp in self._known.values() if sharp.number]
        self._known.clear()
        return "".join(kitty.forgotten(one, tmux=self._terminal.tmux) for one in numbers)

    def _too_many(self) -> bool:
        characters = sum(len(sharp.sent) for sharp in self._known.values())
        return len(self._known) > _KEPT or characters > _KEPT_CHARACTERS

    def _forget(self, sharp: Sharp) -> None:
        if sharp.number:
            self._write(kitty.forgotten(sharp.number, tmux=self._terminal.tmux))
