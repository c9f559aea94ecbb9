"""The window that asks which pictures to show: a filter, its mistakes below, others to take."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input, Static

from lora_tui.core import words
from lora_tui.core.cells import carets, clean
from lora_tui.screens.base import Dialog
from lora_tui.screens.dialogs import AskText, Page
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.rows import Column, Rows
from shared import wire
from shared.errors import LoraError
from shared.filters import FIELDS, FilterError, parse

_HINT = 'tag:dragon AND NOT (state:accepted OR tokens:>75) · "as it stands" · /regex/'


@dataclass(frozen=True)
class Choice:
    """A filter to take as it is. ``saved``: the name it is saved under."""

    filter: str
    remark: str
    saved: str = ""


class Filter(Dialog[str | None]):
    """Answers a filter that some pictures pass, "" for all of them, None when left."""

    BINDINGS = bindings("filter")

    def __init__(self, dataset: wire.Dataset, present: str) -> None:
        super().__init__()
        self._dataset = dataset
        self._present = present
        self._choices: list[Choice] = []
        self._asking = ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -wide") as window:
            window.border_title = f"Show pictures of {clean(self._dataset.name)}"
            window.border_subtitle = "enter: show them · ↑↓: take another · esc: leave"
            yield Input(self._present, placeholder="all pictures", compact=True, id="filter")
            yield Static(_HINT, markup=False, id="said")
            yield Rows(Column(""), Column("", 24, "right"))
            yield self.keys_line("filter.save", "filter.forget", "filter.fields")

    @property
    def field(self) -> Input:
        return self.query_one("#filter", Input)

    @property
    def rows(self) -> Rows:
        return self.query_one(Rows)

    def on_mount(self) -> None:
        self._show_choices(self._present)
        self.field.focus()

    # ── others to take ──────────────────────────────────────────────────────────────────────────

    def _show_choices(self, at: str) -> None:
        dataset, state = self._dataset, self.lora.state
        choices = [Choice("", words.plural(dataset.items, "picture"))]
        choices += [Choice(s.filter, f"★ {s.name}", s.name) for s in state.filters]
        choices += [
            Choice(f"state:{name}", words.count(dataset.counts.get(name, 0)))
            for name in wire.CAPTION_STATES
        ]
        if dataset.empty:
            choices.append(Choice("issue:no-caption", words.count(dataset.empty)))
        if dataset.problems:
            choices.append(Choice("issue:unusable", words.count(dataset.problems)))
        known = {choice.filter for choice in choices}
        history = self.lora.filter_history.texts
        choices += [Choice(text, "used before") for text in history if text not in known]
        self._choices = choices
        place = next((i for i, choice in enumerate(choices) if choice.filter == at), 0)
        self.rows.styles.height = min(len(choices), 12)
        self.rows.show(
            len(choices),
            lambda i: [choices[i].filter or "all pictures", (choices[i].remark, "muted")],
            cursor=place,
        )

    def _take(self, by: int) -> None:
        self.rows.cursor = min(max(self.rows.cursor + by, 0), len(self._choices) - 1)
        self._put(self._choices[self.rows.cursor].filter)

    def _put(self, text: str) -> None:
        self.field.value = text
        self.field.cursor_position = len(text)

    def action_earlier(self) -> None:
        self._take(-1)

    def action_later(self) -> None:
        self._take(1)

    def on_rows_moved(self, message: Rows.Moved) -> None:
        if self.rows.has_focus:
            self._put(self._choices[message.index].filter)

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self._submit(self._choices[message.index].filter)

    # ── the filter ──────────────────────────────────────────────────────────────────────────────

    def on_input_changed(self, event: Input.Changed) -> None:
        self._asking = ""
        self._checked(event.value)

    def _checked(self, text: str) -> bool:
        """Whether a filter makes sense; if not, where it does not stands below."""
        try:
            parse(text)
        except FilterError as error:
            self._say_mistake(text, error.start, error.end, error.message)
            return False
        self._say(_HINT)
        return True

    def _say_mistake(self, text: str, start: int, end: int, message: str) -> None:
        line = carets(text, start, end)[int(self.field.scroll_offset.x) :]
        shown = f"{line}\n" if len(line) <= self.field.size.width - 2 else ""
        self._say(f"{shown}{message}", error=True)

    def _say(self, text: str, *, error: bool = False) -> None:
        said = self.query_one("#said", Static)
        said.update(text)
        said.set_class(error, "-error")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._submit(event.value.strip())

    def _submit(self, text: str) -> None:
        if text and self._checked(text):
            self._asking = text
            self._say("looking …")
            self.run_worker(self._look(text), group="look", exclusive=True)
        elif not text:
            self.dismiss("")

    async def _look(self, text: str) -> None:
        """The daemon knows more mistakes, and whether anything passes."""
        ask = wire.ListItems(dataset=self._dataset.id, filter=text, limit=0)
        try:
            total = (await self.lora.ask(ask)).total
        except LoraError as error:
            if text == self._asking:
                self._say(error.message, error=True)
            return
        if text != self._asking:
            return
        if total:
            self.lora.filter_history.add(text)
            self.dismiss(text)
        else:
            self._say("No picture passes this filter.", error=True)

    # ── filters with a name ─────────────────────────────────────────────────────────────────────

    def action_save(self) -> None:
        text = self.field.value.strip()
        if not text or not self._checked(text):
            return

        def named(name: str | None) -> None:
            if name:
                self._change(self.lora.ask(wire.SaveFilter(name=name, filter=text)))

        known = next((c.saved for c in self._choices if c.saved and c.filter == text), "")
        self.app.push_screen(
            AskText("Save this filter as", f"{text}\n\nEverybody here will have it.", known), named
        )

    def action_forget(self) -> None:
        choice = self._choices[self.rows.cursor]
        if not choice.saved:
            self._say("Choose a saved filter (★) first: ↑ and ↓.", error=True)
            return
        self._change(self.lora.ask(wire.RemoveFilter(name=choice.saved)))

    def _change(self, asking: Awaitable[Any]) -> None:
        async def change() -> None:
            try:
                await asking
            except LoraError as error:
                self._say(error.message, error=True)

        self.run_worker(change())

    def state_changed(self, event: wire.AnyEvent) -> None:
        if isinstance(event, wire.FilterSaved | wire.FilterRemoved) and self.is_mounted:
            self._show_choices(self.field.value.strip())

    def action_fields(self) -> None:
        lines = [
            f"{field.name + ':':<11} {field.help}\n{'':<11} {field.example}"
            + (f" ({', '.join(field.choices)})" if field.choices else "")
            for field in FIELDS.values()
        ]
        lines.append(
            "A word alone is looked for in the caption and the file's name. * stands for any "
            'characters, ? for one, \\ takes the next as it stands. "…" keeps spaces together, '
            "/…/ is a regular expression. AND (or a space), OR, NOT and parentheses join them.\n\n"
            "Numbers: 75, >75, >=75, <75, <=75, 50..75, 50.., ..75; a ratio also 16:9."
        )
        self.app.push_screen(Page("What a filter can ask", "\n\n".join(lines)))

    def action_leave(self) -> None:
        self.dismiss(None)
