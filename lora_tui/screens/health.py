"""The window that says what is wrong with a dataset, what shows it, and what mends it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec import convert
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.actions import BY_ID
from lora_tui.core import health_report, words
from lora_tui.core.cells import clean, clean_lines
from lora_tui.screens.base import Dialog, Place
from lora_tui.screens.bulk import BulkEdit, Choice, kept_text
from lora_tui.screens.dialogs import AskText, Page
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import wire
from shared.errors import LoraError
from shared.health import KINDS, Finding, Fix, Health

GROUP = "health"
AGAIN_AFTER = 0.4  # seconds after the last event about the dataset


def look(place: Place, dataset: wire.Dataset | None) -> None:
    """Open the window; a finding that is chosen in it is shown in Review."""
    if dataset is None:
        place.notify("Import a folder first: g d, then i.")
        return

    def chosen(filter: str | None) -> None:
        if filter is not None:
            place.lora.picture_filters[dataset.id] = filter
            place.lora.review_at = (dataset.id, "")
            place.app.call_later(_review, place)

    place.app.push_screen(HealthWindow(dataset), chosen)


async def _review(place: Place) -> None:
    if place.scope == "review":
        place.state_changed(None)
    else:
        await place.lora.action_open("review")


class HealthWindow(Dialog[str | None]):
    """Answers the filter of the finding that was chosen, None when left."""

    BINDINGS = bindings("health")

    def __init__(self, dataset: wire.Dataset) -> None:
        super().__init__()
        self._dataset = dataset
        self._health: Health | None = None
        self._findings: list[Finding] = []  # as listed

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -page") as window:
            window.border_title = f"Health of {clean(self._dataset.name)}"
            window.border_subtitle = "enter: look at them in Review · esc: close"
            yield Static(markup=False, id="about")
            yield Rows(
                Column("", 1), Column("", 7, "right"), Column(""), Column("", 12, wide=44),
                id="findings", empty="Looking …",
            )  # fmt: skip
            with VerticalScroll(id="meaning", can_focus=False):
                yield Static(markup=False, id="means")
            yield Static(markup=False, id="said")
            yield self.keys_line(
                "health.check", "health.fix", "health.undo", "health.advice", "health.trigger",
                "health.resolution",
            )  # fmt: skip

    @property
    def rows(self) -> Rows:
        return self.query_one("#findings", Rows)

    @property
    def finding(self) -> Finding | None:
        at = self.rows.cursor
        return self._findings[at] if at < len(self._findings) else None

    def on_mount(self) -> None:
        self.rows.focus()
        self._ask()

    # ── what is known ───────────────────────────────────────────────────────────────────────────

    def _ask(self, after: float = 0.0) -> None:
        async def ask() -> None:
            await asyncio.sleep(after)
            try:
                found = await self.lora.ask(wire.GetHealth(dataset=self._dataset.id))
            except LoraError as error:
                self._say(error.message, error=True)
            else:
                self._show(found.health)

        # The function, not its coroutine: one that is replaced at once was never begun.
        self.run_worker(ask, group="known", exclusive=True)  # type: ignore[arg-type]

    def _show(self, health: Health) -> None:
        here, self._health = self.finding, health
        self._findings = sorted(health.findings, key=lambda one: (not one.count, bool(one.unknown)))
        at = self.rows.cursor  # where the next one has moved up if this is mended
        for place, one in enumerate(self._findings):
            if here is not None and one.kind == here.kind and one.count:
                at = place
        about = health_report.about(health)
        if health.unchecked:
            about += f": {self.lora.keymap.shown(BY_ID['health.check'])} measures them"
        self.query_one("#about", Static).update(clean(f"{about}."))
        self.rows.show(len(self._findings), self._cells, cursor=at)
        self._explain()

    def _cells(self, place: int) -> Sequence[Cell]:
        one = self._findings[place]
        title = KINDS[one.kind].title
        if not one.count:
            mark = ("?", "faint") if one.unknown else ("✓", "success")
            return [mark, ("–", "faint"), (title, "faint"), ("", "")]
        tone = "warning" if KINDS[one.kind].grave else "muted"
        mends = ""
        if one.fix is not None:
            does = "rejects" if one.fix.state == "rejected" else "mends"
            mends = f"{self.lora.keymap.shown(BY_ID['health.fix'])} {does}"
        return [("!", tone), (words.count(one.count), tone), title, (mends, "primary")]

    def _explain(self) -> None:
        """What the finding under the cursor means."""
        one = self.finding
        if one is None:
            return
        lines = [KINDS[one.kind].meaning]
        if one.unknown:
            lines.append(one.unknown)
        if one.examples:
            more = f", … and {words.count(one.more)} more" if one.more else ""
            lines.append(f"{' · '.join(one.examples)}{more}")
        if one.fix is not None:
            lines.append(f"{self.lora.keymap.shown(BY_ID['health.fix'])}: {one.fix.what}")
        self.query_one("#means", Static).update(clean_lines("\n".join(lines)))

    def on_rows_moved(self, message: Rows.Moved) -> None:
        self._explain()

    def _say(self, text: str, *, error: bool = False) -> None:
        said = self.query_one("#said", Static)
        said.update(clean(text))
        said.set_class(error, "-error")

    def state_changed(self, event: wire.AnyEvent) -> None:
        dataset: Any = getattr(event, "dataset", "")
        if getattr(dataset, "id", dataset) == self._dataset.id and self.is_mounted:
            self._ask(after=AGAIN_AFTER)

    # ── what is done about it ───────────────────────────────────────────────────────────────────

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        one = self.finding
        if one is None or not one.count:
            return
        if one.filter:
            self.dismiss(one.filter)
        else:
            self._say("No picture belongs to these files: look into the folder.")

    def action_check(self) -> None:
        if any(work.group == GROUP and work.is_running for work in self.app.workers):
            self._say("A check of yours is running already.")
        else:
            self._check(wire.CheckHealth(dataset=self._dataset.id))

    def _check(self, ask: wire.CheckHealth) -> None:
        """It goes on when this window is left, and is said in the corner then."""
        lora = self.lora

        def say(text: str, *, error: bool = False) -> None:
            if self.is_attached:
                self._say(text, error=error)
            elif error or not text.endswith("…"):
                lora.notify(clean(text), severity="error" if error else "information")

        def told(done: int, total: int, text: str) -> None:
            if self.is_attached:
                self._say(f"checking … {text}")

        async def check() -> None:
            say("checking …" if ask.measure else "")
            try:
                found = await lora.ask(ask, on_progress=told)
            except LoraError as error:
                say(error.message, error=True)
            except asyncio.CancelledError:
                say("Cancelled. What was measured stays; checked again, it goes on.")
                raise
            else:
                if self.is_attached:
                    self._show(found.health)
                if ask.measure:
                    say(_summed(found))

        lora.run_worker(check(), group=GROUP)

    def action_fix(self) -> None:
        one = self.finding
        if one is None or one.fix is None:
            self._say("For this a person has to decide: enter shows them in Review.")
        else:
            self._mend(one.fix, KINDS[one.kind].title)

    def _mend(self, fix: Fix, title: str) -> None:
        def changed(edited: wire.Edited | None) -> None:
            if edited is None:
                return
            undo = self.lora.keymap.shown(BY_ID["health.undo"])
            self._say(f"{edited.what}: {words.plural(edited.changed, 'picture')}. "
                      f"{undo} takes it back.")  # fmt: skip
            self._ask()
            if edited.conflicts:
                text = kept_text(edited.kept, edited.conflicts)
                self.app.push_screen(Page("Left alone: changed meanwhile", text))

        choice = Choice(fix.what, fix.what, state=fix.state, edits=tuple(fix.edits))
        ask = wire.PreviewEdit(dataset=self._dataset.id, filter=fix.filter)
        self.app.push_screen(
            BulkEdit(ask, f"{title}: {clean(fix.what)}", choices=[choice]), changed
        )

    def action_undo(self) -> None:
        async def undo() -> None:
            try:
                done = await self.lora.ask(wire.UndoCaption(dataset=self._dataset.id))
            except LoraError as error:
                if kept := error.data.get("kept"):
                    found = convert(kept, list[wire.Kept])
                    self.app.push_screen(Page(error.message, kept_text(found, len(found))))
                self._say(error.message, error=True)
            else:
                self._say(f"Taken back: {done.what} ({words.plural(done.changed, 'caption')}).")
                self._ask()

        self.run_worker(undo(), group="undo", exclusive=True)

    def action_advice(self) -> None:
        if self._health is not None:
            told = (clean_lines(f"{o.about}: {o.text}\n{o.why}") for o in self._health.advice)
            self.app.push_screen(Page("What this set is good for", "\n\n".join(told)))

    def action_trigger(self) -> None:
        def said(word: str | None) -> None:
            if word is not None:
                self._set(trigger=word)

        present = self._health.trigger if self._health is not None else ""
        text = "Every caption is to have it; leave it empty for none."
        self.app.push_screen(AskText("Trigger word", text, present), said)

    def action_resolution(self) -> None:
        def said(pixels: str | None) -> None:
            if pixels is None:
                return
            if pixels.isdigit():
                self._set(resolution=int(pixels))
            else:
                self._say("The resolution is a number of pixels, such as 512 or 1024.", error=True)

        present = str(self._health.resolution) if self._health is not None else ""
        text = "The side in pixels that the set is to be trained at."
        self.app.push_screen(AskText("Training resolution", text, present), said)

    def _set(self, **changes: Any) -> None:
        self._check(wire.CheckHealth(dataset=self._dataset.id, measure=False, **changes))

    def action_leave(self) -> None:
        self.dismiss(None)


def _summed(found: wire.HealthFound) -> str:
    """What came of a check."""
    name = found.health.name
    if not found.problems:
        kinds = sum(bool(one.count) for one in found.health.findings)
        return f"{name} is checked: {words.plural(kinds, 'kind')} of finding."
    picture, why = found.problems[0]
    several = words.plural(len(found.problems), "picture")
    return f"{name} is checked, but for {several}: {picture} {why}."
