"""Measuring a run's checkpoints: what is asked of the worker, and the files that keep its answers.

Each candidate's numbers are in ``runs/<id>/which/<name>.json``, written after each part, so that
measuring that was given up, or killed, goes on where it was. They hold as long as the plan does,
which follows from the run's recipe and its frozen pictures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lora_daemon import pipe
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.measurements import (
    Measurable,
    Plan,
    Record,
    evenly,
    loras_of,
    plan_of,
    stamp,
)
from lora_daemon.orders import Orders
from lora_daemon.painting import Painting
from lora_daemon.recommending import BASE
from lora_daemon.runs import Runs
from lora_daemon.service import Context, Daemon
from shared import recipe as recipes
from shared import wire
from shared.errors import Code, LoraError
from shared.files import publish

NEAREST = 1000  # training pictures that painted ones are compared with
MOST = 16  # checkpoints; of more, these evenly
PORTION = 4  # pictures in one order: a training run waits no longer than that

# Of the checkpoints that are measured: the average that is worth to be measured too.
Average = Callable[[list[Measurable]], Awaitable[Measurable | None]]


@dataclass
class _Going:
    """One request under way."""

    run: wire.Run
    job: str
    base: wire.BaseModel
    plan: Plan
    freeze: pipe.Freeze
    tell: Callable[[int, str], None]  # pictures done, and of what
    spent: float = 0.0  # seconds of the last order


class Measuring:
    """Has a run's candidates measured, and knows what was measured."""

    def __init__(
        self, daemon: Daemon, runs: Runs, library: Library, painting: Painting, jobs: Jobs,
        orders: Orders,
    ) -> None:  # fmt: skip
        self._store = daemon.store
        self._cache = daemon.workspace.cache
        self._runs = runs
        self._library = library
        self._painting = painting
        self._jobs = jobs
        self._orders = orders
        self._at_work: set[str] = set()
        self.training: Callable[[], bool] = lambda: False  # whether a run wants its turns
        self.settled: Callable[[], None] = lambda: None  # called after each request

    @property
    def busy(self) -> bool:
        return bool(self._at_work)

    def at_work(self, run: str) -> bool:
        return run in self._at_work

    # ── what there is ───────────────────────────────────────────────────────────────────────────

    def plan(self, run: str) -> tuple[Plan, pipe.Freeze]:
        """Raises LoraError(INVALID_FILE) if the run's directory has lost what it takes."""
        directory = self._runs.directory(run)
        try:
            freeze = msgspec.json.decode((directory / "freeze.json").read_bytes(), type=pipe.Freeze)
        except (OSError, msgspec.MsgspecError) as error:
            raise LoraError(
                Code.INVALID_FILE, f"{directory / 'freeze.json'} cannot be read ({error})."
            ) from None
        return plan_of(recipes.load(directory / "recipe.toml"), freeze), freeze

    def checkpoints(self, run: str) -> list[Measurable]:
        """The run's kept checkpoints, by step, those whose files are there."""
        directory = self._runs.directory(run)
        by_step: dict[int, Path] = {}
        for row in self._store.query(
            "SELECT path, step FROM checkpoints WHERE run = ? ORDER BY step, final", (run,)
        ):
            path = directory / row["path"]
            if row["step"] and path.is_file():
                by_step[row["step"]] = path  # of one step, the final one
        found = [Measurable(f"step {step}", step, (path,)) for step, path in by_step.items()]
        return evenly(found, MOST)

    def record(self, run: str, one: Measurable, plan: Plan) -> Record:
        """What is measured of a candidate: nothing, if file or plan were others then."""
        stamps = [stamp(path) for path in one.files]
        empty = Record(plan=plan.digest, files=stamps)
        try:
            found = msgspec.json.decode(self._path(run, one).read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return empty
        same = (found.plan, found.files) == (empty.plan, empty.files)
        if same and found.painted and not all(Path(path).is_file() for path in found.painted):
            found.painted = []
            found.rows.pop("nearness", None)
        return found if same else empty

    def _path(self, run: str, one: Measurable) -> Path:
        return self._runs.directory(run) / "which" / f"{one.slug}.json"

    # ── measuring ───────────────────────────────────────────────────────────────────────────────

    async def measure(self, context: Context, run: wire.Run, average: Average) -> None:
        """Measure what is missing of the base, the checkpoints, and the average that is worth it.

        Raises LoraError: WRONG_STATE without a checkpoint, BUSY, NOT_FOUND or INVALID_FILE (base),
        OUT_OF_MEMORY, WORKER_FAILED, STORAGE, CANCELLED. What was measured before stays.
        """
        if run.id in self._at_work:
            raise LoraError(
                Code.BUSY, f"{run.id} is being measured already. Wait for it, or cancel that.",
                retryable=True,
            )  # fmt: skip
        self._at_work.add(run.id)
        try:
            await self._measure_all(context, run, average)
        finally:
            self._at_work.discard(run.id)
            self.settled()

    async def _measure_all(self, context: Context, run: wire.Run, average: Average) -> None:
        singles = self.checkpoints(run.id)
        if not singles:
            raise LoraError(
                Code.WRONG_STATE,
                f"{run.id} has kept no checkpoint yet. save.every_epochs keeps some; `lora-tui run "
                f"save {run.id}` keeps one now.",
            )
        plan, freeze = await asyncio.to_thread(self.plan, run.id)
        base = await self._library.base(freeze.base_path)
        candidates = [Measurable(BASE, 0), *singles]
        each = len(plan.held) + len(plan.train) + len(plan.spoken) + len(plan.unrelated)
        each += len(plan.specs)
        total = each * (len(candidates) + (len(singles) > 2))
        with self._jobs.open(
            "measure", f"checkpoints of {run.id} {run.name}", total,
            cancelled=lambda: "What is measured stays.",
        ) as job:  # fmt: skip
            done = 0

            def tell(pictures: int, what: str) -> None:
                nonlocal done
                done += pictures
                self._jobs.progress(job, min(done, total), total, what)
                context.progress(min(done, total), total, what)

            going = _Going(run, job, base, plan, freeze, tell)
            for one in candidates:
                await self._measure(going, one)
            if (more := await average(singles)) is not None:
                await self._measure(going, more)
            self._jobs.end(job, "done", f"{len(candidates)} measured")

    async def _measure(self, going: _Going, one: Measurable) -> None:
        """Everything of one candidate that is not known yet."""
        run, plan = going.run.id, going.plan
        record = await asyncio.to_thread(self.record, run, one, plan)
        parts: dict[str, tuple[str, str, Sequence[object]]] = {
            "held": ("loss", "pictures", plan.held),
            "train": ("loss", "pictures", plan.train),
            "leak": ("leak", "captions", plan.spoken),
            "drift": ("drift", "texts", plan.unrelated),
        }
        for part, (what, where, things) in parts.items():
            number = len(things)
            if part in record.rows or not number or (not one.step and what != "loss"):
                going.tell(number, one.name)
                continue
            rows: list[list[float]] = []
            for first in range(0, number, PORTION):
                portion = {where: things[first : first + PORTION]}
                answer = await self._ask(going, self._order(going, one, what, **portion))
                rows += answer.rows
                record.skipped += answer.skipped
                going.tell(len(answer.rows), f"{one.name}: {_PARTS[part]}")
            record.rows[part] = rows
            await self._keep(run, one, record)
        if record.painted:
            going.tell(len(plan.specs), one.name)
        else:
            record.painted = await self._paint(going, one)
            await self._keep(run, one, record)
        if "nearness" not in record.rows and plan.copies and one.step:
            order = self._order(
                going, one, "nearness", pictures=evenly(going.freeze.pictures, NEAREST),
                painted=record.painted[: plan.copies],
            )  # fmt: skip
            record.rows["nearness"] = (await self._ask(going, order)).rows
            await self._keep(run, one, record)

    def _order(self, going: _Going, one: Measurable, what: str, **more: object) -> pipe.Measure:
        return pipe.Measure(
            job=going.job, what=what, base_path=going.base.path,  # type: ignore[arg-type]
            base_predicts=going.freeze.base_predicts, loras=loras_of(one),
            cache_dir=str(self._cache), resolution=going.plan.resolution, seed=going.plan.seed,
            timesteps=going.plan.timesteps, reading=going.plan.reading, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    async def _paint(self, going: _Going, one: Measurable) -> list[str]:
        folder = self._runs.directory(going.run.id) / "which"
        paths = [str(folder / f"{one.slug}-{n}.png") for n in range(len(going.plan.specs))]
        for spec, path in zip(going.plan.specs, paths, strict=True):
            paint = pipe.Paint(
                job=going.job, spec=spec, base_path=going.base.path,
                base_predicts=going.freeze.base_predicts, loras=loras_of(one), out=path,
            )  # fmt: skip
            await self._give_way(going)
            began = time.monotonic()
            await self._painting.make(paint, lambda *_: None)
            going.spent = time.monotonic() - began
            going.tell(1, f"{one.name}: pictures")
        return paths

    async def _keep(self, run: str, one: Measurable, record: Record) -> None:
        path = self._path(run, one)

        def write() -> None:
            path.parent.mkdir(exist_ok=True)
            publish(path, msgspec.json.encode(record))

        await asyncio.to_thread(write)

    # ── the worker ──────────────────────────────────────────────────────────────────────────────

    async def _give_way(self, going: _Going) -> None:
        """Beside a training run, leave it as much time as the last order took."""
        if going.spent and self.training():
            await asyncio.sleep(going.spent)

    async def _ask(self, going: _Going, measure: pipe.Measure) -> pipe.Measured:
        await self._give_way(going)
        began = time.monotonic()
        answer: pipe.Measured = await self._orders.ask(measure, "The measuring ended.")
        going.spent = time.monotonic() - began
        return answer


_PARTS = {
    "held": "loss on pictures kept back",
    "train": "loss on trained pictures",
    "leak": "without the trigger word",
    "drift": "on unrelated prompts",
}
