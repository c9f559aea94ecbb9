"""A worker that hangs: noticed by its silence, told, and ended so that its run can go on.

The worker's own thread says each second what memory it has, whatever else it does; a process that
is stopped, or stuck in its driver, does not. A run that is at work says something at each step,
picture and phase, and what else the worker is asked for (pictures, captions, measurements) while it
gets on. All are given far more time than they ever need.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping

from lora_daemon import pipe
from lora_daemon.orders import FAILED, Doing, doing
from lora_daemon.supervisor import Supervisor

log = logging.getLogger(__name__)

EVERY = 5.0  # seconds between two looks
# Seconds of silence, by what the run is doing; paused, it waits for a person. What else the worker
# is asked for, it is given as long as for a sample, for which it may have to load a base.
LIMITS: Mapping[str, float] = {
    "loading": 3600.0, "caching": 1800.0, "compiling": 7200.0, "training": 1800.0,
    "sampling": 3600.0, "saving": 1800.0,
}  # fmt: skip
DEAD = 600.0  # seconds without a sign of life
DONE = (
    pipe.Painted, pipe.Probed, pipe.Gathered, pipe.Zipped, pipe.Weighed, pipe.Recognised,
    pipe.Measured, *FAILED,
)  # fmt: skip
STEPS = 20  # a step may take so many times as long as the longest before


def limits() -> tuple[Mapping[str, float], float]:
    """``LIMITS`` and ``DEAD``; LORA_TUI_WORKER_SILENCE (seconds) stands for all of them."""
    asked = os.environ.get("LORA_TUI_WORKER_SILENCE", "")
    try:
        seconds = float(asked)
    except ValueError:
        return LIMITS, DEAD
    return dict.fromkeys(LIMITS, seconds), seconds


class Silence:
    """When the worker was last heard, and whether that is too long ago. Seconds of one clock."""

    def __init__(self, now: float) -> None:
        self._limits, self._dead = limits()
        self.begin(now)

    def begin(self, now: float) -> None:
        """A new worker."""
        self.excuse(now)
        self._phase = ""
        self._jobs: dict[str, Doing] = {}  # that it was asked for and has not answered
        self._longest = 0.0  # between two reports of training

    def excuse(self, now: float) -> None:
        """What it may have said before was not heard."""
        self._alive = self._worked = now

    def asked(self, order: pipe.Asked, now: float) -> None:
        """The worker was given an order."""
        if not self._jobs and self._phase not in self._limits:
            self._worked = now  # it had nothing to do
        self._jobs[order.job] = doing(order)

    def hear(self, report: object, now: float) -> None:
        self._alive = now
        if isinstance(report, pipe.Memory):
            return
        if isinstance(report, pipe.Tick) and self._phase == "training":
            self._longest = max(self._longest, now - self._worked)
        if isinstance(report, pipe.Phase):
            self._phase = report.phase
        elif isinstance(report, pipe.Finished | pipe.RunFailed):
            self._phase = ""
        elif isinstance(report, DONE) or (isinstance(report, pipe.Described) and report.last):
            self._jobs.pop(report.job, None)
        self._worked = now

    def too_long(self, now: float) -> str:
        """What the worker has not done for too long, to follow "The engine worker"; or nothing."""
        if now - self._alive > self._dead:
            return f"has given no sign of life for {_in_words(now - self._alive)}"
        at = {self._phase: self._limits.get(self._phase, 0.0)}
        at |= dict.fromkeys(self._jobs.values(), self._limits["sampling"])
        limit, what = max(at.values()), next((what for what in at if at[what]), "")
        if what and now - self._worked > max(limit, STEPS * self._longest):
            return f"has been {what} for {_in_words(now - self._worked)} without getting anywhere"
        return ""


class Watchdog:
    """Ends a worker that is silent for too long. ``clock``: seconds, that stand still while the
    machine sleeps."""

    def __init__(
        self, supervisor: Supervisor, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._supervisor = supervisor
        self._clock = clock
        self._silence = Silence(clock())
        self._pid = 0
        self._looked = clock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._supervisor.heard = self._heard
        self._supervisor.sent = self._sent
        self._task = asyncio.create_task(self._run(), name="watchdog")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def look(self) -> None:
        """End the worker if it hangs."""
        now, before = self._clock(), self._looked
        self._looked = now
        if self._supervisor.pid != self._pid or now - before > 10 * EVERY:
            # Another worker; or this process stood still itself, and heard nobody meanwhile.
            self._silence.excuse(now)
            self._meet(now)
            return
        if self._pid and (why := self._silence.too_long(now)):
            log.warning("worker %d %s", self._pid, why)
            self._supervisor.give_up(f"it {why}, so it was ended; a hung driver or disk is likely")

    def _meet(self, now: float) -> None:
        """Begin anew with another worker."""
        if self._supervisor.pid != self._pid:
            self._pid = self._supervisor.pid
            self._silence.begin(now)

    def _heard(self, report: object) -> None:
        self._meet(self._clock())
        self._silence.hear(report, self._clock())

    def _sent(self, command: pipe.Command) -> None:
        self._meet(self._clock())
        if isinstance(command, pipe.Asked):
            self._silence.asked(command, self._clock())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            self.look()


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes"
