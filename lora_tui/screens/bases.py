"""Bases: what LoRAs are trained on and used with, what each is, and adding another."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.core import bases, words
from lora_tui.screens.adding import AddBase
from lora_tui.screens.base import Place
from lora_tui.screens.dialogs import AskText, Choose, Confirm
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import wire
from shared.wire import FAMILIES, BaseModel, Objective

_NONE = "No bases yet. Add one: a diffusers folder, a .safetensors file, a Hub id, or an address."
_OBJECTIVES: tuple[Objective, ...] = ("epsilon", "v_prediction")


class Bases(Place):
    scope = "bases"
    CSS_PATH = "bases.tcss"
    BINDINGS = bindings("bases")

    def __init__(self) -> None:
        super().__init__()
        self._shown = ""
        self._filter = ""
        self._bases: list[BaseModel] = []

    def body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(classes="panel", id="list") as panel:
                panel.border_title = "bases"
                yield Rows(
                    Column("", 1),
                    Column("name"),
                    Column("family", 7),
                    Column("predicts", 8, wide=44),
                    Column("size", 8, "right", wide=44),
                    empty=_NONE,
                    id="rows",
                )
            with Vertical(classes="panel", id="about") as panel:
                panel.border_title = "about"
                with VerticalScroll(can_focus=False):
                    yield Static("", id="info", markup=False)

    @property
    def rows(self) -> Rows:
        return self.query_one(Rows)

    @property
    def base_shown(self) -> BaseModel | None:
        return next((base for base in self.state.bases if base.name == self._shown), None)

    def on_mount(self) -> None:
        self.rows.focus()

    # ── the state ───────────────────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent | None) -> None:
        if self.built and (event is None or isinstance(event, wire.BaseChanged | wire.BaseRemoved)):
            self._show_list()

    def _show_list(self) -> None:
        needle = self._filter.lower()
        self._bases = [
            base for base in self.state.bases if needle in f"{base.name} {base.family}".lower()
        ]
        place = next((i for i, x in enumerate(self._bases) if x.name == self._shown), 0)
        found = self._bases
        self.query_one("#list").border_title = f"bases · {self._filter}" if needle else "bases"
        self.rows.say(f"No base has {self._filter!r} in its name." if needle else _NONE)
        self.rows.show(len(found), lambda i: self._cells(found[i]), cursor=place)
        self._open(found[place].name if found else "")

    def _cells(self, base: BaseModel) -> Sequence[Cell]:
        mark: Cell = ("!", "error") if base.problem else ("?", "warning") if base.guessed else " "
        return [
            mark,
            base.name,
            (base.family, "muted"),
            (bases.predicts(base), "muted"),
            (words.size(base.size), "muted"),
        ]

    def _open(self, name: str) -> None:
        self._shown = name
        base = self.base_shown
        self.query_one("#info", Static).update(_text(base) if base is not None else "")

    def on_rows_moved(self, message: Rows.Moved) -> None:
        if message.index < len(self._bases):
            self._open(self._bases[message.index].name)

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.action_inspect()

    # ── keys ────────────────────────────────────────────────────────────────────────────────────

    def action_add(self) -> None:
        def added(base: BaseModel | None) -> None:
            if base is None:
                return
            self._shown = base.name
            self._show_list()
            if base.guessed:
                self._ask_objective(base)

        self.app.push_screen(AddBase(), added)

    def action_inspect(self) -> None:
        base = self.base_shown
        if base is None:
            return

        def looked(now: BaseModel) -> None:
            said = now.problem or f"{now.name} is whole: {words.size(now.size)}, {now.family}."
            self.notify(said, severity="error" if now.problem else "information")

        self.attempt(self.lora.ask(wire.InspectBase(base=base.name)), looked, group="inspect")

    def action_objective(self) -> None:
        base = self.base_shown
        if base is not None:
            self._ask_objective(base)

    def _ask_objective(self, base: BaseModel) -> None:
        if base.objective not in _OBJECTIVES:
            family = FAMILIES.get(base.family, base.family)
            self.notify(
                f"{base.name} is a {family}, which predicts {bases.predicts(base)}, always."
            )
            return
        options = [
            ("e", "noise (epsilon)", "usual"),
            ("v", "v (v-prediction)", "SD 2, some XL"),
        ]

        def answered(place: int | None) -> None:
            if place is not None:
                request = wire.AddBase(path=base.path, name=base.name, predicts=_OBJECTIVES[place])
                self.attempt(self.lora.ask(request))

        self.app.push_screen(
            Choose(
                f"What does {base.name} predict?" + (" It was only guessed." * bool(base.guessed)),
                options,
                chosen=_OBJECTIVES.index(base.objective),
            ),
            answered,
        )

    def action_remove(self) -> None:
        base = self.base_shown
        if base is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.attempt(
                    self.lora.ask(wire.RemoveBase(base=base.name)),
                    lambda _: self.notify(f"{base.name} is forgotten."),
                )

        self.app.push_screen(
            Confirm(f"Forget {base.name}?", f"The files stay where they are: {base.path}"), answered
        )

    def action_filter(self) -> None:
        def typed(text: str | None) -> None:
            if text is not None:
                self._filter = text
                self._show_list()

        self.app.push_screen(AskText("Show bases with", value=self._filter), typed)


def _text(base: BaseModel) -> str:
    from lora_tui.core.cells import clean

    rows = [(name, clean(value)) for name, value in bases.about(base) if value]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
