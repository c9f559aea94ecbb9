"""The LoRAs of a mix: a row each, with a bar for its weight that the mouse can drag."""

from __future__ import annotations

from functools import partial

from textual import events
from textual.message import Message

from lora_tui.core.summary import Said
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import mixes
from shared.mixes import MixLora
from shared.pictures import stem

LOW, HIGH = -0.5, 1.5  # weights that the bar reaches; others stand at its ends
SNAP = 0.05
_BAR = 1  # the bar's column


class MixRows(Rows):
    """Shows a mix. A click on a bar, or a drag, is a Turned."""

    class Turned(Message):
        """The mouse put a weight to another place."""

        def __init__(self, index: int, weight: float) -> None:
            super().__init__()
            self.index = index
            self.weight = weight

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(
            Column("LoRA"),
            Column("weight"),
            Column("", 5, "right"),
            Column("text", 5, "right", wide=46),
            Column("", 6),
            Column("", 1),
            Column("base", 10, wide=72),
            empty="No LoRA yet: a adds one.",
            id=id,
        )
        self._loras: list[MixLora] = []
        self._dragged = -1

    def mix(
        self, loras: list[MixLora], heard: list[MixLora], bases: dict[str, tuple[str, str, str]]
    ) -> None:
        """Show these; those not ``heard`` are faint. ``bases``: what a LoRA was made for, with a
        mark of how that fits and its tone."""
        self._loras = loras

        def cells(index: int) -> list[Cell]:
            lora = loras[index]
            tone = "" if lora in heard else "faint"
            mark, base, fits = bases.get(lora.lora, ("", "", ""))
            text = "" if lora.text_weight is None else f"{lora.text_weight:.2f}"
            marks = ((lora.muted, "M"), (lora.solo, "S"), *beside_weight(lora))
            return [
                (stem(lora.lora), tone),
                partial(bar, lora.weight, tone or "primary"),
                (f"{lora.weight:.2f}", tone),
                (text, tone or "muted"),
                ("".join(mark if on else " " for on, mark in marks), "warning bold"),
                (mark, fits),
                (base, fits),
            ]

        self.show(len(loras), cells)

    # ── the mouse ───────────────────────────────────────────────────────────────────────────────

    def _turn(self, index: int, x: int) -> None:
        first, room = self._spans(self.scrollable_content_region.width)[_BAR]
        share = min(max((x - first) / max(room - 1, 1), 0.0), 1.0)
        weight = round(round((LOW + share * (HIGH - LOW)) / SNAP) * SNAP, 2)
        self.post_message(self.Turned(index, weight))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        index = event.y - self._titled + self.scroll_offset.y
        first, room = self._spans(self.scrollable_content_region.width)[_BAR]
        on_a_bar = event.y >= self._titled and first <= event.x < first + room
        if event.button == 1 and on_a_bar and index < self.count:
            self.cursor = index
            self._dragged = index
            self.capture_mouse()
            self._turn(index, event.x)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._dragged >= 0:
            self._turn(self._dragged, event.x)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        if self._dragged >= 0:
            self._dragged = -1
            self.release_mouse()


def beside_weight(lora: MixLora) -> list[tuple[bool, str]]:
    """What a LoRA has besides a weight, and the letter of it."""
    return [
        (bool(lora.blocks), "B"), (bool(mixes.parts_of_steps(lora)), "Z"),
        (lora.region is not None, "I"), (bool(lora.guidance), "G"),
    ]  # fmt: skip


def bar(weight: float, tone: str, room: int) -> Said:
    """A weight as ``room`` cells: from 0 to where it is, with ticks at 0 and 1."""
    if room <= 0:
        return []

    def half(value: float) -> int:
        return round(2 * room * (value - LOW) / (HIGH - LOW))

    lower, upper = sorted((half(0), min(max(half(weight), 0), 2 * room)))
    ticks = {half(0) // 2, min(half(1) // 2, room - 1)}
    said: Said = []
    for cell in range(room):
        left, right = (lower <= at < upper for at in (2 * cell, 2 * cell + 1))
        full = {(True, True): "━", (True, False): "╸", (False, True): "╺"}.get((left, right))
        said.append((full, tone) if full else ("┼" if cell in ticks else "─", "faint"))
    if weight < LOW:
        said[0] = ("◀", tone)
    elif weight > HIGH:
        said[-1] = ("▶", tone)
    return said
