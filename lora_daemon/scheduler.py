"""The queue: which run goes to which worker, what they report, what a death means, steering."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from lora_daemon import library as libraries
from lora_daemon import pipe, taken
from lora_daemon.arranging import said
from lora_daemon.at_work import AtWork
from lora_daemon.library import Library
from lora_daemon.picture_losses import keep, losses_of
from lora_daemon.pruning import Pruner
from lora_daemon.runs import Runs, size_of
from lora_daemon.seats import Seat, Seats
from lora_daemon.service import Context, Daemon
from shared import recipe as recipes
from shared import run_queue, wire
from shared.errors import Code, LoraError
from shared.foretelling import Spent

log = logging.getLogger(__name__)

RESTARTS = 3  # in a row without a newer resume state
PAUSE_SHOWN = 5.0  # seconds to wait for the worker's word before answering as it is
SUSPEND_PATIENCE = 90.0  # seconds for the step boundary and the resume state
LOCK_PATIENCE = 20  # seconds that an old worker may still hold the run's directory
NOWHERE: dict[str, Any] = {"phase": "", "speed": None, "gpus": []}  # of a run without a worker

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
    """As many runs at once as there are seats, in the order of the queue. Answers SteerRun."""

    def __init__(
        self, daemon: Daemon, runs: Runs, library: Library, seats: Seats, pruner: Pruner
    ) -> None:
        self._store = daemon.store
        self._hub = daemon.hub
        self._workspace = daemon.workspace
        self._runs = runs
        self._library = library
        self._seats = seats
        self.make_room = pruner.make_room
        self._regardless: set[str] = set()  # runs that share a GPU with others
        self._at_work: dict[str, AtWork] = {}  # by run
        self._stop_at_once: set[str] = set()  # runs to be saved and stopped as soon as they begin
        self._closing = False
        self._later: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None  # whether a GPU is free by now

    def progress(self) -> list[wire.RunProgress]:
        """The latest of each run at work."""
        return [one.progress for one in self._at_work.values() if one.progress is not None]

    # ── the queue ───────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Go on with what the last daemon left; a paused run stays paused."""
        for run in self._runs.all():
            if run.state in ("starting", "training"):
                self._runs.update(run.id, "daemon", **{**NOWHERE, "state": "interrupted"})
            elif run.state == "paused":
                self._runs.update(run.id, "daemon", **{**NOWHERE, "phase": "paused"})
        await self.advance()

    async def advance(self) -> None:
        """Give the free workers the next runs. None overtakes one that only waits for GPUs."""
        while not self._closing and any(not seat.run for seat in self._seats):
            ready = self._ready()
            if ready is None:
                return
            seats = self._seats_for(ready)
            if seats:
                await self._begin(ready, seats)
            elif self._runs.get(ready.id).state not in wire.FINAL_STATES:
                return

    def _ready(self) -> wire.Run | None:
        """The first run that waits for no other; the others are told for which they do."""
        every = self._runs.all()
        ready = None
        for run in every:
            if run.state not in ("queued", "interrupted"):
                continue
            if not (blocking := run_queue.waits_for(run, every)):
                ready = ready or run
            else:
                self._runs.update(run.id, message=said(blocking))
        return ready

    def _seats_for(self, run: wire.Run) -> Sequence[Seat]:
        """The seats that a run begins on. None where it waits, which it is told, or is refused."""
        wanted = self._processes(run)
        free = [seat for seat in self._seats if not seat.run]
        shares = run.id in self._regardless or taken.manner() == "share"
        others = {seat: "" if shares else self._seats.others(seat) for seat in free}
        good = [seat for seat in free if not others[seat]]
        if len(good) >= wanted:
            return sorted(good, key=self._seats.suits(self._base_of(run)))[:wanted]
        if why := "; ".join(filter(None, others.values())):
            self._wait_for_others(run, why, never=len(self._seats) - len(free) + len(good) < wanted)
        elif len(free) < wanted:
            self._runs.update(
                run.id,
                message=f"Waits until {wanted} GPUs are free at once; now it is {len(free)}.",
            )
        return []

    def _processes(self, run: wire.Run) -> int:
        """How many GPUs a run takes: as many as it has processes, where there are so many."""
        if self._seats.alone:
            return 1
        try:
            recipe = self._recipe(run.id)
        except LoraError:  # which the worker will say
            return 1
        most = os.environ.get("LORA_TUI_PROCESSES", "")
        limit = int(most) if most.isdecimal() and int(most) else len(self._seats)
        return min(recipe.training.num_processes, limit, len(self._seats))

    def _base_of(self, run: wire.Run) -> str:
        """The path of a run's base, as far as it is known by its name."""
        return next((base.path for base in self._library.bases() if base.name == run.base), "")

    def _wait_for_others(self, run: wire.Run, why: str, *, never: bool) -> None:
        """The GPUs that are free of runs are others'. ``never``: no run's end would help."""
        if taken.manner() == "refuse":
            if never:
                self._fail(run.id, f"{why}, and LORA_TUI_TAKEN_GPU says to refuse then.")
            return
        self._runs.update(
            run.id,
            message=f"{why}: waits until it is free. `lora-tui run resume {run.id}` shares it.",
        )
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_again())

    async def _look_again(self) -> None:
        await asyncio.sleep(taken.EVERY)
        self._looking = None
        await self.advance()

    async def _begin(self, run: wire.Run, seats: Sequence[Seat]) -> None:
        one = self._at_work[run.id] = AtWork(run, seats)
        fields: dict[str, Any] = {"state": "starting", "phase": "loading", "message": ""}
        gpus = [seat.name for seat in seats if seat.name]
        if run.started is None:
            fields["started"] = time.time()
        self._runs.update(run.id, **fields, gpus=gpus)
        where = f", on GPU {', '.join(gpus)}" if gpus else ""
        self._runs.log(run.id, ("starting" if run.started is None else "going on") + where)
        await self._send(one)

    async def _send(self, one: AtWork) -> None:
        order = pipe.Train(
            run=one.run,
            run_dir=str(self._runs.directory(one.run)),
            cache_dir=str(self._workspace.cache),
            devices=[seat.gpu.visible for seat in one.seats if seat.gpu and seat.name],
        )
        try:
            for lent in one.seats[1:]:
                await lent.supervisor.end()  # the memory is for the run's process
            one.worker = await one.leader.train(order, self._base_of(self._runs.get(one.run)))
        except LoraError as error:
            self._fail(one.run, error.message)

    def _release(self, run: str) -> None:
        """The worker has the run no more."""
        self._stop_at_once.discard(run)
        if (one := self._at_work.pop(run, None)) is not None:
            one.leave()

    async def close(self, *, now: bool) -> None:
        """Suspend the runs: their resume states are saved at the step boundary, unless ``now``."""
        self._closing = True
        for task in (*self._later, *filter(None, [self._looking])):
            task.cancel()
        if not now:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SUSPEND_PATIENCE):
                    going = [one for one in self._at_work.values() if one.with_worker]
                    for one in going:
                        one.steer("suspend")
                    for one in going:
                        await one.left.wait()
        for run in self._at_work:
            if self._runs.get(run).state != "paused":
                with contextlib.suppress(LoraError):  # a full disk; the next start sees it itself
                    self._runs.update(run, "daemon", **{**NOWHERE, "state": "interrupted"})

    # ── what the worker reports ─────────────────────────────────────────────────────────────────

    async def report(self, report: RunReport) -> None:
        """Take in one report about a run."""
        one = self._at_work.get(report.run)
        if one is None:
            return
        one.measure(report)
        match report:
            case pipe.Phase():
                self._phase(one, report)
            case pipe.Tick():
                self._hub.publish(one.ticked(report, self._runs.get(one.run)))
            case pipe.StateSaved():
                self._runs.update(report.run, step=report.step, restarts=0, took=one.took)
            case pipe.NoSpace():
                await self._no_space(one, report)
            case pipe.Resumed():
                self._resumed(one, report)
            case pipe.CheckpointSaved():
                await self._checkpoint(one, report)
            case pipe.SampleSaved():
                await self._sample(report)
            case pipe.Skipped():
                self._skipped(report)
            case pipe.Notice():
                self._runs.note(report.run, "warning", report.message)
                self._runs.log(report.run, report.message)
                self._runs.update(report.run, message=report.message)
            case pipe.Finished():
                await self._finished(one, report)
            case pipe.RunFailed():
                await self._failed(one, report)

    async def _no_space(self, one: AtWork, report: pipe.NoSpace) -> None:
        """Make what room can be made, and let the run try again."""
        freed = await self.make_room(report.needed)
        one.steer("resume")
        if freed.size:
            message = f"The disk was full. To make room, these were removed: {freed}."
            self._runs.note(report.run, "warning", message)
            self._runs.log(report.run, message)

    def _phase(self, one: AtWork, report: pipe.Phase) -> None:
        run = self._runs.get(report.run)
        state: wire.RunState = "training"
        at_rest = run.state == "paused" and report.phase in ("sampling", "saving")
        if report.phase == "paused" or at_rest:  # asked for a sample, a paused run stays so
            state = "paused"
        elif report.phase == "loading":
            state = "starting"
        if (state, report.phase) != (run.state, run.phase):
            fields: dict[str, Any] = {
                "speed": one.speed, "done": report.done, "total": report.total,
            }  # fmt: skip
            if report.total and report.phase in ("training", "paused", "saving"):
                fields |= {"step": report.done}
            self._runs.update(report.run, state=state, phase=report.phase, **fields)
        if report.phase == "training" and report.run in self._stop_at_once:
            one.steer("stop")
        self._hub.publish(one.entered(
            run, phase=report.phase, done=report.done, total=report.total, points=[], eta=None
        ))  # fmt: skip

    def current(self, run: wire.Run) -> wire.Run:
        """The run as it is now: its row is written only when something is kept."""
        one = self._at_work.get(run.id)
        return msgspec.structs.replace(run, **one.now()) if one is not None else run

    def _resumed(self, one: AtWork, report: pipe.Resumed) -> None:
        words = f"resumed at step {report.step}"
        message = ""
        if not report.identical:
            message = f"Continues from step {report.step}, not bit-identical: {report.why}."
            self._runs.note(report.run, "warning", message)
        self._runs.log(report.run, f"{words}. {message}")
        one.resumed()
        self._runs.update(report.run, step=report.step, message=message)

    async def _checkpoint(self, one: AtWork, report: pipe.CheckpointSaved) -> None:
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
        await self._library.drop(report.run, report.passed)
        size = await asyncio.to_thread(size_of, self._runs.directory(report.run))
        self._runs.update(report.run, lora=name, size=size, **one.now())

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

    async def _finished(self, one: AtWork, report: pipe.Finished) -> None:
        run = self._runs.get(report.run)
        fields: dict[str, Any] = {**NOWHERE, **one.now()}
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
            fields["spent"] = self._spent(one)
        self._runs.log(run.id, f"{report.outcome} at step {report.step}")
        self._runs.update(run.id, **fields)
        self._release(run.id)
        await self.advance()

    def _spent(self, one: AtWork) -> Spent | None:
        """What a run took, for telling what others like it will."""
        try:
            return one.spent(self._recipe(one.run))
        except LoraError as error:
            log.warning("what %s took is not known: %s", one.run, error)
            return None

    async def _failed(self, one: AtWork, report: pipe.RunFailed) -> None:
        busy = report.failure.code == Code.BUSY and one.lock_tries < LOCK_PATIENCE
        if busy and not self._closing:  # a worker of the last daemon is about to leave
            one.lock_tries += 1
            self._after(1.0, one)
            return
        self._fail(report.run, report.failure.message)
        await self.advance()

    def _fail(self, run: str, message: str) -> None:
        one = self._at_work.get(run)
        self._runs.log(run, f"failed: {message}")
        self._runs.update(
            run, state="failed", message=message, finished=time.time(),
            **NOWHERE, **(one.now() if one is not None else {}),
        )  # fmt: skip
        self._release(run)

    async def worker_died(self, pid: int, reason: str) -> None:
        """Bring its run back from the last state, unless that has failed too often."""
        one = next((one for one in self._at_work.values() if one.worker == pid), None)
        if one is None:
            return
        if self._closing:
            one.left.set()
            return
        before = self._runs.get(one.run)
        self._runs.log(one.run, reason)
        if before.state == "paused":  # nothing to bring back until it is resumed
            self._runs.update(one.run, message=reason, gpus=[], took=one.took)
            self._release(one.run)
            await self.advance()
            return
        if before.restarts >= RESTARTS:
            self._fail(
                one.run,
                f"The worker ended {before.restarts + 1} times in a row without getting further. "
                f"{reason}",
            )
            await self.advance()
            return
        one.again()
        self._runs.update(
            one.run, state="starting", phase="loading", restarts=before.restarts + 1,
            message=reason, speed=None,
        )  # fmt: skip
        self._after(0.5 * before.restarts, one)

    def _after(self, seconds: float, one: AtWork) -> None:
        """Send the run again, in a while; graphics memory takes a second to come back."""

        async def send() -> None:
            await asyncio.sleep(seconds)
            if self._at_work.get(one.run) is one and not self._closing:
                await self._send(one)

        task = asyncio.create_task(send())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    # ── steering ────────────────────────────────────────────────────────────────────────────────

    async def steer(self, context: Context, request: wire.SteerRun) -> wire.Run:
        """Raises LoraError: NOT_FOUND, WRONG_STATE in a sentence."""
        run, by = self._runs.get(request.run), context.by
        if run.id not in self._at_work and (advice := _refused(run, request.action)):
            raise _wrong(run, advice)
        if request.action == "sample" and not self._prompted(run):
            raise LoraError(
                Code.WRONG_STATE,
                f"The recipe of {run.id} has no sample.prompts, so it makes no samples.",
                data={"run": run.id},
            )
        self._runs.log(run.id, f"{request.action} asked by {by}")
        match request.action:
            case "pause":
                return await self._pause(run, by)
            case "resume":
                return await self._resume(run, by)
            case "stop":
                return await self._stop(run, by)
            case "sample" | "save":
                self._at_work[run.id].steer(request.action)
                return run

    def _prompted(self, run: wire.Run) -> bool:
        """Whether its recipe has prompts to make samples of."""
        try:
            return bool(self._recipe(run.id).sample.prompts)
        except LoraError:  # which the worker will say
            return True

    def _recipe(self, run: str) -> recipes.Recipe:
        """Raises LoraError as ``recipes.load``."""
        return recipes.load(self._runs.directory(run) / "recipe.toml")

    async def _pause(self, run: wire.Run, by: str) -> wire.Run:
        if run.state == "paused":
            return run
        if (one := self._at_work.get(run.id)) is not None:
            one.steer("pause")
            return await self._runs.until(
                run.id, lambda now: now.state not in ("starting", "training"), PAUSE_SHOWN
            )
        return self._runs.update(run.id, by, state="paused", phase="paused")

    async def _resume(self, run: wire.Run, by: str) -> wire.Run:
        if (one := self._at_work.get(run.id)) is not None:
            if run.state == "paused":
                one.steer("resume")
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
        self._regardless.add(run.id)  # it is queued
        await self.advance()
        return self._runs.get(run.id)

    async def _stop(self, run: wire.Run, by: str) -> wire.Run:
        if (one := self._at_work.get(run.id)) is not None:
            self._stop_at_once.add(run.id)  # also if the worker has to be brought back first
            if run.state != "starting" or not run.step:  # else told once its steps are loaded
                one.steer("stop")
            return run
        if run.started is None or not run.step:
            return self._runs.update(
                run.id, by, state="stopped", phase="", finished=time.time(),
                message="Dropped from the queue.",
            )  # fmt: skip
        self._stop_at_once.add(run.id)  # its LoRA is saved by the worker, from its last state
        run = self._runs.update(run.id, by, state="queued", phase="", message="To be stopped.")
        await self.advance()
        return self._runs.get(run.id)


def _refused(run: wire.Run, action: str) -> str:
    """Why a run that is not at work cannot do it now; "" if it can."""
    waits = ("paused", "interrupted", "queued")
    if action == "stop":
        return "there is nothing to stop" if run.state in wire.FINAL_STATES else ""
    if action == "pause":
        return "" if run.state in waits else "there is nothing to pause"
    if action == "resume":
        if run.state in (*waits, "failed"):
            return ""
        longer = f"`lora-tui run extend {run.id} --steps N` lets it take more"
        return longer if run.step else f"`lora-tui run fork {run.id}` begins it anew"
    return f"only a run at work can {action}"


def _wrong(run: wire.Run, advice: str) -> LoraError:
    return LoraError(
        Code.WRONG_STATE,
        f"{run.id} is {run.state}: {advice}.",
        data={"run": run.id, "state": run.state},
    )
