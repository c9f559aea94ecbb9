"""Runs: watch one, steer it, see the queue."""

from __future__ import annotations

import re
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.core.history import DeviceHistory, RunHistory, right_edge
from lora_tui.screens.base import Place
from lora_tui.screens.dialogs import AskText, Confirm, Page
from lora_tui.screens.which import WhichCheckpoint
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.chart import Chart
from lora_tui.widgets.panels import MemoryPanel, RunHead
from lora_tui.widgets.picture import Fetch, PictureView
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import wire
from shared.errors import Code, LoraError
from shared.wire import FINAL_STATES, Run

_DATE = re.compile(r"^\d{4}-\d\d-\d\d ")  # the panel has room for the time only
_NONE = "No runs yet. Start one on the Train screen (g t)."


class Runs(Place):
    scope = "runs"
    CSS_PATH = "runs.tcss"
    BINDINGS = bindings("runs")

    def __init__(self) -> None:
        super().__init__()
        self._shown = ""  # id of the run on screen
        self._filter = ""
        self._runs: list[Run] = []
        self._histories: dict[str, RunHistory] = {}
        self._devices: dict[str, DeviceHistory] = {}
        self._sample = -1  # of the run's samples; -1 follows the newest
        self._stale = True
        self._log_lines: list[str] = []

    def body(self) -> ComposeResult:
        yield RunHead(id="head")
        with Horizontal(id="top"):
            with Vertical(classes="panel", id="charts") as panel:
                panel.border_title = "loss"
                yield Chart(
                    say_x=lambda x: f"{x:.0f}", waiting="No steps yet.", id="loss", clip=0.004
                )
                with Horizontal(id="small"):
                    yield Static("learning\nrate", classes="name")
                    yield Chart(floor=0.0, clip=0.0, id="rate")
                    yield Static("steps\na second", classes="name")
                    yield Chart(floor=0.0, say_y=lambda y: f"{y:.1f}", id="speed")
            with Vertical(classes="panel", id="sample") as panel:
                panel.border_title = "samples"
                yield PictureView(self.lora.picture_cache, self.lora.depth, id="picture")
                yield Static("", id="prompt", markup=False)
        with Vertical(classes="panel", id="memory") as panel:
            panel.border_title = "memory"
            yield MemoryPanel()
        with Horizontal(id="bottom"):
            with Vertical(classes="panel", id="queue") as panel:
                panel.border_title = "runs"
                yield Rows(
                    Column("", 1),
                    Column("", 5),
                    Column(""),
                    Column("", 12),
                    Column("", 13, "right"),
                    Column("", 12, "right", wide=56),
                    empty=_NONE,
                    id="rows",
                )
            with Vertical(classes="panel", id="log-panel") as panel:
                panel.border_title = "log"
                yield Static("", id="log", markup=False)

    @property
    def rows(self) -> Rows:
        return self.query_one(Rows)

    @property
    def run_shown(self) -> Run | None:
        return next((run for run in self.state.runs if run.id == self._shown), None)

    def on_mount(self) -> None:
        super().on_mount()
        self.rows.focus()
        self.set_interval(1.0, self._draw)
        self.set_interval(3.0, self._ask_log)

    # ── the state ───────────────────────────────────────────────────────────────────────────────

    def state_changed(self, event: wire.AnyEvent | None) -> None:
        if not self.built:
            return
        if event is None:
            self._histories = {}
            self._ask_history()
            self._show_runs()
            self._open(self._shown, again=True)
        elif isinstance(event, wire.RunChanged | wire.RunRemoved):
            self._show_runs()
            if isinstance(event, wire.RunChanged) and event.run.id == self._shown:
                self._ask_log()
        elif isinstance(event, wire.PictureAdded | wire.PictureRemoved):
            self._show_sample()
        self._stale = True

    def live_changed(self, values: Sequence[wire.AnyLive]) -> None:
        for value in values:
            if isinstance(value, wire.RunProgress):
                self._history(value.run).take(value.points)
                self._history(value.run).latest = value
            elif isinstance(value, wire.DeviceUse):
                self._devices.setdefault(value.device, DeviceHistory()).take(value)
        self._stale = True

    def _history(self, run: str) -> RunHistory:
        return self._histories.setdefault(run, RunHistory(run))

    def _ask_history(self) -> None:
        def came(history: wire.History) -> None:
            by_device: dict[str, list[wire.DeviceUse]] = {}
            for sample in history.samples:
                by_device.setdefault(sample.device, []).append(sample)
            for device, samples in by_device.items():
                self._devices.setdefault(device, DeviceHistory()).replace(samples)
            self._stale = True

        if self.lora.connection is not None:
            self.attempt(self.lora.ask(wire.GetHistory(seconds=600)), came, group="history")

    # ── the list ────────────────────────────────────────────────────────────────────────────────

    def _show_runs(self) -> None:
        order = {"training": 0, "starting": 0, "paused": 1, "queued": 2, "interrupted": 2}
        needle = self._filter.lower()
        self._runs = sorted(
            (
                run
                for run in self.state.runs
                if needle in f"{run.id} {run.name} {run.dataset} {run.base}".lower()
            ),
            key=lambda run: (
                order.get(run.state, 3),
                run.created if order.get(run.state, 3) < 3 else -run.created,
            ),
        )
        wanted = self.lora.opened_run or self._shown
        place = next((i for i, run in enumerate(self._runs) if run.id == wanted), 0)
        if self.lora.opened_run and self._runs and self._runs[place].id == wanted:
            self.lora.opened_run = ""
        runs = self._runs
        queue = self.query_one("#queue")
        title = f"runs · {self._filter}" if self._filter else "runs"
        if queue.border_title != title:
            queue.border_title = title
        self.rows.say(f"No run has {self._filter!r} in it." if self._filter else _NONE)
        self.rows.show(len(runs), lambda i: self._cells(runs[i]), cursor=place)
        self._open(runs[place].id if runs else "")

    def _cells(self, run: Run) -> Sequence[Cell]:
        live = self.lora.known.progress.get(run.id)
        going = run.state == "training" and live is not None
        step = words.count(max(run.step, live.step) if going and live is not None else run.step)
        steps = words.count(run.steps)
        far = f"{step}/{steps}" if run.steps else "–"
        if run.state == "finished":
            far = f"{steps} steps"
        when = words.ago(run.finished or run.started or run.created)
        tone = words.RUN_TONES[run.state]
        return [
            (words.RUN_MARKS[run.state], tone),
            run.id,
            run.name or run.dataset,
            (run.state, tone),
            far,
            (when, "muted"),
        ]

    def on_rows_moved(self, message: Rows.Moved) -> None:
        if message.index < len(self._runs):
            self._open(self._runs[message.index].id)

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.action_details()

    def _open(self, run: str, *, again: bool = False) -> None:
        if run == self._shown and not again:
            return
        if run != self._shown:
            self._sample = -1
            self._log_lines = []
        self._shown = run
        self._stale = True
        self._draw()
        self._show_sample()
        self._ask_log()
        if run and self.lora.connection is not None:
            history = self._history(run)

            def came(series: wire.Series) -> None:
                history.replace(series.points)
                self._stale = True
                if run == self._shown:
                    self._draw()

            self.attempt(self.lora.ask(wire.GetSeries(run=run, points=3000)), came, group="series")

    # ── drawing, at most once a second ─────────────────────────────────────────────────────────

    def _draw(self) -> None:
        if not self._stale or not self.is_current or not self.built:
            return
        self._stale = False
        for place, listed in enumerate(self._runs):
            if listed.state == "training":
                self.rows.update_row(place)
        run = self.run_shown
        history = self._history(self._shown) if self._shown else RunHistory("")
        live = history.latest or self.lora.known.progress.get(self._shown)
        loss = history.loss_lines()
        self.query_one(RunHead).show(run, live, loss[1].ys[-1] if loss else None)
        step = history.points[-1].step if history.points else 0
        right = right_edge(step, run.steps if run is not None else 1)
        self.query_one("#loss", Chart).show(loss, right=right)
        rate = self.query_one("#rate", Chart)
        if rate.size.height:
            rate.show(history.rate_line(), right=right)
            self.query_one("#speed", Chart).show(history.speed_line(), right=right)
        device = self.lora.known.device
        past = self._devices.get(device.device) if device is not None else None
        self.query_one(MemoryPanel).show(device, past or DeviceHistory())

    def _samples(self) -> list[wire.Picture]:
        return sorted(
            (p for p in self.state.pictures if p.run == self._shown and self._shown),
            key=lambda picture: (picture.step, picture.created, picture.id),
        )

    def _show_sample(self) -> None:
        view = self.query_one(PictureView)
        samples = self._samples()
        prompt = self.query_one("#prompt", Static)
        if not samples:
            view.clear("No samples yet; s makes some now." if self._shown else "")
            prompt.update("")
            return
        place = self._sample if 0 <= self._sample < len(samples) else len(samples) - 1
        picture = samples[place]
        title = f"sample {place + 1} of {len(samples)} · step {words.count(picture.step)}"
        panel = self.query_one("#sample")
        if panel.border_title != title:
            panel.border_title = title
        prompt.update(clean(picture.prompt))
        view.show(picture.id, picture_fetch(self, picture.id))

    def _ask_log(self) -> None:
        if not self._shown or not self.is_current or self.lora.connection is None:
            return
        panel = self.query_one("#log-panel")
        if not panel.display or not panel.size.height:
            return
        run = self._shown

        async def ask() -> wire.LogLines:
            try:
                return await self.lora.ask(wire.GetLog(run=run, lines=20), timeout=10)
            except LoraError:
                return wire.LogLines(lines=[])

        def came(log: wire.LogLines) -> None:
            if run == self._shown and log.lines != self._log_lines:
                self._log_lines = log.lines
                height = max(panel.size.height - 2, 1)
                lines = [clean(_DATE.sub("", line)) for line in log.lines[-height:]]
                self.query_one("#log", Static).update("\n".join(lines))

        self.attempt(ask(), came, group="log")

    # ── steering ────────────────────────────────────────────────────────────────────────────────

    def _steer(self, action: str, said: str) -> None:
        run = self.run_shown
        if run is None:
            self.notify("There is no run to steer.")
            return
        request = wire.SteerRun(run=run.id, action=action)  # type: ignore[arg-type]
        self.attempt(self.lora.ask(request), lambda _: self.notify(f"{run.id} {said}.", timeout=3))

    def action_pause(self) -> None:
        run = self.run_shown
        if run is not None and run.state in ("paused", "interrupted", "failed"):
            self._steer("resume", "goes on")
        else:
            self._steer("pause", "pauses at the next step")

    def action_sample(self) -> None:
        self._sample = -1
        self._steer("sample", "makes its samples")

    def action_keep(self) -> None:
        self._steer("save", "keeps a checkpoint")

    def action_stop(self) -> None:
        run = self.run_shown
        if run is None:
            return
        if run.state in FINAL_STATES:
            self.notify(f"{run.id} has already {run.state}.")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._steer("stop", "stops and saves its LoRA")

        self.app.push_screen(
            Confirm(
                f"Stop {run.id}?",
                f"It ends for good at step {words.count(run.step)} of {words.count(run.steps)} "
                "and saves the LoRA as it is.\n\nTo go on later, pause it instead.",
            ),
            answered,
        )

    def action_delete(self) -> None:
        run = self.run_shown
        if run is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.attempt(
                    self.lora.ask(wire.RemoveRun(run=run.id)),
                    lambda _: self.notify(f"{run.id} is deleted."),
                )

        lora = f" with its LoRA {run.lora}" if run.lora else ""
        self.app.push_screen(
            Confirm(
                f"Delete {run.id}?",
                f"The run{lora}, its checkpoints and samples ({words.size(run.size)}) are deleted "
                "from the disk. This cannot be undone.",
            ),
            answered,
        )

    def action_details(self) -> None:
        run = self.run_shown
        if run is None:
            return

        def came(detail: wire.RunDetail) -> None:
            self.app.push_screen(Page(f"{run.id} {run.name}", details(detail)))

        self.attempt(self.lora.ask(wire.GetRun(run=run.id)), came)

    def action_which(self) -> None:
        run = self.run_shown
        if run is not None:
            self.app.push_screen(WhichCheckpoint(self, run))

    def action_log(self) -> None:
        run = self.run_shown
        if run is None:
            return

        def came(log: wire.LogLines) -> None:
            text = "\n".join(map(clean, log.lines))
            self.app.push_screen(Page(f"log of {run.id}", text, at_end=True))

        self.attempt(self.lora.ask(wire.GetLog(run=run.id, lines=2000)), came)

    def action_newer(self) -> None:
        number = len(self._samples())
        self._sample = -1 if self._sample < 0 or self._sample + 2 >= number else self._sample + 1
        self._show_sample()

    def action_older(self) -> None:
        last = len(self._samples()) - 1
        self._sample = max((last if self._sample < 0 else self._sample) - 1, 0) if last > 0 else -1
        self._show_sample()

    def action_filter(self) -> None:
        def typed(text: str | None) -> None:
            if text is not None:
                self._filter = text
                self._show_runs()

        self.app.push_screen(AskText("Show runs with", value=self._filter), typed)


