"""The surroundings of the training loop: telling, pausing, saving, sampling, between two steps."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.lora_file import tensors_of
from lora_daemon.engine.lora_metadata import Made, metadata
from lora_daemon.engine.metrics import Metrics
from lora_daemon.engine.resume import (
    Fingerprint,
    Progress,
    State,
    States,
    optimizer_memory,
    put_back_memory,
)
from lora_daemon.engine.samples import comes_due, due
from lora_daemon.engine.space import Space
from lora_daemon.engine.steering import Leave, Outcome, Steering
from lora_daemon.pipe import CheckpointSaved, Finished, Notice, Point, StateSaved, Tick
from shared.errors import Code, LoraError
from shared.recipe import Recipe
from shared.safetensors_file import write

TICK = 0.25  # seconds
WINDOW = 5.0  # seconds of training that the speed is taken over
TAIL = 100  # losses in the mean that a finished run reports


class Session:
    """One run being trained: where it is, what it leaves behind.

    ``sample``: makes the recipe's pictures at the present step. ``made``: what the file's metadata
    tells of the run.
    """

    def __init__(
        self, recipe: Recipe, made: Made, run_dir: Path, adapter: Adapter,
        optimizer: torch.optim.Optimizer, fingerprint: Fingerprint, steering: Steering,
        sample: Callable[[int], None], total: int, per_epoch: int,
    ) -> None:  # fmt: skip
        self.recipe, self.made, self.run_dir = recipe, made, run_dir
        self.adapter, self.optimizer = adapter, optimizer
        self.fingerprint, self.steering = fingerprint, steering
        self.total, self.per_epoch = total, per_epoch
        self.step = 0  # steps done
        self.outcome: Outcome = "finished"
        self.lora = ""
        self.bad: Point | None = None  # the step that went wrong, if one did
        self.states = States(run_dir / "state")
        self.metrics = Metrics(run_dir)
        self.space = Space(run_dir, steering, self.states.thin)
        self._sample = sample
        self._losses: deque[float] = deque(maxlen=TAIL)
        self._pending: list[tuple[Tensor, float, Tensor, float]] = []
        self._seen: list[tuple[int, int]] = []  # (step, picture)
        self._seen_at: list[tuple[Tensor, Tensor]] = []  # timesteps and losses of these
        self._trained = 0.0  # seconds spent in steps
        self._speed: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._ticked = self._saved = time.monotonic()
        self._state_step = -1

    # ── the loop's side ─────────────────────────────────────────────────────────────────────────

    def steps(self) -> Iterator[int]:
        """The steps that are left, counted from 0; everything else happens between them."""
        self.steering.position = (self.step, self.total)
        self.steering.on_sample = lambda: self._sample(self.step)
        self.steering.on_save = self.keep
        self.steering.on_pause = self.save_state
        self.steering.enter("training")
        try:
            while self.step < self.total and self.outcome != "stopped":
                self.steering.look()
                began = time.monotonic()
                yield self.step
                self._trained += time.monotonic() - began
                self._between()
        except Leave as leave:
            self.outcome = leave.outcome
        self._finish()

    def stop(self) -> None:
        """Take no more steps: save the LoRA as it is, and finish."""
        self.outcome = "stopped"

    def saw(self, pictures: Sequence[int], timesteps: Tensor, losses: Tensor) -> None:
        """These pictures of this step went through: the loss of each is kept, float32 (n,)."""
        self._seen += [(self.step + 1, picture) for picture in pictures]
        self._seen_at.append((timesteps, losses))

    def record(self, loss: Tensor, rate: float, norm: Tensor) -> None:
        """One step is done. The tensors are read at the next tick, not now: reading waits."""
        self._pending.append((loss, rate, norm, time.time()))
        self.step += 1
        self.steering.position = (self.step, self.total)

    # ── between two steps ───────────────────────────────────────────────────────────────────────

    def _between(self) -> None:
        if time.monotonic() - self._ticked >= TICK or self.step == self.total:
            self.flush()
        save = self.recipe.save
        if comes_due(self.step, self.per_epoch, save.every_steps, save.every_epochs):
            self.keep()
        if due(self.recipe.sample, self.step, self.per_epoch):
            self.save_state()  # whatever the pictures do to the process, the steps are safe
            self._sample(self.step)
        if time.monotonic() - self._saved >= save.resume_seconds:
            self.save_state()

    def flush(self) -> None:
        """Read and tell the steps since the last tick. Raises LoraError(DIVERGED)."""
        self._ticked = time.monotonic()
        if not self._pending:
            return
        began = time.monotonic()
        points = self._read_pending()
        seen = self._read_seen()
        self._trained += time.monotonic() - began  # on a GPU the steps are waited for here
        good = [p for p in points if math.isfinite(p.loss) and math.isfinite(p.grad_norm)]
        for point in good:
            self.metrics.add(point)
            self._losses.append(point.loss)
        last = good[-1].step if good else 0
        for step, picture, timestep, loss in seen:
            if step <= last:
                self.metrics.saw(step, picture, timestep, loss)
        with contextlib.suppress(LoraError):  # kept waiting; saving says so, and waits for space
            self.metrics.flush()
        self._speed.append((self._trained, self.step))
        while len(self._speed) > 2 and self._trained - self._speed[0][0] > WINDOW:
            self._speed.popleft()
        (since, first), (until, last) = self._speed[0], self._speed[-1]
        self.steering.tell(
            Tick(
                run=self.steering.run,
                step=good[-1].step if good else self.step,
                steps=self.total,
                epoch=self.epoch,
                epochs=math.ceil(self.total / self.per_epoch),
                points=good,
                speed=(last - first) / (until - since) if until > since else 0.0,
            )
        )
        if len(good) < len(points):
            bad = next(p for p in points if not math.isfinite(p.loss + p.grad_norm))
            self.bad = bad
            what = "loss" if not math.isfinite(bad.loss) else "gradient"
            raise LoraError(
                Code.DIVERGED,
                f"The {what} became {bad.loss if what == 'loss' else bad.grad_norm} at step "
                f"{bad.step}.",
                data={"step": bad.step},
            )

    @property
    def epoch(self) -> int:
        """The present one, counted from 1."""
        return max(0, self.step - 1) // self.per_epoch + 1

    def _read_pending(self) -> list[Point]:
        values = torch.stack([torch.stack((one[0], one[2])) for one in self._pending]).tolist()
        first = self.step - len(self._pending) + 1
        points = [
            Point(first + number, loss, one[1], norm, one[3])
            for number, ((loss, norm), one) in enumerate(zip(values, self._pending, strict=True))
        ]
        self._pending.clear()
        return points

    def _read_seen(self) -> list[tuple[int, int, int, float]]:
        """(step, picture, timestep, loss) of each picture since the last tick."""
        if not self._seen:
            return []
        timesteps, losses = (torch.cat(part).tolist() for part in zip(*self._seen_at, strict=True))
        places = list(self._seen)
        self._seen.clear()
        self._seen_at.clear()
        return [(*at, int(t), loss) for at, t, loss in zip(places, timesteps, losses, strict=True)]

    # ── what stays ──────────────────────────────────────────────────────────────────────────────

    def restore(self) -> Progress | None:
        """Go on from the newest whole state, if there is one. Raises LoraError(STORAGE)."""
        state, damaged = self.states.newest()
        for what in damaged:
            self._notice(f"The resume state {what}; an older one is taken.")
        if state is not None:
            self.step = self._state_step = state.progress.step
            self._losses.extend(state.progress.losses)
            self.put_back(state)
            self._speed = deque([(0.0, self.step)])
        self.steering.position = (self.step, self.total)
        self.states.forget_after(self.step)
        self.metrics.cut_back(self.step)
        return state.progress if state else None

    def put_back(self, state: State) -> None:
        """Set the adapter and the optimiser to a state."""
        self.adapter.vector.data.copy_(state.tensors["vector"])
        self.adapter.gradient.zero_()
        if self.adapter.average is not None:
            self.adapter.average.copy_(state.tensors["average"])
        put_back_memory(self.optimizer, state)

    def save_state(self) -> None:
        """Publish a resume state of this step, unless there is one."""
        if self._state_step == self.step:
            return
        self.flush()
        tensors, numbers = optimizer_memory(self.optimizer)
        tensors["vector"] = self.adapter.vector.detach().cpu()
        if self.adapter.average is not None:
            tensors["average"] = self.adapter.average.cpu()
        progress = Progress(self.step, numbers, list(self._losses), self.fingerprint)
        state = State(progress, tensors)
        if not state.finite:
            self.bad = Point(self.step, math.nan, 0.0, math.nan, time.time())
            raise LoraError(
                Code.DIVERGED, f"The LoRA is no longer finite at step {self.step}.",
                data={"step": self.step},
            )  # fmt: skip
        self.space.insist(lambda: self._publish(state), _bytes(state.tensors.values()))
        self._state_step = self.step
        self._saved = time.monotonic()
        self.steering.tell(StateSaved(run=self.steering.run, step=self.step))

    def _publish(self, state: State) -> None:
        self.metrics.flush(durable=True)
        self.states.publish(state)

    def keep(self, *, final: bool = False) -> None:
        """Save the LoRA as it is: under its own name if ``final``, else with its step."""
        self.flush()
        name = self.made.name if final else f"{self.made.name}-step{self.step:06d}"
        path = self.run_dir / "lora" / f"{name}.safetensors"
        before = self.steering.enter("saving")
        with self.adapter.averaged():
            tensors = tensors_of(self.adapter.modules)
        size = self.space.insist(
            lambda: write(path, tensors, metadata(self.made, tensors, self.step, self.epoch)),
            sum(len(one.data) for one in tensors.values()),
        )
        self.lora = f"lora/{path.name}"
        self.steering.tell(
            CheckpointSaved(
                run=self.steering.run, step=self.step, epoch=self.epoch, path=self.lora, size=size,
                final=final, passed=self._passed(),
            )
        )  # fmt: skip
        self.steering.enter(before)

    def kept_steps(self) -> list[int]:
        """The steps of which this run has kept a LoRA."""
        kept = (
            path.stem.rpartition("-step")[2] for path in (self.run_dir / "lora").glob("*-step*")
        )
        return [int(step) for step in kept if step.isdecimal()]

    def _passed(self) -> list[int]:
        """The steps whose LoRAs the recipe keeps no longer; what was saved by hand stays."""
        save, steps = self.recipe.save, sorted(self.kept_steps())
        due = [
            step for step in steps
            if comes_due(step, self.per_epoch, save.every_steps, save.every_epochs)
        ]  # fmt: skip
        return due[: -save.keep_last] if save.keep_last else []

    def _finish(self) -> None:
        self.save_state()
        if self.outcome != "suspended":
            self.keep(final=True)
        self.steering.tell(
            Finished(
                run=self.steering.run, outcome=self.outcome, step=self.step,
                loss=math.fsum(self._losses) / max(1, len(self._losses)),
                lora=self.lora if self.outcome != "suspended" else "",
            )
        )  # fmt: skip

    def _notice(self, message: str) -> None:
        self.steering.tell(Notice(run=self.steering.run, message=message))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)
