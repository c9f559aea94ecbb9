"""The queue: which run the worker has, what it reports of it, what its death means, steering."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from lora_daemon import library as libraries
from lora_daemon import pipe, taken
from lora_daemon.arranging import said
from lora_daemon.library import Library
from lora_daemon.picture_losses import keep, losses_of
from lora_daemon.pruning import Pruner
from lora_daemon.runs import Runs, size_of
from lora_daemon.service import Context, Daemon
from lora_daemon.supervisor import Supervisor
from shared import run_queue, wire
from shared.errors import Code, LoraError

log = logging.getLogger(__name__)

RESTARTS = 3  # in a row without a newer resume state
PAUSE_SHOWN = 5.0  # seconds to wait for the worker's word before answering as it is
SUSPEND_PATIENCE = 90.0  # seconds for the step boundary and the resume state
LOCK_PATIENCE = 20  # seconds that an old worker may still hold the run's directory
LOSSES = 100  # in the mean that is shown

RunReport = (
    pipe.Phase
    | pipe.Tick
    | pipe.StateSaved
    | pipe.NoSpace
    | pipe.Resumed
    | pipe.CheckpointSaved
    | pipe.SampleSaved
    | pipe.Skipped
    | pipe.Notice
    | pipe.Finished
    | pipe.RunFailed
)


class Scheduler:
    """One run at a time, in the order of the queue. Answers SteerRun."""

    def __init__(
        self, daemon: Daemon, runs: Runs, library: Library, supervisor: Supervisor,
        pruner: Pruner,
    ) -> None:  # fmt: skip
        self._store = daemon.store
        self._hub = daemon.hub
        self._workspace = daemon.workspace
        self._runs = runs
        self._library = library
        self._supervisor = supervisor
        self.make_room = pruner.make_room
        self.devices: Callable[[], list[wire.DeviceUse]] = list  # what is known of them
        self._regardless: set[str] = set()  # runs that share a GPU with others
        self.active = ""  # the run that the worker has
        self.progress: wire.RunProgress | None = None  # the latest of it
        self._losses: deque[float] = deque(maxlen=LOSSES)
        self._stop_at_once: set[str] = set()  # runs to be saved and stopped as soon as they begin
        self._worker = 0  # pid of the worker that the active run was given to
        self._lock_tries = 0
        self._closing = False
        self._left = asyncio.Event()  # no run is with the worker
        self._left.set()
        self._later: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None  # whether the GPU is free by now

    # ── the queue ───────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Go on with what the last daemon left; a paused run stays paused."""
        for run in self._runs.all():
            if run.state in ("starting", "training"):
                self._runs.update(run.id, "daemon", state="interrupted", phase="", speed=None)
            elif run.state == "paused":
                self._runs.update(run.id, "daemon", phase="paused", speed=None)
        await self.advance()

    async def advance(self) -> None:
        """Give the worker the next run, if it has none."""
        while not self.active and not self._closing:
            every = self._runs.all()
            waiting = [r for r in every if r.state in ("queued", "interrupted")]
            ready = None
            for run in waiting:
                if not (blocking := run_queue.waits_for(run, every)):
                    ready = ready or run
                else:
                    self._runs.update(run.id, message=said(blocking))
            if ready is None or self._waits_for_gpu(ready):
                return
            if not self._refused(ready):
                await self._begin(ready)

    def _taken(self, run: wire.Run) -> str:
        """That the GPU is others', in a sentence, unless the run shares it."""
        if run.id in self._regardless or taken.manner() == "share":
            return ""
        ready = self._supervisor.ready
        return taken.by_others(self.devices(), ready.device_uuid if ready else "")

    def _waits_for_gpu(self, run: wire.Run) -> bool:
        if taken.manner() != "wait" or not (why := self._taken(run)):
            return False
        self._runs.update(
            run.id,
            message=f"{why}: waits until it is free. `lora-tui run resume {run.id}` shares it.",
        )
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_again())
        return True

    def _refused(self, run: wire.Run) -> bool:
        if taken.manner() != "refuse" or not (why := self._taken(run)):
            return False
        self._fail(run.id, f"{why}, and LORA_TUI_TAKEN_GPU says to refuse then.")
        return True

    async def _look_again(self) -> None:
        await asyncio.sleep(taken.EVERY)
        self._looking = None
        await self.advance()

    async def _begin(self, run: wire.Run) -> None:
        self._hold(run.id)
        fields: dict[str, Any] = {"state": "starting", "phase": "loading", "message": ""}
        if run.started is None:
            fields["started"] = time.time()
        self._runs.update(run.id, **fields)
        self._runs.log(run.id, "starting" if run.started is None else "going on")
        await self._send(run.id)

    async def _send(self, run: str) -> None:
        order = pipe.Train(
            run=run,
            run_dir=str(self._runs.directory(run)),
            cache_dir=str(self._workspace.cache),
        )
        try:
            self._worker = await self._supervisor.send(order)
        except LoraError as error:
            self._fail(run, error.message)

    def _hold(self, run: str) -> None:
        self.active, self.progress, self._worker = run, None, 0
        self._losses.clear()
        self._left.clear()

    def _release(self) -> None:
        self._stop_at_once.discard(self.active)
        self.active, self.progress, self._lock_tries = "", None, 0
        self._left.set()

    async def close(self, *, now: bool) -> None:
        """Suspend the run: its resume state is saved at the step boundary, unless ``now``."""
        self._closing = True
        for task in (*self._later, *filter(None, [self._looking])):
            task.cancel()
        if self.active and not now and self._worker and self._worker == self._supervisor.pid:
            self._supervisor.tell(pipe.Steer(run=self.active, action="suspend"))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), SUSPEND_PATIENCE)
        if self.active and self._runs.get(self.active).state != "paused":
            with contextlib.suppress(LoraError):  # a full disk; the next start sees it itself
                self._runs.update(self.active, "daemon", state="interrupted", phase="", speed=None)

    # ── what the worker reports ─────────────────────────────────────────────────────────────────

    async def report(self, report: RunReport) -> None:
        """Take in one report about a run."""
        if report.run != self.active:
            return
        match report:
            case pipe.Phase():
                self._phase(report)
            case pipe.Tick():
                self._tick(report)
            case pipe.StateSaved():
                self._runs.update(report.run, step=report.step, restarts=0)
            case pipe.NoSpace():
                await self._no_space(report)
            case pipe.Resumed():
                self._resumed(report)
            case pipe.CheckpointSaved():
                await self._checkpoint(report)
            case pipe.SampleSaved():
                await self._sample(report)
            case pipe.Skipped():
                self._skipped(report)
            case pipe.Notice():
                self._runs.note(report.run, "warning", report.message)
                self._runs.log(report.run, report.message)
                self._runs.update(report.run, message=report.message)
            case pipe.Finished():
                await self._finished(report)
            case pipe.RunFailed():
                await self._failed(report)

    async def _no_space(self, report: pipe.NoSpace) -> None:
        """Make what room can be made, and let the run try again."""
        freed = await self.make_room(report.needed)
        self._supervisor.tell(pipe.Steer(run=report.run, action="resume"))
        if freed.size:
            message = f"The disk was full. To make room, these were removed: {freed}."
            self._runs.note(report.run, "warning", message)
            self._runs.log(report.run, message)

    def _phase(self, report: pipe.Phase) -> None:
        run = self._runs.get(report.run)
        state: wire.RunState = "training"
        at_rest = run.state == "paused" and report.phase in ("sampling", "saving")
        if report.phase == "paused" or at_rest:  # asked for a sample, a paused run stays so
            state = "paused"
        elif report.phase == "loading":
            state = "starting"
        if (state, report.phase) != (run.state, run.phase):
            fields: dict[str, Any] = {"speed": self._speed()}
            if report.total:
                fields |= {"done": report.done, "total": report.total}
            if report.total and report.phase in ("training", "paused", "saving"):
                fields |= {"step": report.done}
            self._runs.update(report.run, state=state, phase=report.phase, **fields)
        if report.phase == "training" and report.run in self._stop_at_once:
            self._supervisor.tell(pipe.Steer(run=report.run, action="stop"))
        self._publish(phase=report.phase, done=report.done, total=report.total, points=[], eta=None)

    def _tick(self, report: pipe.Tick) -> None:
        self._losses.extend(point.loss for point in report.points)
        left = report.steps - report.step
        self._publish(
            phase="training",
            done=report.step,
            total=report.steps,
            step=report.step,
            epoch=report.epoch,
            speed=report.speed,
            eta=left / report.speed if report.speed > 0 else None,
            loss=self._loss(),
            points=[
                wire.LivePoint(p.step, p.loss, p.learning_rate, p.grad_norm, p.time)
                for p in report.points
            ],
        )

    def _publish(self, **fields: Any) -> None:
        if self.progress is None:
            run = self._runs.get(self.active)
            base: dict[str, Any] = {
                "run": run.id, "step": run.step, "epoch": run.epoch, "speed": 0.0,
                "loss": run.loss,
            }  # fmt: skip
        else:
            last = self.progress
            base = {
                "run": last.run, "step": last.step, "epoch": last.epoch, "speed": last.speed,
                "loss": last.loss,
            }  # fmt: skip
        self.progress = wire.RunProgress(**{**base, **fields})
        self._hub.publish(self.progress)

    def _loss(self) -> float | None:
        return math.fsum(self._losses) / len(self._losses) if self._losses else None

    def _speed(self) -> float | None:
        return self.progress.speed or None if self.progress else None

    def current(self, run: wire.Run) -> wire.Run:
        """The run as it is now: its row is written only when something is kept."""
        return msgspec.structs.replace(run, **self._now()) if run.id == self.active else run

    def _now(self) -> dict[str, Any]:
        """Where the run is, for its row."""
        if self.progress is None or not self.progress.step:
            return {}
        return {"step": self.progress.step, "epoch": self.progress.epoch, "loss": self._loss()}

    def _resumed(self, report: pipe.Resumed) -> None:
        words = f"resumed at step {report.step}"
        message = ""
        if not report.identical:
            message = f"Continues from step {report.step}, not bit-identical: {report.why}."
            self._runs.note(report.run, "warning", message)
        self._runs.log(report.run, f"{words}. {message}")
        self._losses.clear()
        self._runs.update(report.run, step=report.step, message=message)

    async def _checkpoint(self, report: pipe.CheckpointSaved) -> None:
        path = self._runs.directory(report.run) / report.path
        with self._store.change("engine") as change:
            change.execute(
                "INSERT OR REPLACE INTO checkpoints (run, path, step, epoch, size, final)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (report.run, report.path, report.step, report.epoch, report.size, report.final),
            )
        name = ""
        try:
            lora = await self._library.add_lora(self._runs.get(report.run), path, report.step)
            name = lora.name
        except (LoraError, OSError) as error:
            self._runs.note(report.run, "warning", f"{report.path}: {error}")
        self._runs.log(report.run, f"kept {report.path} at step {report.step}")
        size = await asyncio.to_thread(size_of, self._runs.directory(report.run))
        self._runs.update(report.run, lora=name, size=size, **self._now())

    async def _sample(self, report: pipe.SampleSaved) -> None:
        path = self._runs.directory(report.run) / report.path
        try:
            picture = await libraries.sample(
                report.run, path, report.step, report.prompt, report.seed
            )
        except (LoraError, OSError) as error:
            self._runs.note(report.run, "warning", f"{report.path}: {error}")
            return
        self._library.add_picture(picture, "engine")

    def _skipped(self, report: pipe.Skipped) -> None:
        if self._runs.note(report.run, "skipped", report.reason, report.path):
            run = self._runs.get(report.run)
            self._runs.log(report.run, f"skipped {report.path}: {report.reason}")
            self._runs.update(report.run, pictures=run.pictures - 1, skipped=run.skipped + 1)

    async def _finished(self, report: pipe.Finished) -> None:
        run = self._runs.get(report.run)
        fields: dict[str, Any] = {"phase": "", "speed": None, **self._now()}
        if report.step:
            fields |= {"step": report.step, "done": report.step}
        if math.isfinite(report.loss) and report.step:
            fields["loss"] = report.loss
        if report.outcome == "suspended":
            fields["state"] = "paused" if run.state == "paused" else "interrupted"
        else:
            size = await asyncio.to_thread(size_of, self._runs.directory(run.id))
            fields |= {"state": report.outcome, "finished": time.time(), "size": size}
            losses = await asyncio.to_thread(losses_of, self._runs.directory(run.id))
            keep(self._store, run.id, losses)
        self._runs.log(run.id, f"{report.outcome} at step {report.step}")
        self._runs.update(run.id, **fields)
        self._release()
        await self.advance()

    async def _failed(self, report: pipe.RunFailed) -> None:
        busy = report.failure.code == Code.BUSY and self._lock_tries < LOCK_PATIENCE
        if busy and not self._closing:  # a worker of the last daemon is about to leave
            self._lock_tries += 1
            self._after(1.0, report.run)
            return
        self._fail(report.run, report.failure.message)
        await self.advance()

    def _fail(self, run: str, message: str) -> None:
        self._runs.log(run, f"failed: {message}")
        self._runs.update(
            run, state="failed", phase="", speed=None, message=message, finished=time.time(),
            **self._now(),
        )  # fmt: skip
        self._release()

    async def worker_died(self, pid: int, reason: str) -> None:
        """Bring the run back from its last state, unless that has failed too often."""
        run = self.active
        if not run or pid != self._worker:
            return
        if self._closing:
            self._left.set()
            return
        before = self._runs.get(run)
        self._runs.log(run, reason)
        if before.state == "paused":  # nothing to bring back until it is resumed
            self._runs.update(run, message=reason)
            self._release()
            await self.advance()
            return
        if before.restarts >= RESTARTS:
            self._fail(
                run,
                f"The worker ended {before.restarts + 1} times in a row without getting further. "
                f"{reason}",
            )
            await self.advance()
            return
        self._hold(run)
        self._runs.update(
            run, state="starting", phase="loading", restarts=before.restarts + 1, message=reason,
            speed=None,
        )  # fmt: skip
        self._after(0.5 * before.restarts, run)

    def _after(self, seconds: float, run: str) -> None:
        """Send the run again, in a while; graphics memory takes a second to come back."""

        async def send() -> None:
            await asyncio.sleep(seconds)
            if self.active == run and not self._closing:
                await self._send(run)

        task = asyncio.create_task(send())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    # ── steering ────────────────────────────────────────────────────────────────────────────────

    async def steer(self, context: Context, request: wire.SteerRun) -> wire.Run:
        """Raises LoraError: NOT_FOUND, WRONG_STATE in a sentence."""
        run = self._runs.get(request.run)
        by = context.by
        self._runs.log(run.id, f"{request.action} asked by {by}")
        match request.action:
            case "pause":
                return await self._pause(run, by)
            case "resume":
                return await self._resume(run, by)
            case "stop":
                return await self._stop(run, by)
            case "sample" | "save":
                if run.id != self.active:
                    raise _wrong(run, f"only a run at work can {request.action}")
                self._supervisor.tell(pipe.Steer(run=run.id, action=request.action))
                return run

    async def _pause(self, run: wire.Run, by: str) -> wire.Run:
        if run.state == "paused":
            return run
        if run.id == self.active:
            self._supervisor.tell(pipe.Steer(run=run.id, action="pause"))
            return await self._runs.until(
                run.id, lambda now: now.state not in ("starting", "training"), PAUSE_SHOWN
            )
        if run.state in ("queued", "interrupted"):
            return self._runs.update(run.id, by, state="paused", phase="paused")
        raise _wrong(run, "there is nothing to pause")

    async def _resume(self, run: wire.Run, by: str) -> wire.Run:
        if run.id == self.active:
            if run.state == "paused":
                self._supervisor.tell(pipe.Steer(run=run.id, action="resume"))
                return await self._runs.until(
                    run.id, lambda now: now.state != "paused", PAUSE_SHOWN
                )
            return run
        if run.state == "interrupted":
            self._regardless.add(run.id)
        if run.state in ("paused", "failed", "interrupted"):
            run = self._runs.update(
                run.id, by, state="queued", phase="", message="", restarts=0, finished=None
            )
            await self.advance()
            return self._runs.get(run.id)
        if run.state == "queued":
            self._regardless.add(run.id)
            await self.advance()
            return self._runs.get(run.id)
        raise _wrong(run, "start a new one instead")

    async def _stop(self, run: wire.Run, by: str) -> wire.Run:
        if run.id == self.active:
            self._stop_at_once.add(run.id)  # also if the worker has to be brought back first
            if run.state != "starting" or not run.step:  # else told once its steps are loaded
                self._supervisor.tell(pipe.Steer(run=run.id, action="stop"))
            return run
        if run.state in wire.FINAL_STATES:
            raise _wrong(run, "there is nothing to stop")
        if run.started is None or not run.step:
            return self._runs.update(
                run.id, by, state="stopped", phase="", finished=time.time(),
                message="Dropped from the queue.",
            )  # fmt: skip
        self._stop_at_once.add(run.id)  # its LoRA is saved by the worker, from its last state
        run = self._runs.update(run.id, by, state="queued", phase="", message="To be stopped.")
        await self.advance()
        return self._runs.get(run.id)


def _wrong(run: wire.Run, advice: str) -> LoraError:
    return LoraError(
        Code.WRONG_STATE,
        f"{run.id} is {run.state}: {advice}.",
        data={"run": run.id, "state": run.state},
    )
