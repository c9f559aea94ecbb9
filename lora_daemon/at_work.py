"""A run that a worker has: on which seats, and what is known of it since it was given out."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

from lora_daemon import pipe
from lora_daemon.metering import Meter
from lora_daemon.seats import Seat
from shared import wire
from shared.foretelling import Spent
from shared.recipe import Recipe

LOSSES = 100  # in the mean that is shown


class AtWork:
    """One run. Its seats are held for as long as it is at work: the first one's worker trains it,
    the others are for its further processes."""

    def __init__(self, run: wire.Run, seats: Sequence[Seat]) -> None:
        self.run = run.id
        self.seats = seats
        self.worker = 0  # pid of the worker that it was given to
        self.progress: wire.RunProgress | None = None  # the latest
        self.lock_tries = 0
        self.left = asyncio.Event()  # the worker has it no more
        self._losses: deque[float] = deque(maxlen=LOSSES)
        self._meter = Meter()
        self._took = run.took  # before
        for seat in seats:
            seat.run, seat.lent = run.id, seat is not seats[0]

    @property
    def leader(self) -> Seat:
        return self.seats[0]

    @property
    def with_worker(self) -> bool:
        """Whether the worker that it was given to is there."""
        return bool(self.worker) and self.worker == self.leader.supervisor.pid

    def steer(
        self, action: Literal["pause", "resume", "sample", "save", "stop", "suspend"]
    ) -> None:  # fmt: skip
        """Tell the worker, if there is one."""
        self.leader.supervisor.tell(pipe.Steer(run=self.run, action=action))

    def again(self) -> None:
        """It is to be given out once more, as its worker is gone."""
        self.worker, self.progress = 0, None
        self._losses.clear()
        self._took, self._meter = self.took, Meter()

    def leave(self) -> None:
        """The seats are free."""
        for seat in self.seats:
            seat.run, seat.lent = "", False
        self.left.set()

    # ── what it takes ───────────────────────────────────────────────────────────────────────────

    def measure(self, report: object) -> None:
        """Any report on it: what was done until now, and the memory that its worker has."""
        self._meter.take(report, self.leader.supervisor.memory)

    def spent(self, recipe: Recipe) -> Spent:
        """What it took since it was given out; ``recipe``: its own."""
        ready = self.leader.supervisor.ready
        return self._meter.spent(recipe, ready.device_name if ready else "")

    @property
    def took(self) -> float:
        """Seconds at work, from its beginning."""
        return self._took + self._meter.at_work

    # ── how far it is ───────────────────────────────────────────────────────────────────────────

    def resumed(self) -> None:
        """Steps are taken again: their losses count then."""
        self._losses.clear()

    def ticked(self, report: pipe.Tick, run: wire.Run) -> wire.RunProgress:
        """Where it is after some steps. ``run``: its row."""
        self._losses.extend(point.loss for point in report.points)
        left = report.steps - report.step
        return self.entered(
            run,
            phase="training",
            done=report.step,
            total=report.steps,
            step=report.step,
            epoch=report.epoch,
            speed=report.speed,
            eta=left / report.speed if report.speed > 0 else None,
            loss=self.loss,
            points=[
                wire.LivePoint(p.step, p.loss, p.learning_rate, p.grad_norm, p.time)
                for p in report.points
            ],
        )

    def entered(self, run: wire.Run, **fields: Any) -> wire.RunProgress:
        """Where it is: ``fields`` of the progress, the others as they were, or as its row says."""
        last = self.progress
        base: dict[str, Any] = {
            "run": run.id,
            "step": last.step if last else run.step,
            "epoch": last.epoch if last else run.epoch,
            "speed": last.speed if last else 0.0,
            "loss": last.loss if last else run.loss,
        }
        self.progress = wire.RunProgress(**{**base, **fields})
        return self.progress

    @property
    def loss(self) -> float | None:
        """The mean of the last steps."""
        return math.fsum(self._losses) / len(self._losses) if self._losses else None

    @property
    def speed(self) -> float | None:
        """Steps per second."""
        return self.progress.speed or None if self.progress else None

    def now(self) -> dict[str, Any]:
        """What of its row is already otherwise."""
        now: dict[str, Any] = {"took": self.took}
        if self.progress is not None and self.progress.step:
            now |= {"step": self.progress.step, "epoch": self.progress.epoch, "loss": self.loss}
        return now
