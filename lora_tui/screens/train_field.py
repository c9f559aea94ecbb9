"""A field of the Train form: an option, its value or the values of a sweep, what is wrong."""

from __future__ import annotations

from typing import cast

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
        yield self._entry()
        yield Static("", classes="wrong", markup=False)

    def _entry(self) -> Input | Select[str]:
        """What its value is typed or chosen in."""
        if self.swept:
            return Input(self._text, compact=True, placeholder="4, 8, 16", classes="swept")
        if self._kind == "choice":
            values = list(self._choices)
            if self._text and self._text not in values:
                values.insert(0, self._text)
            return Select(
                [(value, value) for value in values],
                value=self._text if self._text in values else Select.NULL,
                allow_blank=self._text not in values,
                compact=True,
                prompt="choose",
            )
        if self._kind == "switch":
            return Select(
                [("yes", "yes"), ("no", "no")], value=self._text, allow_blank=False, compact=True
            )
        return Input(self._text, compact=True, placeholder="none" if self._kind == "list" else "")

    async def sweep(self, text: str | None) -> None:
        """Hold several values from now on, beginning with ``text``; None: one again."""
        self.swept = text is not None
        if text is not None:
            self._single, self._text = self.text, text
        else:
            self._text = self._single
        entry = self._entry()
        await self.query_one("Input, Select").remove()
        await self.mount(entry, after=self.query_one(".label"))
        self.count(0)
        entry.focus()

    def count(self, values: int) -> None:
        """Say beside its name how many values it holds."""
        label = Text(f"×{values} ", style="bold") if self.swept else Text()
        self.query_one(".label", Static).update(label + self._label)

    @property
    def entry(self) -> Input | Select[str]:
        return cast("Input | Select[str]", self.query_one("Input, Select"))

    @property
    def text(self) -> str:
        widget = self.query_one("Input, Select")
        if isinstance(widget, Input):
            return widget.value
        assert isinstance(widget, Select)
        return "" if widget.value is Select.NULL else str(widget.value)

    def fill(self, text: str) -> None:
        """Put another value in."""
        widget = self.query_one("Input, Select")
        if isinstance(widget, Input):
            widget.value = text
        elif isinstance(widget, Select):
            if text not in [value for _, value in widget._options]:
                widget.set_options([(text, text), *((v, v) for v in self._choices)])
            widget.value = text

    def offer(self, choices: list[str]) -> None:
        """Other choices (datasets, bases); the present one stays."""
        if choices == self._choices:
            return
        self._choices = choices
        if self.swept:
            return
        select = self.query_one(Select)
        present = self.text
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
