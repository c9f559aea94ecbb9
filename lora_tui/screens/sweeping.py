"""The Train form's runs: one or a sweep of them, when they begin, and what they come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Select, Static

from lora_tui.actions import BY_ID
from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.core.form import Form
from lora_tui.core.form_sweep import Axes
from lora_tui.core.train_sums import in_words, sums
from lora_tui.screens.base import Place
from lora_tui.screens.train_field import Field
from shared import wire
from shared.errors import LoraError
from shared.recipe import Recipe, dump

BEGINS_HELP = (
    "When the queue is to take it up: in its turn; not before you let it go on (p in Runs); or "
    "once another run has left its LoRA."
)
_NOW, _HELD = "in its turn", "held"


class Sweeping(Place):
    """Mixed into Train."""

    _form: Form
    _axes: Axes
    _at = ""  # the field that one was in last

    def field(self, key: str) -> Field:
        raise NotImplementedError

    def fields(self) -> dict[str, Field]:
        raise NotImplementedError

    def _sum_up_soon(self) -> None:
        raise NotImplementedError

    async def point_at(self, problems: Mapping[str, str]) -> None:
        raise NotImplementedError

    # ── when ────────────────────────────────────────────────────────────────────────────────────

    def begins(self) -> Iterator[Widget]:
        """The line that says when."""
        with Horizontal(classes="field", id="when"):
            yield Static("begins", classes="label")
            yield Select(
                self._times(), value=_NOW, allow_blank=False, compact=True, id="begins"
            )  # fmt: skip

    def _times(self) -> list[tuple[Content, str]]:
        open_ = [run for run in self.state.runs if run.state not in wire.FINAL_STATES]
        after = [(Content(f"after {run.id} {clean(run.name)}"), run.id) for run in open_]
        held = Content("when I let it go on: held in the queue")
        return [(Content("in its turn"), _NOW), (held, _HELD), *after]

    def offer_runs(self) -> None:
        """The runs that there are to wait for; one that has left its LoRA is waited for no more."""
        select = self.query_one("#begins", Select)
        times = self._times()
        if [value for _, value in times] == [value for _, value in select._options]:
            return
        present = select.value
        with select.prevent(Select.Changed):
            select.set_options(times)
            select.value = present if present in [value for _, value in times] else _NOW

    # ── what ────────────────────────────────────────────────────────────────────────────────────

    def recipes(self) -> list[Recipe]:
        """The recipe of each run. Raises LoraError(INVALID_RECIPE)."""
        if not self._axes:
            return [self._form.recipe()]
        return [one.recipe for one in self._axes.runs()]

    def problems(self) -> dict[str, str]:
        """What is wrong, by the field's key."""
        if not self._axes:
            return self._form.problems()
        try:
            self._axes.runs()
        except LoraError:
            single = {key: self._form.problem(key) for key in self._form.options}
        else:
            return self._axes.problems()
        found = {key: text for key, text in single.items() if text and key not in self._axes.texts}
        return found or self._axes.problems()

    def at_field(self, field: Field) -> None:
        """The keyboard is in this field: outside of all, it is the one that is meant."""
        self._at = field.option.key

    def sweep_help(self, field: Field) -> str:
        """What the sweep key does in this field."""
        key = self.lora.keymap.all_shown(BY_ID["train.sweep"]).split()[-1]
        if not field.swept:
            return f"{key}: several values, a run for each."
        return f"Values with commas between, a run for each. {key}: one value again."

    async def action_sweep(self) -> None:
        """The field one is in holds several values, or one again."""
        here = self.focused.parent if self.focused is not None else None
        if not isinstance(here, Field) and not self._at:
            self.notify("Go to the field that is to be swept, and press it there.")
            return
        field = here if isinstance(here, Field) else self.field(self._at)
        key = field.option.key
        if field.swept:
            del self._axes.texts[key]
            await field.sweep(False)
            field.wrong(self._form.problem(key))
        else:
            self._axes.texts[key] = field.text
            await field.sweep(True)
            self.swept_changed(field, always=True)
        self._sum_up_soon()

    def swept_changed(self, field: Field, *, always: bool = False) -> None:
        """The values of a swept field are others now."""
        key = field.option.key
        if self._axes.texts.get(key) == field.text and not always:
            return
        self._axes.texts[key] = field.text
        field.count(len(self._axes.pieces(key)))
        field.wrong(self._axes.problem(key))
        self._sum_up_soon()

    async def sweep_nothing(self) -> None:
        """Every field holds one value again."""
        for key in list(self._axes.texts):
            del self._axes.texts[key]
            await self.field(key).sweep(False)

    # ── what it comes to ────────────────────────────────────────────────────────────────────────

    def sums_said(
        self, said: Text, recipes: Sequence[Recipe], pictures: int, shown: Sequence[int]
    ) -> None:
        """All runs of a sweep together, and the LoRA files of one run or all. ``pictures``: those
        kept back among them."""
        tone = self.lora.tone
        alike = not any(key.startswith("dataset.") for key in self._axes.texts)
        gpus = max(1, len(self.lora.known.workers))
        found = sums(
            recipes, pictures, shown if alike else (), self.state.runs, self.state.loras,
            self.state.bases, gpus,
        )  # fmt: skip
        if self._axes:
            number = words.plural(found.runs, "run")
            said.append(f"\nA sweep: {number}", style=tone("accent bold"))
            each = words.count(found.shortest)
            if found.shortest != found.longest:
                each += f"–{words.count(found.longest)}"
            said.append(f" of {each} steps = ")
            said.append(f"{words.count(found.steps)} steps", style=tone("primary bold"))
        if foretold := in_words(found):
            at_once = f", {gpus} GPUs at work" if gpus > 1 and found.runs > 1 else ""
            said.append(f"\n{foretold}{at_once}", style=tone("bold"))
        if found.bytes is not None:
            said.append(f"\nabout {words.size(found.bytes)} of LoRA files", style=tone("muted"))

    # ── and off ─────────────────────────────────────────────────────────────────────────────────

    async def ask_whether_wrong(self) -> None:
        """Ask the daemon, who knows the bases, whether it would queue this."""
        made = self.recipes()
        later = str(self.query_one("#begins", Select).value) not in (_NOW, _HELD)
        try:
            await self.lora.ask(wire.CheckRecipes(recipes=[dump(one) for one in made], later=later))
        except LoraError as error:
            await self._refused(error)
            return
        what = f"these {len(made)} recipes" if self._axes else "this recipe"
        self.notify(f"Nothing is wrong with {what}.")

    async def _refused(self, error: LoraError) -> None:
        """What the daemon refuses is said at its field."""
        key = str(error.data.get("key", ""))
        if key in self._form.options:
            await self.point_at({key: error.message})
        self.notify(error.message, severity="error", timeout=8)

    async def queue_runs(self) -> None:
        """Queue the run, or all of the sweep."""
        value = str(self.query_one("#begins", Select).value)
        after = [] if value in (_NOW, _HELD) else [value]
        held = value == _HELD
        try:
            if self._axes:
                ask = wire.StartSweep(
                    recipe=self._axes.recipe(), sweep=self._axes.sweep(), after=after, held=held
                )
                group = await self.lora.ask(ask)
                runs = group.runs
                said = f"{words.plural(len(runs), 'run')} are in the queue: {group.group}."
                opened = f"group:{group.group}" if len(runs) > 1 else runs[0].id
            else:
                run = await self.lora.ask(
                    wire.StartRun(recipe=self._form.toml(), after=after, held=held)
                )
                runs, said, opened = [run], f"{run.id} is in the queue.", run.id
            warnings = (await self.lora.ask(wire.GetRun(run=runs[0].id))).warnings
        except LoraError as error:
            await self._refused(error)
            return
        self.notify(said, timeout=4)
        for warning in warnings:
            self.notify(warning, severity="warning", timeout=8)
        self.set_focus(self.query_one("#templates", Select))  # letters are keys when one returns
        self.lora.opened_run = opened
        self.app.call_later(self.lora.action_open, "runs")
