"""Runs: watch one, steer it, see the queue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from lora_tui.actions import BY_ID
from lora_tui.core import run_list, run_table, words
from lora_tui.core.cells import clean
from lora_tui.core.history import DeviceHistory, RunHistory, right_edge
from lora_tui.core.run_list import Entry
from lora_tui.core.series import Line
from lora_tui.screens.arranging import Arranging
from lora_tui.screens.dialogs import AskText
from lora_tui.screens.painted import picture_fetch
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.chart import Chart
from lora_tui.widgets.panels import MemoryPanel, RunHead
from lora_tui.widgets.picture import PictureView
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import recipe as recipes
from shared import wire
from shared.errors import LoraError
from shared.wire import Run

_DATE = re.compile(r"^\d{4}-\d\d-\d\d ")  # the panel has room for the time only
_NONE = "No runs yet. Start one on the Train screen (g t)."


class Runs(Arranging):
    scope = "runs"
    CSS_PATH = "runs.tcss"
    BINDINGS = bindings("runs")

    def __init__(self) -> None:
        super().__init__()
        self._key = ""  # of the row under the cursor
        self._shown = ""  # id of the run on screen; empty on the head of a sweep
        self._group = ""  # the sweep whose head the cursor is on
        self._held_of = ""  # the sweep whose held-out figures were asked for
        self._filter = ""
        self._entries: list[Entry] = []
        self._prompted: dict[str, bool] = {}  # whether a run's recipe has prompts for samples
        self._held: dict[str, float] = {}  # of runs of sweeps: the best held-out figure
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
                    Column("", 6),
                    Column(""),
                    Column("", 12),
                    Column("", 13, "right"),
                    Column("", 12, "right", wide=80),
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

    @property
    def group_shown(self) -> list[Run]:
        run = self.run_shown
        name = self._group or (run.group if run is not None else "")
        members = [one for one in self.state.runs if name and one.group == name]
        return sorted(members, key=lambda one: one.id)

    def on_mount(self) -> None:
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
            here = next((entry for entry in self._entries if entry.key == self._key), None)
            self._open(here, again=True)
        elif isinstance(event, wire.RunChanged | wire.RunRemoved):
            self._show_runs()
            if isinstance(event, wire.RunChanged) and event.run.id == self._shown:
                self._ask_log()
        elif isinstance(event, wire.CheckpointJudged):
            self._ask_held([run for run in self.group_shown if run.id == event.run])
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
        known = {run.id for run in self.state.runs}
        self.chosen = [id_ for id_ in self.chosen if id_ in known]
        self._entries = run_list.entries(self.state.runs, self._filter)
        entries = self._entries
        wanted = self.lora.opened_run or self._key
        place = next((i for i, entry in enumerate(entries) if entry.key == wanted), 0)
        if self.lora.opened_run and entries and entries[place].key == wanted:
            self.lora.opened_run = ""
        self._title_list()
        self.rows.say(f"No run has {self._filter!r} in it." if self._filter else _NONE)
        self.rows.show(len(entries), lambda i: self._cells(entries[i]), cursor=place)
        self._open(entries[place] if entries else None)

    def _title_list(self) -> None:
        queue = self.query_one("#queue")
        title = f"runs · {self._filter}" if self._filter else "runs"
        if self.chosen:
            title += f" · {len(self.chosen)} chosen"
        if queue.border_title != title:
            queue.border_title = title

    def choice_changed(self) -> None:
        self._title_list()
        self.rows.refresh()

    def _cells(self, entry: Entry) -> Sequence[Cell]:
        if entry.run is None:
            return self._head_cells(entry)
        run = entry.run
        live = self.lora.known.progress.get(run.id)
        going = run.state == "training" and live is not None
        step = words.count(max(run.step, live.step) if going and live is not None else run.step)
        steps = words.count(run.steps)
        far = f"{step}/{steps}" if run.steps else "–"
        if run.state == "finished":
            far = f"{steps} steps"
        when = words.ago(run.finished or run.started or run.created)
        name = run_list.apart(run) if entry.branch else run.name or run.dataset
        return [
            (words.RUN_MARKS[run.state], words.RUN_TONES[run.state]),
            (f"{run.id}■", "primary bold") if run.id in self.chosen else run.id,
            f"{entry.branch}{name}",
            run_list.standing(run, self.state.runs),
            far,
            (when, "muted"),
        ]

    def _head_cells(self, entry: Entry) -> Sequence[Cell]:
        best = run_list.best(entry.runs, self._held)
        when = max(run.finished or run.started or run.created for run in entry.runs)
        said = f"★ {run_list.apart(best)} {self._held[best.id]:+.1%}" if best is not None else ""
        return [
            ("▾", "muted"),
            (f"×{len(entry.runs)}", "muted"),
            (f"{entry.group}  {said}".strip(), "bold"),
            (run_list.far(entry.runs), "muted"),
            "",
            (words.ago(when), "muted"),
        ]

    def on_rows_moved(self, message: Rows.Moved) -> None:
        if message.index < len(self._entries):
            self._open(self._entries[message.index])

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.action_details()

    def _open(self, entry: Entry | None, *, again: bool = False) -> None:
        key = entry.key if entry is not None else ""
        if key == self._key and not again:
            return
        if key != self._key:
            self._sample = -1
            self._log_lines = []
            self.query_one("#log", Static).update("")
        self._key = key
        run = entry.run if entry is not None else None
        self._shown = run.id if run is not None else ""
        self._group = entry.group if entry is not None else ""
        self._stale = True
        self._draw()
        self._show_sample()
        self._ask_log()
        if entry is not None and self.lora.connection is not None:
            for one in entry.runs:
                self._ask_series(one.id)
            group = entry.group or (run.group if run is not None else "")
            if group and (again or group != self._held_of):
                self._held_of = group
                self._ask_held(self.group_shown)

    def _ask_series(self, run: str) -> None:
        history = self._history(run)

        def came(series: wire.Series) -> None:
            history.replace(series.points)
            self._stale = True
            if run == self._shown:
                self._draw()

        self.attempt(self.lora.ask(wire.GetSeries(run=run, points=3000)), came, group="series")

    def _ask_held(self, runs: Sequence[Run]) -> None:
        """The best held-out figure of each run of a sweep, as far as they are measured."""

        async def ask() -> None:
            for run in runs:
                try:
                    found = (await self.lora.ask(wire.GetWhich(run=run.id), timeout=20)).found
                except LoraError:
                    continue
                if (figure := found.best_held) is not None:
                    self._held[run.id] = figure
            self._stale = True
            self.rows.refresh()

        self.run_worker(ask(), group="held", exclusive=True)

    # ── drawing, at most once a second ─────────────────────────────────────────────────────────

    def _draw(self) -> None:
        if not self._stale or not self.is_current or not self.built:
            return
        self._stale = False
        for place, entry in enumerate(self._entries):
            if entry.run is not None and entry.run.state == "training":
                self.rows.update_row(place)
        if self._group:
            self._draw_group()
            return
        run = self.run_shown
        history = self._history(self._shown) if self._shown else RunHistory("")
        live = history.latest or self.lora.known.progress.get(self._shown)
        loss = history.loss_lines()
        self.query_one(RunHead).show(run, live)
        step = history.points[-1].step if history.points else 0
        right = right_edge(step, run.steps if run is not None else 1)
        self.query_one("#loss", Chart).show(loss, right=right)
        rate = self.query_one("#rate", Chart)
        if rate.size.height:
            rate.show(history.rate_line(), right=right)
            self.query_one("#speed", Chart).show(history.speed_line(), right=right)
        self._draw_memory()

    def _draw_group(self) -> None:
        """A sweep: the losses of its runs over one another."""
        runs = self.group_shown
        self.query_one(RunHead).say(
            [(f"{self._group}  ", "bold"), (run_list.axes_said(runs), ""),
             (f"  {run_list.far(runs)}", "muted")]
        )  # fmt: skip
        lines = []
        for number, run in enumerate(runs):
            [*_, smoothed] = self._history(run.id).loss_lines() or [Line([], [], "")]
            lines.append(
                replace(smoothed, tone=run_table.tone_of(number), mark=run_table.mark_of(number))
            )
        known = any(len(line.xs) for line in lines)
        self.query_one("#loss", Chart).show(lines, frame=run_table.frame(lines) if known else None)
        self.query_one("#rate", Chart).show([])
        self.query_one("#speed", Chart).show([])
        rows = run_list.table(runs, self.state.runs, self._held)
        lines_of = [
            f"{run_table.mark_of(n)} {star} {name}  {state}  {figure}"
            for n, (star, name, state, figure) in enumerate(rows)
        ]
        self.query_one("#log", Static).update("\n".join(map(clean, lines_of)))
        self._draw_memory()

    def _draw_memory(self) -> None:
        device = self.lora.known.device(self.run_shown)
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
            view.clear("c, then 4: the samples of its runs." if self._group else self._no_samples())
            if self._group:
                self.query_one("#sample").border_title = "samples"
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

    def _no_samples(self) -> str:
        """Why there is no sample to be seen, and what makes one."""
        run = self.run_shown
        if run is None:
            return ""
        if run.id not in self._prompted and self.lora.connection is not None:
            self._prompted[run.id] = True  # until the answer is there
            self.run_worker(self._ask_prompted(run.id), group="prompted")
        if not self._prompted.get(run.id, True):
            return "No samples: the recipe has no sample.prompts."
        if run.state in wire.FINAL_STATES:
            return "No samples."
        key = self.lora.keymap.shown(BY_ID["runs.sample"])
        return f"No samples yet; {key} makes some now."

    async def _ask_prompted(self, run: str) -> None:
        try:
            detail = await self.lora.ask(wire.GetRun(run=run), timeout=20)
            self._prompted[run] = bool(recipes.parse(detail.recipe).sample.prompts)
        except LoraError:  # it may have prompts, for all that is known
            return
        if run == self._shown:
            self._show_sample()

    def _ask_log(self) -> None:
        title = "sweep · held-out" if self._group else "log"
        self.query_one("#log-panel").border_title = title
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

    # ── keys ────────────────────────────────────────────────────────────────────────────────────

    def action_sample(self) -> None:
        self._sample = -1
        super().action_sample()

    def action_details(self) -> None:
        if self._group:
            self.action_compare()
        else:
            super().action_details()

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
