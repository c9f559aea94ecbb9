"""Runs side by side: losses over one another, kept-back losses, recipes, samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.core import run_sides, run_table, runs_picture, words
from lora_tui.core.cells import clean
from lora_tui.core.run_table import Side, mark_of, tone_of
from lora_tui.core.series import Line
from lora_tui.screens import behind
from lora_tui.screens.base import Dialog, Place
from lora_tui.screens.dialogs import AskText
from lora_tui.screens.painted import picture_fetch
from lora_tui.screens.which import GROUP as MEASURING
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.chart import Chart
from lora_tui.widgets.picture import PictureView
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import wire
from shared.errors import LoraError
from shared.files import publish
from shared.wire import FINAL_STATES, Run

_VIEWS = ("loss", "held", "recipes", "samples")
_TITLES = ("losses", "kept back", "recipes", "samples")
_MOST_ROWS = 8  # of the table that are seen at once
_MOST_PICTURES = 4  # beside each other
_LEAST_PICTURE = 22  # cells
_COLUMNS = (
    Column("", 1), Column("", 1), Column("run"), Column("state", 9),
    Column("steps", 7, "right", 84), Column("first loss", 10, "right", 96),
    Column("last loss", 9, "right"), Column("kept back", 9, "right"),
    Column("‖ΔW‖", 6, "right", 96),
    Column("time", 7, "right", 84),
)  # fmt: skip


class CompareRuns(Dialog[None]):
    """What is known of some runs; it follows them while they train."""

    BINDINGS = bindings("compare")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]

    def __init__(self, place: Place, runs: Sequence[Run], title: str) -> None:
        super().__init__()
        self._place = place
        self._runs = list(runs)
        self._title = title
        self._sides: list[Side] = []
        self._losses: list[Line] = []
        self._held: list[Line] = []
        self._view = "loss"
        self._norms = False
        self._stale = False
        self._prompt = 0
        self._step = -1  # of the samples; -1: the last that most runs have

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -whole") as window:
            window.border_title = Text(clean(self._title))
            yield Rows(*_COLUMNS, empty="Looking…", id="sides")
            yield Static("", id="views", markup=False)
            with Horizontal(id="curves"):
                yield Chart(
                    say_x=lambda x: f"{x:.0f}", waiting="None of them has a loss yet.", id="losses",
                    clip=0.004,
                )  # fmt: skip
                yield Chart(
                    say_x=lambda x: f"{x:.0f}", say_y=lambda y: f"{y:+.0%}", id="held",
                    waiting="Not measured yet: m measures what keeps pictures back.",
                )  # fmt: skip
                with VerticalScroll(id="options", can_focus=False):
                    yield Static("", id="differences")
            with Vertical(id="pictures"):
                with Horizontal(id="beside"):
                    for number in range(_MOST_PICTURES):
                        with Vertical(classes="panel", id=f"panel{number}"):
                            yield PictureView(
                                self.lora.picture_cache, self.lora.depth, id=f"picture{number}"
                            )
                yield Static("", id="prompt", markup=False)
            yield Static("", id="said", markup=False)
            yield self.keys_line(
                "compare.view", "compare.measure", "compare.norms", "compare.sheet",
                "compare.close",
            )  # fmt: skip

    def on_mount(self) -> None:
        rows = self.query_one(Rows)
        rows.styles.height = min(len(self._runs), _MOST_ROWS) + 1
        rows.focus()
        self._show_view()
        self._gather()
        self.set_interval(3.0, self._again)

    # ── what is known ───────────────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent) -> None:
        ids = {run.id for run in self._runs}
        match event:
            case wire.RunChanged(run=run) if run.id in ids:
                self._stale = True
            case wire.RunRemoved(run=id_) | wire.CheckpointJudged(run=id_) if id_ in ids:
                self._stale = True
            case wire.PictureAdded(picture=picture) if picture.run in ids:
                self._stale = True

    def _again(self) -> None:
        going = any(side.run.state == "training" for side in self._sides)
        if self._stale or going:
            self._gather()

    def _gather(self) -> None:
        self._stale = False
        self.run_worker(self._look(), group="compare", exclusive=True)

    async def _look(self) -> None:
        try:
            sides = await run_sides.gathered(self.lora.ask, self._runs, norms=self._norms)
        except LoraError as error:
            self._say(error.message)
            return
        self._sides = sides
        self._losses, self._held = run_table.curves(sides), run_table.held_curves(sides)
        left = {side.run.id for side in sides}
        gone = [run.id for run in self._runs if run.id not in left]
        self._runs = [run for run in self._runs if run.id in left]
        self._show()
        if gone:
            self._say(f"{', '.join(gone)} was deleted, so it is not shown.")

    def _say(self, text: str) -> None:
        self.query_one("#said", Static).update(text)

    # ── what is shown ───────────────────────────────────────────────────────────────────────────

    def _show(self) -> None:
        self._show_rows()
        self._show_curves()
        self._show_differences()
        self._show_samples()
        silent = [side.run.id for side in self._sides if not side.points]
        said = [f"{', '.join(silent)}: no loss yet."] if silent else []
        if any(side.held is not None for side in self._sides):
            said.append(
                "Kept back: the change from the bare base on pictures not trained on, of the best "
                "checkpoint (★ of all)."
            )
        if len({side.run.dataset for side in self._sides}) > 1:
            said.append("They are of different datasets.")
        self._say(" ".join(said))

    def _show_rows(self) -> None:
        results = run_table.results(self._sides, self._losses)
        best = min(
            (s.held for s in self._sides if s.held is not None), default=None
        )  # of the same pictures in a sweep
        rows = self.query_one(Rows)
        rows.say("All of them were deleted.")

        def cells(place: int) -> Sequence[Cell]:
            side, (name, state, *figures) = self._sides[place], results[place]
            tone = words.RUN_TONES[side.run.state]
            star = "★" if best is not None and side.held == best else " "
            if side.run.steps and side.run.state not in FINAL_STATES and side.run.started:
                state = f"{100 * side.run.step // side.run.steps} %"
            return [
                (mark_of(place), f"{tone_of(place)} bold"), (star, "primary bold"), name,
                (state, tone), *figures,
            ]  # fmt: skip

        rows.show(len(self._sides), cells)

    def _front(self, lines: list[Line]) -> list[Line]:
        """The line of the run under the cursor lies on top."""
        place = self.query_one(Rows).cursor
        if place >= len(lines):
            return lines
        return [*lines[:place], *lines[place + 1 :], lines[place]]

    def _show_curves(self) -> None:
        known = any(side.points for side in self._sides)
        frame = run_table.frame(self._losses) if known else None
        self.query_one("#losses", Chart).show(self._front(self._losses), frame=frame)
        self.query_one("#held", Chart).show(self._front(self._held))

    def _show_differences(self) -> None:
        head, rows = run_table.differing(self._sides)
        if not rows:
            said = "Their recipes are alike." if self._sides else ""
            self.query_one("#differences", Static).update(Text(said))
            return
        table = Table.grid(padding=(0, 2))
        muted = self.lora.tone("muted")
        table.add_row(*(Text(cell.rpartition(".")[2], style=muted) for cell in head))
        for first, *values in rows:
            table.add_row(
                Text(clean(first), style=muted), *(Text(clean(value)) for value in values)
            )
        self.query_one("#differences", Static).update(table)

    def _show_samples(self) -> None:
        prompts = run_table.prompts(self._sides)
        line = self.query_one("#prompt", Static)
        panels = self._panels()
        first = self._first(panels)
        for number in range(_MOST_PICTURES):
            self.query_one(f"#panel{number}").display = number < panels
        if not prompts:
            line.update("No samples yet.")
            for number in range(panels):
                self.query_one(f"#picture{number}", PictureView).clear("No samples yet.")
            return
        prompt, steps, step = self._sample_shown(prompts)
        across = run_table.samples_at(self._sides, prompt, step)
        for number in range(panels):
            place = first + number
            side, picture = self._sides[place], across[place]
            panel = self.query_one(f"#panel{number}")
            panel.border_title = Text(f"{mark_of(place)} {clean(run_table.name_of(side))}")
            view = self.query_one(f"#picture{number}", PictureView)
            if picture is None:
                view.clear(f"no sample of step {words.count(step)}")
            else:
                view.show(picture.id, picture_fetch(self._place, picture.id))
        where = steps.index(step) + 1
        more = f"prompt {self._prompt % len(prompts) + 1} of {len(prompts)} (n) · "
        line.update(
            f"step {words.count(step)}, {where} of {len(steps)} ([ ]) · "
            f"{more if len(prompts) > 1 else ''}{clean(prompt[0])}"
        )

    def _sample_shown(
        self, prompts: list[tuple[str, int]]
    ) -> tuple[tuple[str, int], list[int], int]:
        """The prompt and seed, the steps of which there are samples, and the one of them."""
        prompt = prompts[self._prompt % len(prompts)]
        steps = run_table.sample_steps(self._sides, prompt)
        here = self._step if self._step in steps else run_table.common_step(self._sides, prompt)
        return prompt, steps, here

    def _panels(self) -> int:
        room = max(self.size.width - 4, 1)
        return min(len(self._sides), _MOST_PICTURES, max(room // _LEAST_PICTURE, 2))

    def _first(self, panels: int) -> int:
        """The first run whose picture is shown: the one under the cursor is among them."""
        cursor = self.query_one(Rows).cursor
        return min(max(cursor - panels + 1, 0), max(len(self._sides) - panels, 0))

    def on_rows_moved(self, message: Rows.Moved) -> None:
        if self._sides:
            self._show_curves()
            self._show_samples()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_view)

    def _show_view(self) -> None:
        """The parts of this view, and a line that names the others."""
        line = Text()
        for number, (view, title) in enumerate(zip(_VIEWS, _TITLES, strict=True), 1):
            style = "primary bold reverse" if view == self._view else "muted"
            line.append(f" {number} {title} ", style=self.lora.tone(style))
        self.query_one("#views", Static).update(line)
        samples = self._view == "samples"
        roomy = self.has_class("-wide") and self.has_class("-tall")
        self.query_one("#curves").display = not samples
        self.query_one("#pictures").display = samples
        self.query_one("#losses").display = self._view == "loss"
        self.query_one("#held").display = self._view == "held"
        self.query_one("#options").display = self._view == "recipes" or roomy
        self.query_one("#options").set_class(self._view == "recipes", "-alone")
        if samples and self._sides:
            self._show_samples()

    # ── keys ────────────────────────────────────────────────────────────────────────────────────

    def _turn(self, view: str) -> None:
        self._view = view
        self._show_view()

    def action_view(self) -> None:
        self._turn(_VIEWS[(_VIEWS.index(self._view) + 1) % len(_VIEWS)])

    def action_loss(self) -> None:
        self._turn("loss")

    def action_held(self) -> None:
        self._turn("held")

    def action_recipes(self) -> None:
        self._turn("recipes")

    def action_samples(self) -> None:
        self._turn("samples")

    def _walk(self, by: int) -> None:
        """To samples of another step."""
        prompts = run_table.prompts(self._sides)
        if not prompts:
            return
        _, steps, here = self._sample_shown(prompts)
        if self._view == "samples":
            self._step = steps[min(max(steps.index(here) + by, 0), len(steps) - 1)]
        self._turn("samples")

    def action_older(self) -> None:
        self._walk(-1)

    def action_newer(self) -> None:
        self._walk(1)

    def action_prompt(self) -> None:
        self._prompt += 1
        self._step = -1
        self._turn("samples")

    def action_measure(self) -> None:
        """One run after the other, behind; what is measured already costs nothing."""
        if behind.running(self._place, MEASURING):
            self.notify("Something is being measured already.")
            return
        known = {run.id: run for run in self.lora.state.runs}
        ids = [run.id for run in self._runs if run.id in known and known[run.id].step]
        lora = self.lora
        if not ids:
            self.notify("None of them has trained yet: there is nothing to measure.")
            return

        async def measure() -> None:
            for run in ids:
                try:
                    await lora.ask(wire.MeasureRun(run=run))
                except LoraError as error:
                    lora.notify(f"{run}: {error.message}", severity="warning", timeout=8)
            lora.notify(f"Measured: {', '.join(ids)}.", timeout=8)

        lora.run_worker(measure(), group=MEASURING)
        self.notify("Each run's checkpoints are measured, behind. X in w gives it up.")

    def action_norms(self) -> None:
        self._norms = True
        self._say("Reading the LoRA files…")
        self._gather()

    def action_sheet(self) -> None:
        def typed(path: str | None) -> None:
            if path:
                self.run_worker(self._sheet(path), group="sheet")

        name = "-".join(side.run.id for side in self._sides[:3])
        self.app.push_screen(
            AskText(
                "Losses and latest samples as a PNG: where to?", "A file on this machine.",
                f"~/{name}.png",
            ),
            typed,
        )  # fmt: skip

    async def _sheet(self, path: str) -> None:
        out = Path(path).expanduser()  # noqa: ASYNC240  # reads the environment, no disk
        try:
            pictures = await run_sides.samples_of(self.lora.fetch, self._sides)
            publish(out, runs_picture.png(self._sides, pictures))
        except LoraError as error:
            self.notify(error.message, severity="error", timeout=8)
        else:
            self.notify(f"{out}: losses and samples.", timeout=8)

    def action_close(self) -> None:
        self.dismiss(None)
