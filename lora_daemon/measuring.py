"""Measuring a run's checkpoints: what is asked of the worker, and the files that keep its answers.

Each candidate's numbers are in ``runs/<id>/which/<name>.json``, written after each part, so that
measuring that was given up, or killed, goes on where it was. They hold as long as the plan does,
which follows from the run's recipe and its frozen pictures.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from lora_daemon import pipe
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.painting import Painting
from lora_daemon.recommending import BASE, Measurement
from lora_daemon.runs import Runs
from lora_daemon.service import Context, Daemon
from lora_daemon.supervisor import Supervisor
from shared import recipe as recipes
from shared import wire
from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.files import publish
from shared.pictures import PictureSpec
from shared.recipe import Recipe

T = TypeVar("T")

VERSION = 1  # of what is measured: raise it when numbers of before cannot be compared
PICTURES = 24  # measured at most, kept back and trained on, each
NEAREST = 1000  # training pictures that painted ones are compared with
PAINTED = 6
MOST = 16  # checkpoints; of more, these evenly
PORTION = 4  # pictures in one order: a training run waits no longer than that
TRIES = 2  # a worker's death may have had another cause; a second one was this order's


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured, the same for all candidates."""

    version: int = VERSION
    seed: int
    resolution: int
    timesteps: tuple[int, int]
    held: list[pipe.FrozenPicture]
    train: list[pipe.FrozenPicture]
    bare: list[str]  # of ``spoken``: captions without the trigger word
    spoken: list[pipe.FrozenPicture]  # whose captions have it
    unrelated: list[str]
    specs: list[PictureSpec]  # painted by each candidate, the first by captions trained on
    copies: int  # how many of these are compared with the training pictures

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Record(msgspec.Struct, kw_only=True):
    """One candidate's answers. ``rows``: by part; a part that is not there is not measured."""

    plan: str
    files: list[tuple[str, int, int]]  # path, size and time of change when it was measured
    rows: dict[str, list[list[float]]] = {}
    painted: list[str] = []
    skipped: list[tuple[str, str]] = []


@dataclass(frozen=True)
class Measurable:
    """A candidate: a checkpoint, an average of some (exactly their weighted sum), or the base."""

    name: str
    step: int
    files: tuple[Path, ...] = ()

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name)


@dataclass
class _Order:
    """An order with the worker."""

    measure: pipe.Measure
    done: asyncio.Future[pipe.Measured]
    tries: int = 1
    worker: int = 0  # the pid it was given to


@dataclass
class _Going:
    """One request under way."""

    run: wire.Run
    job: str
    base: wire.BaseModel
    plan: Plan
    freeze: pipe.Freeze
    tell: Callable[[int, str], None]  # pictures done, and of what
    spent: list[float] = field(default_factory=list)  # seconds of the last order


