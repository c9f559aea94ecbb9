"""The Runs screen's parts: the head with its progress, the memory panel."""

from __future__ import annotations

from rich.segment import Segment
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.strip import Strip
from textual.widget import Widget

from lora_tui.core import words
from lora_tui.core.history import DeviceHistory
from lora_tui.core.series import Frame
from lora_tui.core.summary import Said, length
from lora_tui.widgets.bar import Bar, Part
from lora_tui.widgets.chart import Chart
from lora_tui.widgets.lines import OneLine
from lora_tui.widgets.tones import tone_style
from shared.wire import DeviceUse, Run, RunProgress


class ProgressLine(Widget):
    """A thin line, filled as far as the run is."""

    DEFAULT_CSS = "ProgressLine { height: 1; background: $background; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._part = 0.0
        self._tone = "primary"

    def show(self, part: float, tone: str) -> None:
        cells = round(part * max(self.size.width - 2, 0))
        if (cells, tone) != (round(self._part * max(self.size.width - 2, 0)), self._tone):
            self._part, self._tone = part, tone
            self.refresh()
        self._part = part

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        room = max(self.size.width - 2, 0)
        filled = min(round(self._part * room), room)
        segments = [
            Segment(" ", base),
            Segment("━" * filled, base + tone_style(self, self._tone)),
            Segment("─" * (room - filled), base + tone_style(self, "line")),
        ]
        return Strip(segments).adjust_cell_length(self.size.width, base)


class RunHead(Vertical):
    """Which run, how far, how fast, until when."""

    DEFAULT_CSS = """
    RunHead { height: 2; }
    RunHead Horizontal { height: 1; }
    RunHead OneLine { background: $background; }
    RunHead #run-far { width: auto; }
    """

    def compose(self) -> ComposeResult:
        with Horizontal():  # two widgets: Textual sends a widget's whole line
            yield OneLine(id="run-line")
            yield OneLine(id="run-far")
        yield ProgressLine(id="run-progress")

    def say(self, said: Said) -> None:
        """Something else than one run."""
        self.query_one("#run-line", OneLine).show(said)
        self.query_one("#run-far", OneLine).show([])
        self.query_one(ProgressLine).show(0.0, "line")

    def show(self, run: Run | None, live: RunProgress | None) -> None:
        line = self.query_one("#run-line", OneLine)
        far = self.query_one("#run-far", OneLine)
        bar = self.query_one(ProgressLine)
        if run is None:
            far.show([])
            line.show([("No run yet. Start one on the Train screen (g t).", "muted")])
            bar.show(0.0, "line")
            return
        going = run.state == "training"
        if live is not None and live.run != run.id:
            live = None
        step = max(run.step, live.step if live is not None and going else 0)
        phase = (live.phase if live is not None and going else "") or run.phase
        left: Said = [
            (f"{words.RUN_MARKS[run.state]} {run.id} ", f"{words.RUN_TONES[run.state]} bold"),
            (run.name or run.dataset, "bold"),
            (f"  {run.state}", words.RUN_TONES[run.state]),
        ]
        if run.gpus:
            left.append((f" on {words.gpus(run.gpus)}", "muted"))
        if phase and phase != run.state and run.state in ("training", "starting"):
            counts = live is not None and phase in words.COUNTED and live.total
            left.append((f", {phase}" + (f" {live.done}/{live.total}" if counts else ""), ""))  # type: ignore[union-attr]
        if run.message:
            left.append((f"  {run.message}", "error" if run.state == "failed" else "warning"))
        right: Said = []
        roomy = self.size.width >= 100
        if run.steps:
            epoch = max(run.epoch, live.epoch if live is not None else 0)
            if roomy:
                right.append((f"epoch {epoch}/{run.epochs} · ", "muted"))
            right.append((f"step {words.count(step)}", "bold"))
            right.append((f"/{words.count(run.steps)}", "muted"))
        loss = live.loss if live is not None and going else run.loss  # as the command line says it
        if loss is not None and (roomy or not going):
            right += [(" · loss ", "muted"), (words.number(loss), "bold")]
        if going:
            speed = live.speed if live is not None else run.speed
            right += [(" · ", "muted"), (words.speed(speed), "")]
            if live is not None:
                right += [(" · eta ", "muted"), (words.duration(live.eta), "")]
        elif run.finished and run.took:
            right.append((f" · took {words.duration(run.took)}", "muted"))
        line.show(left)
        least = length(right) + 2 if length(right) + 20 < self.size.width else 0
        width = int(far.styles.width.value) if far.styles.width is not None else -1
        if not least <= width <= least + 8 * bool(least):  # a new width lays the screen out anew
            far.styles.width = least
        far.show(right)
        tone = {"failed": "error", "paused": "warning", "finished": "success"}.get(
            run.state, "primary"
        )
        bar.show(step / run.steps if run.steps else 0.0, tone)


