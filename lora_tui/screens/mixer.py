"""Mixer: LoRAs at their weights under the fingers, and the picture that follows."""

from __future__ import annotations

import asyncio
import contextlib
import random
from functools import partial, partialmethod

from msgspec.structs import replace
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Static

from lora_tui import pixels
from lora_tui.core.cells import clean
from lora_tui.core.mix_desk import MixDesk
from lora_tui.screens.base import Dialog, Place
from lora_tui.screens.dialogs import AskText, Choose, Confirm, Page
from lora_tui.screens.mix_settings import MixSettings
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.mix_rows import MixRows
from lora_tui.widgets.picture import Fetch, PictureView
from lora_tui.widgets.rows import Rows
from lora_tui.widgets.tries import MANY, Tries, Try
from shared import blocks, mixes, wire
from shared.errors import Code, LoraError
from shared.mixes import MixLora, MixSpec
from shared.pictures import stem

FINE, COARSE = 0.05, 0.25
FIRST = 0.8  # weight of a LoRA that is added
MOST = 10.0  # weight, up or down
LONGEST = 10_000  # characters of a prompt
LEAVING = 1.0  # seconds for what has just been typed to get away
AWAY = 1.0  # seconds between two attempts to watch while there is no link


class Mixer(Place):
    scope = "mixer"
    CSS_PATH = "mixer.tcss"
    BINDINGS = bindings("mixer")

    class Viewed(Message):
        """There is something else to see."""

        def __init__(self, view: wire.MixView, picture: bytes | None) -> None:
            super().__init__()
            self.view = view
            self.picture = picture

    class Moved(Message):
        """The mix that this client wants is another."""

    class Refused(Message):
        """A change was not taken."""

        def __init__(self, error: LoraError) -> None:
            super().__init__()
            self.error = error

    def __init__(self) -> None:
        super().__init__()
        self._desk = MixDesk(
            self._send,
            lambda: self.post_message(self.Moved()),
            lambda error: self.post_message(self.Refused(error)),
        )
        self._view: wire.MixView | None = None
        self._tries: list[wire.Tried] = []  # newest first
        self._before_typing: dict[str, str] = {}  # what a field held when it got the keyboard
        self._again = False

    async def _send(self, request: wire.ChangeMix) -> wire.Mix:
        return await self.lora.ask(request)

    async def before_leaving(self) -> None:
        """Take what is being typed, and let it get away."""
        if isinstance(self.focused, Input):
            self._take(self.focused)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVING):
                await self._desk.done()

    def body(self) -> ComposeResult:
        with Horizontal(id="top"):
            with Vertical(id="left"):
                with Vertical(classes="panel", id="list") as panel:
                    panel.border_title = "mix"
                    yield MixRows(id="rows")
                with Vertical(classes="panel", id="words"):
                    for name, hint in (("prompt", "what to paint"), ("negative", "what not")):
                        with Horizontal(classes="line"):
                            yield Static(name, classes="name")
                            yield Input(compact=True, id=name, placeholder=hint, max_length=LONGEST)
                    yield Static("", id="settings", markup=False)
            with Vertical(classes="panel", id="right"):
                yield PictureView(self.lora.picture_cache, self.lora.depth, id="picture")
                yield Static("", id="said", markup=False)
        yield Tries(self.lora.picture_cache, self.lora.depth, id="tries")

    @property
    def rows(self) -> MixRows:
        return self.query_one(MixRows)

    @property
    def spec(self) -> MixSpec:
        return self._desk.spec

    @property
    def row(self) -> MixLora | None:
        """The LoRA under the cursor."""
        cursor, loras = self.rows.cursor, self.spec.loras
        return loras[cursor] if cursor < len(loras) else None

    def on_mount(self) -> None:
        super().on_mount()
        self.rows.focus()
        self._watch()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        if self.built:
            self._watch()

    def on_screen_suspend(self) -> None:
        if not isinstance(self.app.screen, Dialog):
            self.workers.cancel_group(self, "watch")

    # ── what the daemon tells ───────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent | None) -> None:
        if not self.built:
            return
        live = next((mix for mix in self.state.mixes if not mix.name), None)
        if live is not None and (event is None or isinstance(event, wire.MixChanged)):
            self._desk.take(live, anew=event is None)
        if event is None or isinstance(event, wire.MixTried | wire.TriedForgotten):
            self._show_tries()
        if event is None or isinstance(event, wire.LoraChanged | wire.LoraRemoved):
            self._show_mix()

    def _watch(self, again: bool = False) -> None:
        """Have pictures made and told, for as long as this screen is the one shown."""
        if self.lora.depth() == "off":
            return
        self._again = self._again or again
        # The function, not its coroutine: one that is replaced at once was never begun.
        self.run_worker(self._watching, group="watch", exclusive=True)  # type: ignore[arg-type]

    async def _watching(self) -> None:
        seen = have = ""
        while True:
            view = self.query_one(PictureView)
            side = pixels.wanted_side(view.size.width, view.size.height)
            again, self._again = self._again, False
            request = wire.WatchMix(seen=seen, have=have, side=side, again=again)
            try:
                answer, blobs = await self.lora.fetch(request)
            except LoraError:
                await asyncio.sleep(AWAY)
                continue
            seen = answer.token
            if blobs:
                have = answer.picture
            self.post_message(self.Viewed(answer, blobs[0] if blobs else None))

    def on_mixer_viewed(self, message: Viewed) -> None:
        self._view = view = message.view
        if message.picture is not None:
            self.query_one("#picture", PictureView).show(
                view.picture, _held(message.picture), keep=True
            )
            self._show_tries()
        self._show_said()

    def on_mixer_moved(self, message: Moved) -> None:
        self._show_mix()

    def on_mixer_refused(self, message: Refused) -> None:
        self.notify(message.error.message, severity="warning", timeout=8)

    # ── showing ─────────────────────────────────────────────────────────────────────────────────

    def _show_mix(self) -> None:
        spec, mix = self.spec, self._desk.mix
        side = f"{mix.side} · " if mix.other is not None else ""
        by = f" · by {mix.by}" if mix.by and mix.by != self.lora.me else ""
        self.query_one("#list").border_title = f"mix · {side}base {clean(spec.base)}{by}"
        self.rows.mix(spec.loras, mixes.heard(spec), self._bases())
        for name in ("prompt", "negative"):
            field = self.query_one(f"#{name}", Input)
            if not field.has_focus and field.value != getattr(spec, name):
                field.value = getattr(spec, name)
        size = f" · {spec.width}×{spec.height}" if spec.width or spec.height else ""
        self.query_one("#settings", Static).update(
            f"seed {spec.seed} · {spec.sampler} · {spec.steps} · cfg {spec.cfg:g}{size}"
        )
        self._show_said()

    def _bases(self) -> dict[str, tuple[str, str, str]]:
        """How each LoRA's base fits: a mark, the base, a tone."""
        known = {lora.name: lora for lora in self.state.loras}
        found = {}
        for lora in self.spec.loras:
            own = known.get(lora.lora)
            if own is None and not lora.lora.startswith("/"):
                found[lora.lora] = ("✗", "gone", "error")
            elif own is not None and own.base == self.spec.base:
                found[lora.lora] = ("✓", own.base, "muted")
            elif own is not None and own.base:
                found[lora.lora] = ("⚠", own.base, "warning")
        return found

    def _show_said(self) -> None:
        """Where the picture is, below it; what went wrong, or does not fit."""
        said, tone = "", ""
        view = self._view
        if self.lora.connection is None:
            said = "no link"
        elif self.lora.depth() == "off":
            said = "k paints it into the outputs"
        elif view is not None:
            said, tone = _said(view, busy=self._busy())
        line = self.query_one("#said", Static)
        line.update(said)
        line.set_class(tone == "error", "-error")
        line.set_class(tone == "warning", "-warning")

    def _busy(self) -> str:
        """The run whose steps the pictures wait for."""
        return next((run.id for run in self.state.runs if run.state == "training"), "")

    def _show_tries(self) -> None:
        self._tries = list(reversed(self.state.tried))[:MANY]
        here = self._view.picture if self._view is not None else ""
        self.query_one(Tries).show(
            [
                (one.id, partial(self._tried, one.id), _summary(one.spec), one.id == here)
                for one in self._tries
            ]
        )

    async def _tried(self, tried: str, side: int) -> bytes:
        _, picture = await self.lora.fetch(wire.GetTried(tried=tried, side=side))
        return picture[0]

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

    def _ask_row(self, row: MixLora, what: str, present: str, read) -> None:  # type: ignore[no-untyped-def]
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
        spec = mixes.with_lora(self.spec, MixLora(lora=name, weight=FIRST))
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

    # ── sides, what was tried, what is kept ─────────────────────────────────────────────────────

    def action_flip(self) -> None:
        async def flip() -> wire.Mix:
            await self._desk.done()
            return await self.lora.ask(wire.FlipMix(if_rev=self._desk.mix.rev))

        self.attempt(flip(), self._desk.take, group="flip")

    def _return_to(self, number: int) -> None:
        if number <= len(self._tries):
            self._desk.want(self._tries[number - 1].spec)

    action_tried_1 = partialmethod(_return_to, 1)
    action_tried_2 = partialmethod(_return_to, 2)
    action_tried_3 = partialmethod(_return_to, 3)
    action_tried_4 = partialmethod(_return_to, 4)
    action_tried_5 = partialmethod(_return_to, 5)
    action_tried_6 = partialmethod(_return_to, 6)
    action_tried_7 = partialmethod(_return_to, 7)
    action_tried_8 = partialmethod(_return_to, 8)
    action_tried_9 = partialmethod(_return_to, 9)

    def on_try_clicked(self, message: Try.Clicked) -> None:
        self._return_to(message.number)

    def action_again(self) -> None:
        self._watch(again=True)

    def action_keep(self) -> None:
        def kept(picture: wire.Picture) -> None:
            self.notify(f"Kept: {clean(picture.path)}", timeout=8)

        spec = mixes.picture(self.spec)
        self.attempt(self.lora.ask(wire.Generate(spec=spec)), kept, group="keep")

    def action_copy(self) -> None:
        text = mixes.webui(self.spec)
        self.app.copy_to_clipboard(text)
        negative = f"\n\nNegative prompt:\n\n{self.spec.negative}" if self.spec.negative else ""
        self.app.push_screen(
            Page("As a WebUI prompt", f"Copied, if your terminal lets it:\n\n{text}{negative}")
        )

    def action_save(self) -> None:
        def named(name: str | None) -> None:
            if name:
                self.attempt(self._save(name), lambda mix: self.notify(f"{mix.name} is saved."))

        self.app.push_screen(AskText("Save the mix as"), named)

    async def _save(self, name: str) -> wire.Mix:
        await self._desk.done()
        return await self.lora.ask(wire.SaveMix(name=name))

    def action_load(self) -> None:
        def load(mix: wire.Mix) -> None:
            self._desk.want(mix.spec)

        self._choose_saved("Load a mix", load)

    def action_forget(self) -> None:
        def forget(mix: wire.Mix) -> None:
            def answered(yes: bool | None) -> None:
                if yes:
                    self.attempt(self.lora.ask(wire.RemoveMix(name=mix.name)))

            self.app.push_screen(
                Confirm(f"Forget {mix.name}?", "The saved mix is deleted; LoRAs stay."), answered
            )

        self._choose_saved("Forget a mix", forget)

    def _choose_saved(self, title: str, then) -> None:  # type: ignore[no-untyped-def]
        saved = [mix for mix in self.state.mixes if mix.name]
        if not saved:
            self.notify("No mix is saved yet.")
            return

        def chosen(place: int | None) -> None:
            if place is not None:
                then(saved[place])

        options = [("", mix.name, _summary(mix.spec)) for mix in saved]
        self.app.push_screen(Choose(title, options), chosen)


