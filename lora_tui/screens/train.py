"""Train: a form made from the recipe's schema, its sums worked out as one types, and start."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, Select, Static

from lora_tui.actions import BY_ID
from lora_tui.core import at_hand, words
from lora_tui.core.form import USUAL, Form, kind_of, templates
from lora_tui.core.form_sweep import Axes
from lora_tui.screens.dialogs import Confirm
from lora_tui.screens.filing import Filing
from lora_tui.screens.sweeping import BEGINS_HELP
from lora_tui.screens.train_field import Field, field_id
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.waiting import anew
from shared import wire
from shared.errors import LoraError
from shared.recipe import (
    Option,
    Recipe,
    dump,
    held_out_count,
    steps_per_epoch,
    total_steps,
)

_CHOICES = (wire.DatasetChanged, wire.DatasetRemoved, wire.BaseChanged, wire.BaseRemoved)


class Train(Filing):
    scope = "train"
    CSS_PATH = "train.tcss"
    BINDINGS = bindings("train")

    def __init__(self) -> None:
        super().__init__()
        self._templates = list(templates())
        self._template = self._templates[0][0]
        self._form = Form(self._templates[0][2])
        self._axes = Axes(self._form)
        self._all = False
        self._starting = False
        self._summing: Timer | None = None
        self._buckets: tuple[wire.ListBuckets | None, list[int]] = (None, [])

    def body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(classes="panel", id="left") as panel:
                panel.border_title = "recipe"
                with Horizontal(classes="field", id="template"):
                    yield Static("start from", classes="label")
                    yield Select(
                        [(f"{name} · {title}", name) for name, title, _ in self._templates],
                        value=self._template,
                        allow_blank=False,
                        compact=True,
                        id="templates",
                    )
                yield from self.begins()
                with VerticalScroll(id="fields", can_focus=False):
                    for key in USUAL:
                        yield self._make_field(key)
            with Vertical(id="right"):
                with Vertical(classes="panel", id="about") as panel:
                    panel.border_title = "about this field"
                    yield Static("", id="help", markup=False)
                with Vertical(classes="panel", id="sums") as panel:
                    panel.border_title = "this run"
                    yield Static("", id="sum")

    def _make_field(self, key: str) -> Field:
        return Field(self._form.options[key], self._form.texts[key], self._choices(key))

    def _choices(self, key: str) -> list[str] | None:
        if key == "dataset.name":
            return [dataset.name for dataset in self.state.datasets]
        if key == "base.name":
            return [base.name for base in self.state.bases]
        return None

    def field(self, key: str) -> Field:
        return self.query_one(f"#{field_id(key)}", Field)

    def fields(self) -> dict[str, Field]:
        """The fields that have been made."""
        return {field.option.key: field for field in self.query(Field)}

    def on_mount(self) -> None:
        self.query_one("#templates", Select).focus()

    # ── the state ───────────────────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent | None) -> None:
        if not self.built:
            return
        if event is None or isinstance(event, _CHOICES):
            for key in ("dataset.name", "base.name"):
                self.field(key).offer(self._choices(key) or [])
            self._choose_dataset()
            if not (base := self.field("base.name")).swept:
                base.wrong(self._wrong_with("base.name"))
            self._sum_up()
        if event is None or isinstance(event, wire.RunChanged | wire.RunRemoved):
            self.offer_runs()

    def _choose_dataset(self) -> None:
        """The one that was asked for; else the recipe's if there is one of that name; else the
        only one there is."""
        field = self.field("dataset.name")
        names = [dataset.name for dataset in self.state.datasets]
        wanted, self.lora.train_with = self.lora.train_with, ""
        if not wanted and field.text not in names:
            wanted = names[0] if len(names) == 1 else ""
        if wanted and wanted != field.text:
            field.fill(wanted)
            self._form.texts["dataset.name"] = wanted

    @property
    def dataset(self) -> wire.Dataset | None:
        name = self._form.texts["dataset.name"]
        return next((d for d in self.state.datasets if d.name == name), None)

    # ── typing ──────────────────────────────────────────────────────────────────────────────────

    def on_select_changed(self, event: Select.Changed) -> None:
        if event.select.id == "templates":
            if event.value is not Select.NULL and event.value != self._template:
                self._template = str(event.value)
                self.call_later(self._load_template)
            return
        self._field_changed(event.select)

    def on_input_changed(self, event: Input.Changed) -> None:
        self._field_changed(event.input)

    def _field_changed(self, widget: Widget) -> None:
        field = widget.parent
        if isinstance(field, Field):
            key = field.option.key
            if field.swept:
                self.swept_changed(field)
            elif self._form.texts[key] != field.text:
                self._form.texts[key] = field.text
                field.wrong(self._wrong_with(key))
                self._sum_up_soon()

    def _wrong_with(self, key: str) -> str:
        """What is wrong with one field, in words: with its value, or with what the daemon has."""
        wrong = self._form.problem(key)
        if key == "base.name" and not wrong:
            wrong = at_hand.base_wanting(self._form.texts[key], self.state.bases)
        return wrong

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        field = event.widget.parent
        if isinstance(field, Field):
            option = field.option
            self.query_one("#about").border_title = option.key
            default = f"\n\nUsual value: {_default(option)}" if _default(option) else ""
            several = "\n\nSeveral: put | between them." if kind_of(option) == "list" else ""
            self.at_field(field)
            self.query_one("#help", Static).update(
                f"{option.help}{several}{default}\n\n{self.sweep_help(field)}"
            )
        elif event.widget.id == "templates":
            self.query_one("#about").border_title = "start from"
            self.query_one("#help", Static).update(
                "A recipe to begin with. Choosing another fills every field anew."
            )
        elif event.widget.id == "begins":
            self.query_one("#about").border_title = "begins"
            self.query_one("#help", Static).update(BEGINS_HELP)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.focus_next()

    async def _load_template(self) -> None:
        await self.sweep_nothing()
        recipe = next(r for name, _, r in self._templates if name == self._template)
        dataset = self._form.texts["dataset.name"]
        self._form.load(recipe)
        if dataset in {d.name for d in self.state.datasets}:
            self._form.texts["dataset.name"] = dataset
        for key, field in self.fields().items():
            field.fill(self._form.texts[key])
            field.wrong("")
        self.field("base.name").wrong(self._wrong_with("base.name"))
        self._sum_up()

    # ── sums ────────────────────────────────────────────────────────────────────────────────────

    def _sum_up_soon(self) -> None:
        """Once for all fields that change together."""
        self._summing = anew(self, self._summing, 0.1, self._sum_up)

    def _sum_up(self) -> None:
        tone = self.lora.tone
        said = Text()
        dataset = self.dataset
        if dataset is None:
            name = self._form.texts["dataset.name"]
            absent = f"There is no dataset {name} here: choose one."
            said.append(absent if name else "Choose a dataset first.", style=tone("warning"))
            self.query_one("#sum", Static).update(said)
            return
        pictures = dataset.items - dataset.problems - dataset.counts.get("rejected", 0)
        problems = self.problems()
        if problems:
            said.append(
                f"{words.plural(len(problems), 'field')} to mend: {', '.join(problems)}\n",
                style=tone("error"),
            )
            said.append(f"{next(iter(problems.values()))}\n")
            if hidden := [key for key in problems if key not in USUAL and not self._all]:
                shows = self.lora.keymap.shown(BY_ID["train.advanced"])
                said.append(shows, style=tone("primary bold"))
                said.append(f" outside a field shows {', '.join(hidden)}\n", style=tone("muted"))
        said.append(f"{words.plural(pictures, 'picture')}", style=tone("bold"))
        if dataset.counts.get("rejected"):
            said.append(f", {dataset.counts['rejected']} rejected are out", style=tone("muted"))
        if dataset.empty:
            said.append(f", {dataset.empty} without caption", style=tone("warning"))
        if dataset.counts.get("unreviewed"):
            said.append(
                f"\n{words.count(dataset.counts['unreviewed'])} captions are not reviewed yet",
                style=tone("muted"),
            )
        recipes = [] if problems else self.recipes()
        if recipes and not self._axes:
            [recipe] = recipes
            kept = held_out_count(recipe, pictures)
            if kept:
                said.append(f"\n{words.plural(kept, 'picture')} kept back, to judge by")
            left = pictures - kept
            shown = self._bucketed(recipe)
            each = steps_per_epoch(recipe, left, shown)
            steps = total_steps(recipe, left, shown)
            said.append(
                f"\n{words.count(left)} × {recipe.dataset.repeats} repeats / batch "
                f"{recipe.training.batch_size} = {words.count(each)} steps an epoch"
            )
            if shown:
                said.append(
                    f"\nin {words.plural(len(shown), 'bucket')}, each with batches of its own"
                )
            cut = ", ended by max steps" if steps < each * recipe.training.epochs else ""
            said.append(f"\n× {words.plural(recipe.training.epochs, 'epoch')}{cut} = ")
            said.append(f"{words.count(steps)} steps", style=tone("primary bold"))
        if recipes:
            self.sums_said(said, recipes, pictures, self._bucketed(recipes[0]))
        key = self.lora.keymap
        said.append(f"\n\n{key.shown(BY_ID['train.start'])}", style=tone("primary bold"))
        said.append(" outside a field, or ", style=tone("muted"))
        said.append("^s", style=tone("primary bold"))
        what = f"queue the {len(recipes)} runs" if len(recipes) > 1 else "start the run"
        said.append(f" anywhere: {what}", style=tone("muted"))
        self.query_one("#sum", Static).update(said)

    def _bucketed(self, recipe: Recipe) -> list[int]:
        """The samples of each bucket in an epoch, as the daemon counts them; nothing without
        buckets, or until it has answered. Pictures that are kept back are still among them."""
        if not recipe.dataset.enable_bucket:
            return []
        ask = wire.ListBuckets(dataset=recipe.dataset.name, recipe=dump(recipe))
        asked, found = self._buckets
        if asked == ask:
            return found
        self._buckets = (ask, [])

        def counted(answer: wire.Buckets) -> None:
            if self._buckets[0] == ask:
                self._buckets = (ask, [one.samples for one in answer.buckets])
                self._sum_up()

        self.attempt(self.lora.ask(ask), counted, group="buckets")
        return []

    # ── actions ─────────────────────────────────────────────────────────────────────────────────

    async def action_start(self) -> None:
        if self._starting:
            return
        if not await self._check():
            return
        self._starting = True
        self.run_worker(self._queue(), group="start")

    async def _queue(self) -> None:
        try:
            await self.queue_runs()
        finally:
            self._starting = False

    async def _check(self) -> bool:
        for key, field in self.fields().items():  # its last change may not have come round yet
            (self._axes if field.swept else self._form).texts[key] = field.text
        try:
            problems = self.problems() or at_hand.wanting(self.recipes(), self.state)
        except LoraError as error:  # about the whole, and no field of it
            self.notify(error.message, severity="warning", timeout=8)
            return False
        await self.point_at(problems)
        for first, why in list(problems.items())[:1]:
            said = why if why.startswith(first) else f"{first}: {why}"
            self.notify(said, severity="warning", timeout=6)
        return not problems

    async def point_at(self, problems: Mapping[str, str]) -> None:
        """Say at the fields what is wrong with them, and go to the first."""
        first = next(iter(problems), "")
        if first and (first not in USUAL or problems.keys() - self.fields().keys()):
            await self._show_all(True)
        for key, field in self.fields().items():
            field.wrong(problems.get(key, ""))
        if first:
            self.field(first).entry.focus()

    async def action_check(self) -> None:
        if await self._check():
            self.run_worker(self.ask_whether_wrong(), group="check", exclusive=True)

    async def action_advanced(self) -> None:
        await self._show_all(not self._all)

    async def _show_all(self, every: bool) -> None:
        """The usual fields, or the others below them; those are made when first asked for."""
        self._all = every
        others = [key for key in self._form.options if key not in USUAL]
        if every and not self.query(f"#{field_id(others[0])}"):
            await self.query_one("#fields").mount_all([self._make_field(key) for key in others])
        for field in self.query(Field):
            field.display = every or field.option.key in USUAL
        self.query_one("#left").border_title = "recipe · every option" if every else "recipe"
        self._sum_up_soon()

    def action_reset(self) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.call_later(self._load_template)

        self.app.push_screen(
            Confirm("Start over?", f"Every field goes back to the recipe {self._template}."),
            answered,
        )

    def action_leave_field(self) -> None:
        self.set_focus(None)


def _default(option: Option) -> str:
    from lora_tui.core.form import shown

    return shown(option.default)
