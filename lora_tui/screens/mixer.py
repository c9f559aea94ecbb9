"""Mixer: LoRAs at their weights under the fingers, and the picture that follows."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from functools import partialmethod

from msgspec.structs import replace
from textual import events
from textual.widgets import Input

from lora_tui.core.cells import clean
from lora_tui.screens.dialogs import AskText, Choose
from lora_tui.screens.mix_keeping import MixKeeping
from lora_tui.screens.mix_settings import MixSettings
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.mix_rows import MixRows
from lora_tui.widgets.rows import Rows
from shared import blocks, lora_tags, mixes, regions, wire
from shared.errors import Code, LoraError
from shared.mixes import MixLora, MixSpec
from shared.pictures import stem

FINE, COARSE = 0.05, 0.25
FIRST = 0.8  # weight of a LoRA that is added, where none is recommended
MOST = 10.0  # weight, up or down
FURTHEST = 100.0  # guidance
LEAVING = 1.0  # seconds for what has just been typed to get away


class Mixer(MixKeeping):
    scope = "mixer"
    CSS_PATH = "mixer.tcss"
    BINDINGS = bindings("mixer")

    @property
    def row(self) -> MixLora | None:
        """The LoRA under the cursor."""
        cursor, loras = self.rows.cursor, self.spec.loras
        return loras[cursor] if cursor < len(loras) else None

    async def before_leaving(self) -> None:
        """Take what is being typed, and let it get away."""
        if isinstance(self.focused, Input):
            self._take(self.focused)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVING):
                await self._desk.done()

    # ── weights ─────────────────────────────────────────────────────────────────────────────────

    def _turn(self, row: MixLora | None, **values: object) -> None:
        if row is not None:
            self._desk.want(mixes.with_lora(self.spec, replace(row, **values)))

    def _by(self, step: float) -> None:
        row = self.row
        if row is not None:
            weight = min(max(round(row.weight + step, 4), -MOST), MOST)
            self._turn(row, weight=weight)

    action_lighter = partialmethod(_by, -FINE)
    action_heavier = partialmethod(_by, FINE)
    action_much_lighter = partialmethod(_by, -COARSE)
    action_much_heavier = partialmethod(_by, COARSE)

    def on_mix_rows_turned(self, message: MixRows.Turned) -> None:
        if message.index < len(self.spec.loras):
            self._turn(self.spec.loras[message.index], weight=message.weight)

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.action_weight()

    def action_weight(self) -> None:
        row = self.row
        if row is None:
            self.action_add()
            return
        self._ask_row(row, "Weight", f"{row.weight:g}", lambda text: {"weight": _weight(text)})

    def action_text_weight(self) -> None:
        row = self.row
        if row is None:
            return
        present = "" if row.text_weight is None else f"{row.text_weight:g}"

        def read(text: str) -> dict[str, object]:
            return {"text_weight": _weight(text) if text else None}

        self._ask_row(row, "Text encoder's weight (empty: as the UNet's)", present, read)

    def action_blocks(self) -> None:
        row = self.row
        if row is None:
            return

        def read(text: str) -> dict[str, object]:
            return {"blocks": [_weight(str(one)) for one in blocks.read(text)] if text else []}

        present = ",".join(f"{one:g}" for one in row.blocks)
        self._ask_row(row, "Block weights: 17 or 26 numbers, or OUTD, INS, …", present, read)

    def action_steps(self) -> None:
        row = self.row
        if row is None:
            return

        def read(text: str) -> dict[str, object]:
            begin, end = lora_tags.span(text, self.spec.steps)
            return {"begin": begin, "end": end}

        what = "Steps it takes part in: 0.25-1.0 of them, or 5-15 by number (empty: all)"
        self._ask_row(row, what, mixes.parts_of_steps(row), read)

    def action_region(self) -> None:
        row = self.row
        if row is None:
            return

        def read(text: str) -> dict[str, object]:
            return {"region": regions.read(text) if text else None}

        what = "Region: left, top~0.2, 0.1,0.2,0.6,0.9, m.png (empty: all)"
        self._ask_row(row, what, mixes.part_of_picture(row), read)

    def action_guidance(self) -> None:
        row = self.row
        if row is None:
            return

        def read(text: str) -> dict[str, object]:
            return {"guidance": _number("Guidance", text, 0, FURTHEST) if text else 0.0}

        what = "Guidance along it, on top of cfg: 2.5 (empty: none)"
        self._ask_row(row, what, f"{row.guidance:g}" if row.guidance else "", read)

    def _ask_row(
        self, row: MixLora, what: str, present: str, read: Callable[[str], dict[str, object]]
    ) -> None:
        def typed(text: str | None) -> None:
            if text is None:
                return
            now = next((one for one in self.spec.loras if one.lora == row.lora), None)
            try:
                self._turn(now, **read(text))
            except LoraError as error:
                self.notify(error.message, severity="warning", timeout=8)

        self.app.push_screen(AskText(f"{clean(stem(row.lora))}: {what}", value=present), typed)

    def action_mute(self) -> None:
        if (row := self.row) is not None:
            self._turn(row, muted=not row.muted)

    def action_solo(self) -> None:
        if (row := self.row) is not None:
            self._turn(row, solo=not row.solo)

    # ── which LoRAs ─────────────────────────────────────────────────────────────────────────────

    def action_add(self) -> None:
        there = {lora.lora for lora in self.spec.loras}
        found = sorted(
            (lora for lora in self.state.loras if lora.name not in there),
            key=lambda lora: (lora.base != self.spec.base, -lora.created),
        )
        if not found:
            self.action_add_file()
            return

        def chosen(place: int | None) -> None:
            if place is not None:
                self._add(found[place].name, self._prompt_of(found[place]))

        options = [
            ("", lora.name, f"{'⚠ ' if lora.base != self.spec.base else ''}{lora.base or '?'}")
            for lora in found
        ]
        self.app.push_screen(Choose("Add a LoRA", options), chosen)

    def action_add_file(self) -> None:
        def typed(text: str | None) -> None:
            if text:
                self._add(text, "")

        self.app.push_screen(AskText("Add a LoRA file", "Its path on the daemon's machine:"), typed)

    def _add(self, name: str, prompt: str) -> None:
        if len(self.spec.loras) == mixes.MOST:
            self.notify(f"A mix has at most {mixes.MOST} LoRAs.", severity="warning")
            return
        advised = next((one.advised for one in self.state.loras if one.name == name), None)
        weight = advised.weight if advised is not None else FIRST
        spec = mixes.with_lora(self.spec, MixLora(lora=name, weight=weight))
        if not spec.prompt:
            spec = replace(spec, prompt=prompt)
        self._desk.want(spec)
        self.rows.cursor = len(spec.loras) - 1

    def _prompt_of(self, lora: wire.Lora) -> str:
        """What its run's samples showed, to begin with."""
        shown = [p.prompt for p in self.state.pictures if p.run == lora.run and lora.run]
        return shown[-1] if shown else lora.trigger

    def action_remove(self) -> None:
        if (row := self.row) is not None:
            self._desk.want(mixes.without(self.spec, [row.lora]))

    # ── words and settings ──────────────────────────────────────────────────────────────────────

    def action_prompt(self) -> None:
        self.query_one("#prompt", Input).focus()

    def action_leave_field(self) -> None:
        self.rows.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.rows.focus()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        if isinstance(event.widget, Input) and event.widget.id:
            self._before_typing[event.widget.id] = event.widget.value

    def on_descendant_blur(self, event: events.DescendantBlur) -> None:
        if isinstance(event.widget, Input):
            self._take(event.widget)

    def _take(self, field: Input) -> None:
        """Leaving a field takes what was typed."""
        if field.id not in self._before_typing:
            return
        before, present = self._before_typing.pop(field.id), getattr(self.spec, field.id)
        if field.value == before:
            field.value = present
            return
        if present not in (before, field.value):
            self.notify(
                f"Meanwhile {self._desk.mix.by} had changed the {field.id} to: {clean(present)}",
                severity="warning", timeout=15,
            )  # fmt: skip
        self._desk.want(replace(self.spec, **{field.id: field.value}))

    def action_settings(self) -> None:
        before = self.spec

        def taken(after: MixSpec | None) -> None:
            if after is not None:  # only what was changed in the window
                self._desk.want(mixes.merged(before, after, before))

        self.app.push_screen(MixSettings(before, self.state.bases), taken)

    def _seed(self, seed: int) -> None:
        self._desk.want(replace(self.spec, seed=min(max(seed, 0), 2**62 - 1)))

    def action_seed(self) -> None:
        self._seed(random.randrange(2**31))

    def action_next_seed(self) -> None:
        self._seed(self.spec.seed + 1)

    def action_last_seed(self) -> None:
        self._seed(self.spec.seed - 1)


def _weight(text: str) -> float:
    """Raises LoraError(BAD_REQUEST)."""
    return _number("A weight", text, -MOST, MOST)


def _number(what: str, text: str, least: float, most: float) -> float:
    """Raises LoraError(BAD_REQUEST)."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise LoraError(
            Code.BAD_REQUEST, f"{what} is a number between {least:g} and {most:g}, not {text!r}."
        )
    return number
