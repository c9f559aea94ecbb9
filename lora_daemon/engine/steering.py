"""Obeying the daemon during a run: pause, resume, sample, save, stop, suspend; pictures between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol

from lora_daemon.pipe import (
    Command,
    Describe,
    Gather,
    Measure,
    Paint,
    Phase,
    Probe,
    Recognise,
    Report,
    Serving,
    Steer,
    Weigh,
    Zip,
)

Tell = Callable[[Report], None]
PhaseName = Literal[
    "loading", "caching", "compiling", "training", "sampling", "saving", "paused"
]  # fmt: skip
Outcome = Literal["finished", "stopped", "suspended"]


class Commands(Protocol):
    """The queue of commands, filled by another thread."""

    def take(self, wait: float | None) -> Command | None:
        """The next command. ``wait``: seconds at most, None for as long as it takes."""

    def put_off(self, command: Command) -> None:
        """Keep a command for after this run."""

    def leaving(self, run: str) -> bool:
        """Whether a command to suspend ``run`` waits: long work should then be given up."""


class Leave(Exception):
    """The daemon wants the run left."""

    def __init__(self, outcome: Literal["stopped", "suspended"]) -> None:
        super().__init__(outcome)
        self.outcome: Outcome = outcome


class Steering:
    """Looks for commands when the run comes by. ``on_…``: what the run can do at this moment."""

    def __init__(self, run: str, commands: Commands, tell: Tell) -> None:
        self.run = run
        self.tell = tell
        self.on_sample: Callable[[], None] = lambda: None
        self.on_save: Callable[[], None] = lambda: None
        self.on_pause: Callable[[], None] = lambda: None
        self.on_serve: Callable[[Serving], None] = lambda _: None
        self.on_describe: Callable[[Describe], None] = lambda _: None
        self._commands = commands
        self.position = (0, 0)  # steps done, and of how many
        self._paused = False
        self._patient: list[Paint] = []  # pictures that wait until the run has had its turn
        self._due = 0.0  # when it has had it
        self._phase: PhaseName = "loading"
        self._resume_to: PhaseName = "loading"

    def enter(self, phase: PhaseName, count: tuple[int, int] | None = None) -> PhaseName:
        """Tell what the run is doing now, and return what it was doing before.

        ``count``: how many of how many are done, where that is not the steps.
        """
        before = self._phase
        self._phase = phase
        done, total = count or self.position
        self.tell(Phase(run=self.run, phase=phase, done=done, total=total))
        return before

    def look(self) -> None:
        """Obey whatever waits; while paused, wait for more. Raises Leave.

        Of many pictures that were asked for at once, the next is begun when the run has gone on for
        as long as the one before took; what a person waits for, at once.
        """
        while True:
            while self._patient and (self._paused or time.monotonic() >= self._due):
                self._serve(self._patient.pop(0))
            command = self._commands.take(None if self._paused else 0.0)
            if command is None:
                return
            if isinstance(command, Paint) and command.patient:
                self._patient.append(command)
            else:
                self._obey(command)

    def leave_waiting(self) -> None:
        """Keep for after this run what has waited for its turn in it."""
        while self._patient:
            self._commands.put_off(self._patient.pop(0))

    def hold(self, seconds: float) -> None:
        """Be paused for some seconds, or until told to try again ("resume"). Raises Leave."""
        before = self.enter("paused")
        command = self._commands.take(seconds)
        self.enter(before)
        if command is not None and not _is(command, self.run, "pause", "resume", "sample", "save"):
            self._obey(command)

    @property
    def leaving(self) -> bool:
        return self._commands.leaving(self.run)

    def _serve(self, job: Serving) -> None:
        began = time.monotonic()
        self.on_serve(job)
        now = time.monotonic()
        self._due = now + (now - began)

    def _obey(self, command: Command) -> None:
        match command:
            case Paint() | Probe() | Gather() | Measure() | Zip() | Weigh() | Recognise():
                self._serve(command)
            case Describe():
                self.on_describe(command)
            case Steer(run=self.run, action="pause") if not self._paused:
                self.on_pause()
                self._paused = True
                self._resume_to = self.enter("paused")
            case Steer(run=self.run, action="resume") if self._paused:
                self._paused = False
                self.enter(self._resume_to)
            case Steer(run=self.run, action="sample"):
                self.on_sample()
            case Steer(run=self.run, action="save"):
                self.on_save()
            case Steer(run=self.run, action="stop"):
                raise Leave("stopped")
            case Steer(run=self.run, action="suspend"):
                raise Leave("suspended")
            case Steer():
                pass  # for a run that is over, or already so
            case _:
                self._commands.put_off(command)


def _is(command: Command, run: str, *actions: str) -> bool:
    return isinstance(command, Steer) and command.run == run and command.action in actions
