"""What the run that trains takes: seconds by what it does, and the memory it is seen to have."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from lora_daemon import pipe
from shared import foretelling
from shared.foretelling import Spent
from shared.recipe import Recipe


class Meter:
    """From when the worker is given a run to when it has left it. ``now``: seconds of a clock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._phase, self._since = "loading", now()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._first: int | None = None  # steps done before the first that was taken here
        self._last = 0
        self._cached = self._samples = self._memory = 0

    def take(self, report: object, memory: pipe.Memory | None) -> None:
        """A report on the run. ``memory``: the worker's own newest word."""
        if memory is not None:
            self._memory = max(self._memory, memory.allocated + memory.cached, memory.peak)
        match report:
            case pipe.Phase():
                self._pass()
                self._phase = report.phase
                if report.phase == "caching":
                    self._cached = report.total
                elif report.phase == "training":
                    self._at(report.done)
            case pipe.Tick():
                self._at(report.step)
            case pipe.SampleSaved():
                self._samples += 1
            case _:
                pass

    def spent(self, recipe: Recipe, device: str) -> Spent:
        """All of it, of a run of this recipe."""
        self._pass()
        prompts = len(recipe.sample.prompts)
        painted = foretelling.painted(recipe) * self._samples // prompts if prompts else 0
        steps = self._last - (self._first or 0)
        return Spent(
            like=foretelling.kind(recipe), device=device,
            dataset=foretelling.latents(recipe),
            loading=sum(self._seconds[phase] for phase in ("loading", "compiling", "saving")),
            caching=self._seconds["caching"],
            cached=self._cached * (1 + recipe.dataset.flip),
            training=self._seconds["training"], batches=steps * recipe.training.accumulation,
            batch=recipe.training.batch_size, painting=self._seconds["sampling"], painted=painted,
            memory=self._memory,
        )  # fmt: skip

    @property
    def at_work(self) -> float:
        """Seconds until now, without pauses."""
        self._pass()
        return sum(self._seconds.values()) - self._seconds["paused"]

    def _at(self, step: int) -> None:
        if self._first is None:
            self._first = step
        self._last = max(self._last, step)

    def _pass(self) -> None:
        now = self._now()
        self._seconds[self._phase] += now - self._since
        self._since = now
