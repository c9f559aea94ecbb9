"""Runs that go on from others: more steps for one that has ended, or a fork set otherwise."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.suggester import Suggester
from textual.widgets import Input, Select, Static

from lora_tui.core import forking, words
from lora_tui.core.cells import clean
from lora_tui.screens.base import Dialog, Place
from lora_tui.screens.dialogs import AskText
from lora_tui.widgets.bind import bindings
from shared import wire
from shared.errors import LoraError


def extend(place: Place, run: wire.Run) -> None:
    """Ask for how many more steps, and queue the run again."""
    if run.state not in ("finished", "stopped"):
        place.notify(f"{run.id} is {run.state}: only what has ended takes more steps.")
        return

    def typed(text: str | None) -> None:
        if text is None:
            return
        if not text.isdecimal() or not int(text):
            place.notify(f"{text!r} is not a number of steps.", severity="warning")
            return
        ask = wire.ExtendRun(run=run.id, steps=int(text))
        place.attempt(place.lora.ask(ask), lambda done: place.notify(done.told, timeout=10))

    def came(detail: wire.RunDetail) -> None:
        title = f"{run.id} ended at step {words.count(run.step)}. How many more?"
        each, text = forking.epoch(detail)
        place.app.push_screen(AskText(title, text, value=str(each)), typed)

    place.attempt(place.lora.ask(wire.GetRun(run=run.id)), came)


def fork(place: Place, run: wire.Run) -> None:
    """Ask from where and with what, and queue the fork."""

    def came(detail: wire.RunDetail) -> None:
        place.app.push_screen(Fork(detail), forked)

    def forked(done: wire.Continued | None) -> None:
        if done is None:
            return
        place.lora.opened_run = done.run.id
        place.notify(f"{done.run.id}: {done.told}", timeout=12)
        place.state_changed(None)

    place.attempt(place.lora.ask(wire.GetRun(run=run.id)), came)


class Keys(Suggester):
    """The rest of the option's name that is being typed."""

    async def get_suggestion(self, value: str) -> str | None:
        return forking.completed(value)


class Fork(Dialog[wire.Continued | None]):
    """The step to begin from and what is set otherwise, checked as one types. Answers what was
    queued, None when left; while the daemon refuses it, what was typed stays."""

    BINDINGS = bindings("fork")

    def __init__(self, detail: wire.RunDetail) -> None:
        super().__init__()
        self._detail = detail
        self._asking = False  # a second press queues no second fork

    def compose(self) -> ComposeResult:
        run = self._detail.run
        at, settings = forking.offered(self._detail)
        with Vertical(classes="window -wide") as window:
            window.border_title = Text(f"A fork of {run.id} {clean(run.name)}")
            with Horizontal(classes="line"):
                yield Static("from", classes="name")
                steps = forking.steps(self._detail)
                yield Select(
                    [(text, step) for step, text in steps], value=at, allow_blank=False,
                    compact=True, id="step",
                )  # fmt: skip
            for number in range(forking.LINES):
                with Horizontal(classes="line"):
                    yield Static("set otherwise" if not number else "", classes="name")
                    yield Input(
                        settings[number] if number < len(settings) else "",
                        compact=True, classes="setting", suggester=Keys(use_cache=False),
                        placeholder="optimizer.learning_rate=5e-5" if not number else "",
                    )  # fmt: skip
            with Horizontal(classes="line"):
                yield Static("name", classes="name")
                yield Input("", compact=True, id="name", placeholder="its parent's, and the step")
            yield Static("", id="help", markup=False)
            yield Static("", id="wrong", markup=False)
            yield self.keys_line("fork.start", "fork.leave")

    def on_mount(self) -> None:
        self.query(".setting").first(Input).focus()
        self._tell()

    def settings(self) -> list[str]:
        """What is set otherwise, as it is typed."""
        texts = (line.value.strip() for line in self.query(".setting").results(Input))
        return [text for text in texts if text]

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.has_class("setting"):
            self.query_one("#help", Static).update(forking.about(event.value, self._detail.recipe))
        self._tell()

    def on_select_changed(self, event: Select.Changed) -> None:
        self._tell()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.focus_next()

    def _tell(self) -> str:
        """Say how far the fork goes, or what is wrong with it; return the latter."""
        step = int(str(self.query_one("#step", Select).value))
        try:
            text = forking.foretold(self._detail, self.settings(), step)
        except LoraError as error:
            self._say(error.message, wrong=True)
            return error.message
        self._say(text)
        return ""

    def _say(self, text: str, *, wrong: bool = False) -> None:
        said = self.query_one("#wrong", Static)
        said.set_class(wrong, "-error")
        said.update(text)

    def action_start(self) -> None:
        if not self._asking and not self._tell():
            self._asking = True
            self.run_worker(self._queue(), group="fork")

    async def _queue(self) -> None:
        ask = wire.ForkRun(
            run=self._detail.run.id,
            step=int(str(self.query_one("#step", Select).value)),
            settings=self.settings(),
            name=self.query_one("#name", Input).value.strip(),
        )
        try:
            done = await self.lora.ask(ask)
        except LoraError as error:
            self._say(error.message, wrong=True)
        else:
            self.dismiss(done)
        finally:
            self._asking = False

    def action_leave(self) -> None:
        self.dismiss(None)