class MemoryPanel(Vertical):
    """Who holds the memory now, and how it was over the last minutes."""

    DEFAULT_CSS = """
    MemoryPanel Chart { height: 1fr; }
    """

    def compose(self) -> ComposeResult:
        yield Bar(id="memory-bar")
        yield Chart(
            floor=0.0, clip=0.0, say_y=lambda v: f"{v:.1f} G", waiting="", id="memory-chart"
        )

    def show(self, device: DeviceUse | None, history: DeviceHistory) -> None:
        bar = self.query_one(Bar)
        if device is None:
            bar.show([], 0.0, [("The engine has not said yet what it runs on.", "muted")])
            return
        if device.kind == "cuda":
            parts, legend = _gpu(device)
        else:
            parts, legend = _cpu(device)
        bar.show(parts, device.total, legend)
        chart = self.query_one(Chart)
        if chart.display and chart.size.height >= 2:
            left, right = history.window()
            chart.show(
                history.lines(), frame=Frame(left, right, 0.0, max(device.total / 2**30, 0.1))
            )


def _gpu(device: DeviceUse) -> tuple[list[Part], Said]:
    parts = [
        Part("allocated", device.allocated, "█", "primary"),
        Part("cached", device.cached, "▓", "secondary"),
        Part("context", device.context, "▒", "accent"),
        Part("others", device.others, "░", "muted"),
    ]
    legend = _legend(parts)
    legend.append((f"of {words.gib(device.total)} GiB", "bold"))
    if device.gpu:
        legend.insert(0, (f"{words.gpus([device.gpu])}  ", ""))
    return parts, [*legend, *_vitals(device)]


def _cpu(device: DeviceUse) -> tuple[list[Part], Said]:
    """There is no GPU: the machine's memory, and what of it is the worker's."""
    ours = min(device.allocated, device.used)
    parts = [
        Part("engine", ours, "█", "primary"),
        Part("everything else", max(device.used - ours, 0), "░", "muted"),
    ]
    legend: Said = [("no GPU, RAM: ", "warning"), *_legend(parts)]
    legend.append((f"of {words.gib(device.total)} GiB", "bold"))
    return parts, [*legend, *_vitals(device)]


def _legend(parts: list[Part]) -> Said:
    said: Said = []
    for part in parts:
        if part.amount > 0 or part.name in ("allocated", "engine"):
            said.append((f"{part.fill} ", part.tone))
            said.append((f"{words.gib(part.amount)} {part.name}  ", "muted"))
    return said


def _vitals(device: DeviceUse) -> Said:
    said: Said = []
    if device.utilisation is not None:
        said.append((f" · {device.utilisation:.0f} % busy", "muted"))
    if device.power is not None:
        said.append((f" · {device.power:.0f} W", "muted"))
    if device.temperature is not None:
        said.append((f" · {device.temperature:.0f} °C", "muted"))
    return said