class Measuring:
    """Has a run's candidates measured, and knows what was measured."""

    def __init__(
        self, daemon: Daemon, runs: Runs, library: Library, painting: Painting, jobs: Jobs,
        supervisor: Supervisor,
    ) -> None:  # fmt: skip
        self._store = daemon.store
        self._cache = daemon.workspace.cache
        self._runs = runs
        self._library = library
        self._painting = painting
        self._jobs = jobs
        self._supervisor = supervisor
        self._orders: dict[str, _Order] = {}
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
        stamps = [_stamp(path) for path in one.files]
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

    async def measure(
        self, context: Context, run: wire.Run,
        average: Callable[[list[Measurable]], Awaitable[Measurable | None]],
    ) -> None:  # fmt: skip
        """Measure what is missing of the base, the checkpoints, and the average that is worth it.

        Raises LoraError: WRONG_STATE without a checkpoint, BUSY, NOT_FOUND or INVALID_FILE (base),
        OUT_OF_MEMORY, WORKER_FAILED, STORAGE, CANCELLED. What was measured before stays.
        """
        if run.id in self._at_work:
            raise LoraError(
                Code.BUSY, f"{run.id} is being measured already. Wait for it, or cancel that.",
                retryable=True,
            )  # fmt: skip
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
        self._at_work.add(run.id)
        try:
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
        finally:
            self._at_work.discard(run.id)
            self.settled()

    async def _measure(self, going: _Going, one: Measurable) -> None:
        """Everything of one candidate that is not known yet."""
        run, plan = going.run.id, going.plan
        record = await asyncio.to_thread(self.record, run, one, plan)
        for part, pictures, texts in (
            ("held", plan.held, []),
            ("train", plan.train, []),
            ("leak", plan.spoken, plan.bare),
            ("drift", [], plan.unrelated),
        ):
            number = len(pictures) or len(texts)
            if part in record.rows or not number or (not one.step and part in ("leak", "drift")):
                going.tell(number, one.name)
                continue
            rows: list[list[float]] = []
            what = "loss" if part in ("held", "train") else part
            for first in range(0, number, PORTION):
                place = slice(first, first + PORTION)
                order = self._order(going, one, what, pictures=pictures[place], texts=texts[place])
                answer = await self._ask(going, order)
                rows += answer.rows
                record.skipped += answer.skipped
                going.tell(len(answer.rows), f"{one.name}: {_PARTS[part]}")
            record.rows[part] = rows
            await self._keep(run, one, record)
        if not record.painted and plan.specs:
            record.painted = await self._paint(going, one)
            await self._keep(run, one, record)
        going.tell(len(plan.specs), f"{one.name}: pictures")
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
            base_predicts=going.freeze.base_predicts, loras=_loras(one),
            cache_dir=str(self._cache), resolution=going.plan.resolution, seed=going.plan.seed,
            timesteps=going.plan.timesteps, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    async def _paint(self, going: _Going, one: Measurable) -> list[str]:
        folder = self._runs.directory(going.run.id) / "which"
        paths = [str(folder / f"{one.slug}-{n}.png") for n in range(len(going.plan.specs))]
        canvases = [
            pipe.Canvas(spec=spec, out=path)
            for spec, path in zip(going.plan.specs, paths, strict=True)
        ]
        first, *rest = canvases
        paint = pipe.Paint(
            job=going.job, spec=first.spec, base_path=going.base.path,
            base_predicts=going.freeze.base_predicts, loras=_loras(one), out=first.out, more=rest,
        )  # fmt: skip
        await self._give_way(going)
        began = time.monotonic()
        await self._painting.make(paint, lambda *_: None)
        going.spent = [time.monotonic() - began]
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
            await asyncio.sleep(going.spent[-1])

    async def _ask(self, going: _Going, measure: pipe.Measure) -> pipe.Measured:
        await self._give_way(going)
        order = _Order(measure, asyncio.get_running_loop().create_future())
        self._orders[measure.job] = order
        began = time.monotonic()
        try:
            order.worker = await self._supervisor.send(measure)
            answer = await order.done
        except asyncio.CancelledError:
            self._supervisor.tell(pipe.Cancel(job=measure.job))
            raise
        finally:
            del self._orders[measure.job]
        going.spent = [time.monotonic() - began]
        return answer

    def report(self, report: pipe.Measured | pipe.MeasureFailed) -> None:
        """What the worker says of an order."""
        order = self._orders.get(report.job)
        if order is None or order.done.done():
            return
        match report:
            case pipe.Measured():
                order.done.set_result(report)
            case pipe.MeasureFailed():
                order.done.set_exception(LoraError.of(report.failure))

    async def worker_died(self, pid: int, reason: str) -> None:
        """Ask a new worker for the order that the dead one had not finished, once."""
        for order in list(self._orders.values()):
            if order.done.done() or order.worker != pid:
                continue
            order.tries += 1
            try:
                if order.tries > TRIES:
                    raise LoraError(
                        Code.WORKER_FAILED, f"The measuring ended. {reason}", retryable=True
                    )
                order.worker = await self._supervisor.send(order.measure)
            except LoraError as error:
                order.done.set_exception(error)


_PARTS = {
    "held": "loss on pictures kept back",
    "train": "loss on trained pictures",
    "leak": "without the trigger word",
    "drift": "on unrelated prompts",
}


