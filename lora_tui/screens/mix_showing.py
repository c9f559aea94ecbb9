"""The Mixer's eyes: the mix as it is wanted, its picture, and what has been tried."""

from __future__ import annotations

import asyncio
from functools import partial

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Static

from lora_tui.core.cells import clean
from lora_tui.core.mix_desk import MixDesk
from lora_tui.screens.base import Dialog, Place
from lora_tui.widgets.mix_rows import MixRows, beside_weight
from lora_tui.widgets.picture import Fetch, PictureView
from lora_tui.widgets.tries import MANY, Tries
from shared import mixes, wire
from shared.affinity import Affinity, Fit
from shared.errors import LoraError
from shared.mixes import MixSpec

LONGEST = 10_000  # characters of a prompt
_MARKS: dict[Fit, tuple[str, str]] = {
    "same": ("✓", "muted"), "kin": ("✓", "muted"), "distant": ("⚠", "warning"),
    "foreign": ("⚠", "error"), "misfit": ("✗", "error"), "unknown": ("?", "muted"),
}  # fmt: skip
AWAY = 1.0  # seconds between two attempts to watch while there is no link


class MixShowing(Place):
    """Shows the live mix; changes nothing. Pictures are made while it is the screen shown."""

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
        self._fits: dict[tuple[str, str], Affinity | None] = {}  # (LoRA, base); None: asked

    async def _send(self, request: wire.ChangeMix) -> wire.Mix:
        return await self.lora.ask(request)

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

    def on_mount(self) -> None:
        self.rows.focus()
        self._watch()

    def on_screen_resume(self) -> None:
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
        if isinstance(event, wire.LoraChanged | wire.BaseChanged | wire.BaseRemoved):
            self._fits.clear()
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
            side = self.query_one("#picture", PictureView).side
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

    def on_mix_showing_viewed(self, message: Viewed) -> None:
        self._view = view = message.view
        if message.picture is not None:
            self.query_one("#picture", PictureView).show(
                view.picture, _held(message.picture), keep=True
            )
            self._show_tries()
        self._show_said()

    def on_mix_showing_moved(self, message: Moved) -> None:
        self._show_mix()

    def on_mix_showing_refused(self, message: Refused) -> None:
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
        self._look_at_fits()
        size = f" · {spec.width}×{spec.height}" if spec.width or spec.height else ""
        second = f" · then {spec.second.scale:g} ×" if spec.second else ""
        self.query_one("#settings", Static).update(
            f"seed {spec.seed} · {spec.sampler} · {spec.steps} · cfg {spec.cfg:g}{size}{second}"
        )
        self._show_said()

    def _look_at_fits(self) -> None:
        """Ask how each LoRA of the mix stands to its base, where that is not known."""
        base = self.spec.base
        wanted = [one.lora for one in self.spec.loras if (one.lora, base) not in self._fits]
        if wanted and self.lora.connection is not None:
            self._fits |= {(lora, base): None for lora in wanted}
            self.run_worker(self._ask_fits(base, wanted), group="fits")

    async def _ask_fits(self, base: str, loras: list[str]) -> None:
        for lora in loras:
            try:
                told = await self.lora.ask(wire.CheckAffinity(lora=lora, base=base))
            except LoraError:  # painting says what is wrong with it
                continue
            self._fits[lora, base] = told.found
            self._show_mix()

    def _warnings(self) -> list[str]:
        """Why LoRAs that count may not work on the mix's base."""
        fits = (self._fits.get((lora.lora, self.spec.base)) for lora in mixes.heard(self.spec))
        return [clean(one.warning) for one in fits if one is not None and one.warning]

    def _bases(self) -> dict[str, tuple[str, str, str]]:
        """How each LoRA's base fits: a mark, the base, a tone."""
        known = {lora.name: lora for lora in self.state.loras}
        found = {}
        for lora in self.spec.loras:
            own = known.get(lora.lora)
            fit = self._fits.get((lora.lora, self.spec.base))
            if own is None and not lora.lora.startswith("/"):
                found[lora.lora] = ("✗", "gone", "error")
            elif fit is not None:
                mark, tone = _MARKS[fit.fit]
                tone = "warning" if fit.warning and tone == "muted" else tone
                found[lora.lora] = (mark, clean(fit.trained_on or fit.says), tone)
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
            if view.stage == "done" and not tone and (why := self._warnings()):
                said, tone = " · ".join([said, *why]), "warning"
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
                (one.id, partial(self._tried, one.id), summary(one.spec), one.id == here)
                for one in self._tries
            ]
        )

    async def _tried(self, tried: str, side: int) -> bytes:
        _, picture = await self.lora.fetch(wire.GetTried(tried=tried, side=side))
        return picture[0]


def _held(picture: bytes) -> Fetch:
    """A picture that is here already, whatever its size."""

    async def fetch(side: int) -> bytes:
        return picture

    return fetch


def summary(spec: MixSpec) -> str:
    """The weights that count, as short as can be, with the letters of what a row has besides:
    .8 -.3B"""
    weights = [
        f"{lora.weight:g}".replace("0.", ".")
        + "".join(letter for on, letter in beside_weight(lora) if on)
        for lora in mixes.heard(spec)
    ]
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
        return f"{clean(view.before) or 'waiting for the engine'}…{turn}", ""
    what = "sharpening" if view.stage == "full" and not view.sharp else view.stage
    return f"{what} {view.step}/{view.steps}{turn}", ""
