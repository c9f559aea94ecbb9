"""The window that says which checkpoint of a run to take: curve, table, reason."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from lora_tui.actions import BY_ID
from lora_tui.core import which_table
from lora_tui.core.series import Line
from lora_tui.screens import behind
from lora_tui.screens.base import Dialog, Place
from lora_tui.screens.blind import Blind
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.chart import Chart
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import wire
from shared.errors import LoraError
from shared.which import Candidate, Which

GROUP = "measuring"
_COLUMNS = (
    Column("", 1), Column("checkpoint", 0), Column("kept back", 9, "right"),
    Column("95 %", 18), Column("trained", 8, "right"), Column("drift", 6, "right", 84),
    Column("leak", 5, "right", 84), Column("near", 5, "right", 84), Column("wins", 5, "right"),
)  # fmt: skip


class WhichCheckpoint(Dialog[None]):
    """What is known of a run's checkpoints; measures them, and lets them be compared by eye."""

    BINDINGS = bindings("which")

    def __init__(self, place: Place, run: wire.Run) -> None:
        super().__init__()
        self._place = place
        self._run = run
        self._found: Which | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -page") as window:
            window.border_title = f"{self._run.id} {self._run.name}: which checkpoint?"
            yield Chart(
                say_x=lambda x: f"{x:.0f}", say_y=lambda y: f"{y:+.0%}",
                waiting=which_table.NOTHING + self._measures(), id="curve",
            )  # fmt: skip
            yield Static("", id="legend", markup=False)
            yield Rows(*_COLUMNS, empty="No checkpoint is kept yet.", id="candidates")
            with VerticalScroll(id="why"):
                yield Static("Looking…", id="said", markup=False)
            yield self.keys_line("which.measure", "which.compare", "which.cancel", "which.close")

    def on_mount(self) -> None:
        self.query_one(Rows).focus()
        self._ask()
        self.set_interval(1.0, self._show_progress)

    def state_changed(self, event: wire.AnyEvent) -> None:
        if isinstance(event, wire.CheckpointJudged | wire.LoraChanged | wire.LoraRemoved):
            self._ask()

    def _ask(self) -> None:
        self.run_worker(self._look(), group="which", exclusive=True)

    async def _look(self) -> None:
        try:
            found = (await self.lora.ask(wire.GetWhich(run=self._run.id))).found
        except LoraError as error:
            self.query_one("#said", Static).update(error.message)
            return
        self._found = found
        self.query_one("#curve", Chart).show(curve(found))
        self.query_one("#legend", Static).update(self._legend(found))
        rows = which_table.rows(found)
        candidates = found.candidates
        self.query_one(Rows).show(
            len(rows), lambda i: _cells(found, candidates[i], rows[i]), cursor=_place(found)
        )
        self.query_one("#said", Static).update(
            "\n\n".join(which_table.said(found, self._measures()))
        )

    def _measures(self) -> str:
        """Which key does, to be said where nothing is measured."""
        return f" {self.lora.keymap.shown(BY_ID['which.measure'])} measures."

    def _legend(self, found: Which) -> Text:
        legend = Text("change of the loss:", style=self.lora.tone("muted"))
        for line in {line.name: line for line in curve(found)}.values():
            legend.append(f"  ━ {line.name}", style=self.lora.tone(line.tone))
        return legend

    def _job(self) -> wire.Job | None:
        title = f"checkpoints of {self._run.id} "
        jobs = self.lora.known.jobs.values()
        return next((j for j in jobs if j.state == "running" and j.title.startswith(title)), None)

    def _show_progress(self) -> None:
        window, job = self.query_one(".window"), self._job()
        said = ""
        if job is not None:
            said = f"measuring {job.done} of {job.total}"
            said += f" · {job.message}" if job.message else ""
        if window.border_subtitle != said:
            window.border_subtitle = said

    def action_measure(self) -> None:
        if self._job() is not None:
            self.notify("It is being measured already.")
            return
        behind.begin(
            self._place, GROUP, wire.MeasureRun(run=self._run.id), summed,
            "Cancelled. What was measured stays.", 10,
        )  # fmt: skip

    def action_cancel(self) -> None:
        if behind.running(self._place, GROUP):
            behind.cancel(self._place, GROUP)
        else:
            self.notify("No measuring of yours is under way.")

    def action_compare(self) -> None:
        self.app.push_screen(Blind(self._run))

    def action_close(self) -> None:
        self.dismiss(None)


def summed(done: wire.WhichCheckpoint) -> str:
    """What to take, in one sentence."""
    return f"{done.found.run}: {done.found.reason or 'too little is measured to say.'}"


def curve(found: Which) -> list[Line]:
    """The losses of single checkpoints: of pictures kept back with the ends of their interval, and
    of those trained on. The bare base is where all begin."""
    singles = [one for one in found.candidates if len(one.files) == 1]
    held = [(one.step, one.held) for one in singles if one.held]
    train = [(one.step, one.train) for one in singles if one.train]
    lines = []
    if train:
        points = [(0, 0.0), *((step, spread.mean) for step, spread in train)]
        lines.append(_line(points, "success", "trained on"))
    if held:
        for end in ("low", "high"):
            ends = [(0, 0.0), *((step, getattr(spread, end)) for step, spread in held)]
            lines.append(_line(ends, "faint", "95 %"))
        means = [(0, 0.0), *((step, spread.mean) for step, spread in held)]
        lines.append(_line(means, "primary", "kept back"))
    return lines


def _line(points: Sequence[tuple[float, float]], tone: str, name: str) -> Line:
    return Line([x for x, _ in points], [y for _, y in points], tone, name)


def _cells(found: Which, one: Candidate, row: Sequence[str]) -> Sequence[Cell]:
    tone = "primary bold" if found.take is one else "" if one.tied else "muted"
    return [(text, tone) for text in row]


def _place(found: Which) -> int:
    return found.candidates.index(found.take) if found.take else 0
