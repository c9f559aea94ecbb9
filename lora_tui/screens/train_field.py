"""A field of the Train form: an option, its value or the values of a sweep, what is wrong."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Select, Static

from lora_tui.core.form import kind_of
from shared.recipe import Option

_LABELS = {"base.name": "base", "dataset.name": "dataset", "output.name": "name of the LoRA"}


class Field(Horizontal):
    """One option: its name, its field, and what is wrong with it."""

    def __init__(self, option: Option, text: str, choices: list[str] | None = None) -> None:
        super().__init__(id=field_id(option.key), classes="field")
        self.option = option
        self._text = text
        self._choices = choices if choices is not None else list(option.choices)
        self._kind = "choice" if choices is not None else kind_of(option)
        self.swept = False  # whether it holds several values, a run for each
        self._single = text  # what it held before

    def compose(self) -> ComposeResult:
        section, _, name = self.option.key.partition(".")
        label = Text(name.replace("_", " "))
        if self.option.key in _LABELS:
            label = Text(_LABELS[self.option.key])
        else:
            label = Text.assemble((f"{section} ", "dim"), label) if section != name else label
        self._label = label
        yield Static(label, classes="label")
        if self._kind == "choice":
            values = list(self._choices)
            if self._text and self._text not in values:
                values.insert(0, self._text)
            yield Select(
                [(value, value) for value in values],
                value=self._text if self._text in values else Select.NULL,
                allow_blank=self._text not in values,
                compact=True,
                prompt="choose",
            )
        elif self._kind == "switch":
            yield Select(
                [("yes", "yes"), ("no", "no")], value=self._text, allow_blank=False, compact=True
            )
        else:
            yield Input(
                self._text, compact=True, placeholder="none" if self._kind == "list" else ""
            )
        yield Static("", classes="wrong", markup=False)

    @property
    def _chosen(self) -> bool:
        """Whether its value is one of some: several are typed even so."""
        return self._kind in ("choice", "switch")

    async def sweep(self, swept: bool) -> None:
        """Hold several values from now on, the present one first; or that one again."""
        before = self.entry.has_focus
        single = self.text if swept else self._single
        if self._chosen:
            if not self.query(Input):
                await self.mount(Input(compact=True), after=self.query_one(Select))
            self.query_one(Select).display = not swept
            self.query_one(Input).display = swept
        typed = self.query_one(Input)
        self._single, self.swept = single, swept
        typed.value = single
        typed.cursor_position = len(single)  # more values come after the first
        typed.select_on_focus = not swept
        self.count(0)
        if swept or before:
            self.screen.set_focus(self.entry)  # at once: keys may have been typed ahead

    def count(self, values: int) -> None:
        """Say beside its name how many values it holds."""
        label = Text(f"×{values} ", style="bold") if self.swept else Text()
        self.query_one(".label", Static).update(label + self._label)

    @property
    def entry(self) -> Input | Select[str]:
        """What its value is typed or chosen in just now."""
        return self.query_one(Select) if self._chosen and not self.swept else self.query_one(Input)

    @property
    def text(self) -> str:
        entry = self.entry
        if isinstance(entry, Input):
            return entry.value
        return "" if entry.value is Select.NULL else str(entry.value)

    def fill(self, text: str) -> None:
        """Put another value in."""
        entry = self.entry
        if isinstance(entry, Input):
            entry.value = text
        else:
            if text not in [value for _, value in entry._options]:
                entry.set_options([(text, text), *((v, v) for v in self._choices)])
            entry.value = text

    def offer(self, choices: list[str]) -> None:
        """Other choices (datasets, bases); the present one stays."""
        if choices == self._choices:
            return
        self._choices = choices
        select = self.query_one(Select)
        present = "" if select.value is Select.NULL else str(select.value)
        values = choices if not present or present in choices else [present, *choices]
        with select.prevent(Select.Changed):
            select.set_options([(value, value) for value in values])
            if present:
                select.value = present

    def wrong(self, text: str) -> None:
        self.set_class(bool(text), "-wrong")
        self.query_one(".wrong", Static).update(text)


def field_id(key: str) -> str:
    return f"field-{key.replace('.', '-')}"