def _held(picture: bytes) -> Fetch:
    """A picture that is here already, whatever its size."""

    async def fetch(side: int) -> bytes:
        return picture

    return fetch


def _weight(text: str) -> float:
    """Raises LoraError(BAD_REQUEST)."""
    try:
        weight = float(text)
    except ValueError:
        weight = float("nan")
    if not -MOST <= weight <= MOST:
        raise LoraError(Code.BAD_REQUEST, f"A weight is a number between -10 and 10, not {text!r}.")
    return weight


def _summary(spec: MixSpec) -> str:
    """The weights that count, as short as can be: .8 -.3"""
    weights = [f"{lora.weight:g}".replace("0.", ".") for lora in mixes.heard(spec)]
    return " ".join(weights) or "plain"


def _said(view: wire.MixView, *, busy: str) -> tuple[str, str]:
    """Where a picture is, and its tone."""
    if view.failure is not None:
        return clean(f"{view.failure.message} r: try again"), "error"
    if view.stage == "done":
        said = "full picture, painted before"
        if view.seconds:
            said = f"full picture in {view.seconds:.1f} s"
        return (clean(" · ".join(view.notes)), "warning") if view.notes else (said, "")
    turn = f" · beside {busy}" if busy else ""
    if view.stage == "waiting" or not view.steps:
        return f"waiting for the engine…{turn}", ""
    what = "sharpening" if view.stage == "full" and not view.sharp else view.stage
    return f"{what} {view.step}/{view.steps}{turn}", ""