def plan_of(recipe: Recipe, freeze: pipe.Freeze) -> Plan:
    """What to measure of a run."""
    held = evenly(freeze.held_out, PICTURES)
    train = evenly(freeze.pictures, PICTURES)
    sample, trigger = recipe.sample, recipe.output.trigger.strip()
    spoken = [one for one in held or train if trigger and says(one.caption, trigger)]
    trained_on = list(dict.fromkeys(one.caption for one in freeze.pictures if one.caption))
    unseen = list(dict.fromkeys(one.caption for one in freeze.held_out)) or sample.prompts
    copied = evenly(trained_on, PAINTED // 2)
    others = evenly([text for text in unseen if text not in copied], PAINTED - len(copied))
    specs = [
        PictureSpec(
            base=freeze.base, prompt=prompt, negative=sample.negative, sampler=sample.sampler,
            steps=sample.steps, cfg=sample.cfg, seed=sample.seed + number,
            width=recipe.dataset.resolution, height=recipe.dataset.resolution,
        )
        for number, prompt in enumerate([*copied, *others])
    ]  # fmt: skip
    return Plan(
        seed=recipe.training.seed, resolution=recipe.dataset.resolution,
        timesteps=(recipe.noise.min_timestep, recipe.noise.max_timestep), held=held, train=train,
        spoken=spoken, bare=[without(one.caption, trigger) for one in spoken],
        unrelated=recipe.evaluation.unrelated, specs=specs, copies=len(copied),
    )  # fmt: skip


def says(caption: str, trigger: str) -> bool:
    return bool(_spoken(trigger).search(caption))


def without(caption: str, trigger: str) -> str:
    """A caption without the trigger word, and without the gap it leaves."""
    text = _spoken(trigger).sub(" ", caption)
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"(?:\s*,)+", ",", text).strip(" ,")


def _spoken(trigger: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.IGNORECASE)


def evenly(things: Sequence[T], number: int) -> list[T]:
    """At most ``number`` of them, evenly from the whole, the last included."""
    if len(things) <= number:
        return list(things)
    return [things[(place + 1) * len(things) // number - 1] for place in range(number)]


def measurements(records: dict[Measurable, Record]) -> dict[str, Measurement]:
    """The numbers of what is measured, by name. A picture that one of them lacks counts for none,
    so that the losses of all are of the same pictures."""
    found = {}
    usable = {part: _usable(records, part) for part in ("held", "train")}
    for one, record in records.items():
        losses = {
            part: [statistics.fmean(record.rows[part][place]) for place in places]
            for part, places in usable.items()
            if part in record.rows
        }
        found[one.name] = Measurement(
            name=one.name, step=one.step, average=len(one.files) > 1,
            held=losses.get("held", ()), train=losses.get("train", ()),
            drift=_drift(record), leak=_leak(record), nearness=_nearness(record),
        )  # fmt: skip
    return found


def _usable(records: dict[Measurable, Record], part: str) -> list[int]:
    rows = [record.rows[part] for record in records.values() if part in record.rows]
    return [place for place, row in enumerate(zip(*rows, strict=False)) if all(row)]


def _drift(record: Record) -> float | None:
    values = [value for row in record.rows.get("drift", ()) for value in row]
    return statistics.fmean(values) if values else None


def _leak(record: Record) -> float | None:
    rows = [row for row in record.rows.get("leak", ()) if row]
    spoken = math.fsum(row[1] ** 2 for row in rows)
    return math.sqrt(math.fsum(row[0] ** 2 for row in rows) / spoken) if spoken else None


def _nearness(record: Record) -> float | None:
    near, control = record.rows.get("nearness", ((), ()))
    if not near or len(control) < 2 or not (deviation := statistics.stdev(control)):
        return None
    return (statistics.fmean(near) - statistics.fmean(control)) / deviation


def _loras(one: Measurable) -> list[pipe.LoraFile]:
    return [
        pipe.LoraFile(path=str(path), weight=1 / len(one.files), name=to_text(path.stem))
        for path in one.files
    ]


def _stamp(path: Path) -> tuple[str, int, int]:
    with contextlib.suppress(OSError):
        now = path.stat()
        return str(path), now.st_size, now.st_mtime_ns
    return str(path), 0, 0