def picture_fetch(place: Place, picture: str) -> Fetch:
    """How to fetch a generated picture at a side in pixels."""

    async def fetch(side: int) -> bytes:
        request = wire.GetPicture(picture=picture, width=side, height=side)
        _, blobs = await place.lora.fetch(request)
        if not blobs:
            raise LoraError(Code.INVALID_FILE, "The daemon sent no picture.")
        return blobs[0]

    return fetch


def details(detail: wire.RunDetail) -> str:
    """All there is to know of a run, as text."""
    run = detail.run
    parts = [
        f"{run.state} · by {run.by} · {words.plural(run.pictures, 'picture')} · "
        f"{words.size(run.size)} in {detail.directory}"
    ]
    if run.message:
        parts.append(run.message)
    parts += detail.warnings
    if detail.checkpoints:
        parts.append("\nCheckpoints")
        parts += [
            f"  step {words.count(c.step)}, epoch {c.epoch}  {words.size(c.size)}"
            f"{'  final' if c.final else ''}  {clean(c.path)}"
            for c in detail.checkpoints
        ]
    if detail.skipped:
        parts.append("\nPictures that were skipped")
        parts += [f"  {clean(name)}: {clean(reason)}" for name, reason in detail.skipped]
    parts.append("\nRecipe\n" + detail.recipe)
    return "\n".join(parts)
