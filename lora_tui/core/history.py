"""What the Runs screen knows of a run's past: its series, taken over from the daemon and live."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable

from lora_tui.core.series import Line, smooth
from shared.decimate import decimate
from shared.wire import DeviceUse, LivePoint, RunProgress

MOST = 6000  # points kept; beyond, two in three of the quiet ones go


class RunHistory:
    """The loss series of one run, in order of steps."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.points: list[LivePoint] = []
        self.asked = False  # whether the series has come from the daemon
        self.latest: RunProgress | None = None

    def take(self, points: Iterable[LivePoint]) -> bool:
        """Add points. A run taken up from an earlier state repeats steps: the newer ones count."""
        news = sorted(points, key=lambda point: point.step)
        if not news:
            return False
        if self.points and news[0].step <= self.points[-1].step:
            steps = [point.step for point in self.points]
            del self.points[bisect_left(steps, news[0].step) :]
        self.points += news
        if len(self.points) > MOST:
            self.points = decimate(self.points, MOST // 3, lambda point: point.loss)
        return True

    def replace(self, points: list[LivePoint]) -> None:
        """The daemon's series, and whatever came live after its end."""
        self.asked = True
        last = points[-1].step if points else -1
        self.points = [*points, *(point for point in self.points if point.step > last)]

    def loss_lines(self) -> list[Line]:
        """Raw, then smoothed on top."""
        steps = [point.step for point in self.points]
        losses = [point.loss for point in self.points]
        if not steps:
            return []
        # In powers of two: what is drawn already does not move with each new step.
        span = max(8.0, 2.0 ** math.floor(math.log2(max((steps[-1] - steps[0]) * 0.04, 1))))
        return [
            Line(steps, losses, "faint", "loss"),
            Line(steps, smooth(steps, losses, span), "primary bold", "smoothed"),
        ]

    def rate_line(self) -> list[Line]:
        steps = [point.step for point in self.points]
        return [Line(steps, [point.learning_rate for point in self.points], "secondary", "rate")]

    def speed_line(self) -> list[Line]:
        """Steps a second between points a little apart; pauses show as nothing."""
        xs: list[float] = []
        ys: list[float] = []
        last: LivePoint | None = None
        for point in self.points:
            if last is None:
                last = point
                continue
            passed = point.time - last.time
            if passed < 1.0:
                continue
            if passed < 60 and point.step > last.step:
                xs.append(point.step)
                ys.append((point.step - last.step) / passed)
            last = point
        return [Line(xs, ys, "success", "speed")]


def right_edge(step: int, steps: int) -> float:
    """Where the step axis ends: the run's end halved until the present step fills at least half
    of it, so that the picture moves seldom and only its right end changes."""
    edge = float(max(steps, 1))
    while step > 0 and edge / 2 > max(step, 8):
        edge /= 2
    return math.ceil(edge)


class DeviceHistory:
    """One device's memory over time."""

    WINDOW = 600.0  # seconds shown

    def __init__(self) -> None:
        self.samples: deque[DeviceUse] = deque(maxlen=2000)

    def take(self, sample: DeviceUse) -> None:
        if not self.samples or sample.at > self.samples[-1].at:
            self.samples.append(sample)

    def replace(self, samples: list[DeviceUse]) -> None:
        last = samples[-1].at if samples else 0.0
        rest = [sample for sample in self.samples if sample.at > last]
        self.samples = deque([*samples, *rest], maxlen=2000)

    def window(self, now: float | None = None) -> tuple[float, float]:
        """The stretch of time shown: it moves on in jumps of an eighth."""
        now = time.time() if now is None else now
        jump = self.WINDOW / 8
        right = (now // jump + 1) * jump
        return right - self.WINDOW, right

    def lines(self) -> list[Line]:
        times = [sample.at for sample in self.samples]
        return [
            Line(times, [sample.used / 2**30 for sample in self.samples], "faint", "used"),
            Line(times, [sample.allocated / 2**30 for sample in self.samples], "primary", "ours"),
        ]
