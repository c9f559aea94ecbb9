"""Which checkpoint to take: the measure's answer, and the person's, who goes before it.

Answers GetWhich, MeasureRun, GetPair, ChoosePicture and UndoChoice.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_daemon import recommending
from lora_daemon.measurements import Measurable, Record, calls, evenly, measurements
from lora_daemon.measuring import Measuring
from lora_daemon.recommending import BASE, Judgement, Measurement
from lora_daemon.runs import Runs
from lora_daemon.service import Context, Daemon
from shared import foretelling, wire
from shared import recipe as recipes
from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.foretelling import Spent
from shared.which import Candidate, Which

SHORTLIST = 4  # candidates among which a person chooses: six pairs
LEAST = 3  # pairs until the choice counts, where the shortlist has fewer
AVERAGED = 3  # checkpoints around the best


@dataclass(frozen=True)
class _Found:
    """All that is known of a run."""

    run: wire.Run
    records: dict[Measurable, Record]  # base first, by step, an average last
    measured: dict[str, Measurement]
    judged: Judgement
    choices: list[dict[str, str]]
    prompts: list[str]
    held: int
    trained: int
    seconds: float | None  # that measuring the rest takes

    @property
    def shortlist(self) -> list[str]:
        """Who is compared by eye: those that the measure cannot tell apart, with the recommended
        one and, where it stands alone, its neighbours; as far as they have painted."""
        painted = [one for one, record in self.records.items() if one.step and record.painted]
        singles = [one.name for one in painted if len(one.files) == 1]
        among = [name for name in self.judged.tied if name in singles]
        if len(among) < 2 and singles:
            place = singles.index(among[0]) if among else len(singles) - 1
            among = singles[max(0, place - 1) : place + 2]
        short = evenly(among, SHORTLIST)
        take = self.judged.recommended
        if take not in short and any(one.name == take for one in painted):
            short = [take, *(short[1:] if len(short) == SHORTLIST else short)]
        return [one.name for one in painted if one.name in short]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(itertools.combinations(self.shortlist, 2))


class Choosing:
    """What to take of a run, and why."""

    def __init__(self, daemon: Daemon, runs: Runs, measuring: Measuring) -> None:
        self._store = daemon.store
        self._runs = runs
        self._measuring = measuring

    async def which(self, context: Context, request: wire.GetWhich) -> wire.WhichCheckpoint:
        """Raises LoraError: NOT_FOUND, INVALID_FILE."""
        return await self._answer(request.run)

    async def measure(self, context: Context, request: wire.MeasureRun) -> wire.WhichCheckpoint:
        """Raises LoraError as ``Measuring.measure``."""
        run = self._runs.get(request.run)

        async def average(singles: list[Measurable]) -> Measurable | None:
            return average_of(singles, (await self._find(run.id)).judged.best)

        try:
            await self._measuring.measure(context, run, average)
        finally:  # what was measured before it was given up counts too
            with self._store.change(context.by) as change:
                change.emit(wire.CheckpointJudged(run=run.id))
        return await self._answer(run.id)

    async def pair(self, context: Context, request: wire.GetPair) -> wire.Pair:
        """Raises LoraError: NOT_FOUND, WRONG_STATE, INVALID_FILE."""
        found = await self._find(request.run)
        name, sides, prompt = _next(found)
        painted = {one.name: record.painted for one, record in found.records.items()}
        for side in sides:
            path = Path(painted[side][prompt])
            context.blobs.append(await asyncio.to_thread(path.read_bytes))
        return wire.Pair(
            pair=name, prompt=found.prompts[prompt], chosen=len(found.choices),
            wanted=_wanted(found),
        )  # fmt: skip

    async def choose(self, context: Context, request: wire.ChoosePicture) -> wire.WhichCheckpoint:
        """Raises LoraError: NOT_FOUND, CONFLICT, WRONG_STATE."""
        found = await self._find(request.run)
        name, sides, prompt = _next(found)
        if request.pair != name:
            raise LoraError(
                Code.CONFLICT,
                "Somebody else has chosen from that pair meanwhile: look at the next.",
            )
        taken = {"left": sides[0], "right": sides[1], "neither": ""}[request.better]
        with self._store.change(context.by) as change:
            change.execute(
                "INSERT INTO choices (run, one, other, prompt, taken, by, at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (found.run.id, *sides, found.prompts[prompt], taken, change.by, change.at),
            )
            change.emit(wire.CheckpointJudged(run=found.run.id))
        return await self._answer(found.run.id)

    async def undo(self, context: Context, request: wire.UndoChoice) -> wire.WhichCheckpoint:
        """Raises LoraError(NOT_FOUND)."""
        run = self._runs.get(request.run).id
        with self._store.change(context.by) as change:
            gone = change.execute(
                "DELETE FROM choices WHERE number ="
                " (SELECT max(number) FROM choices WHERE run = ?)", (run,),
            )  # fmt: skip
            if not gone.rowcount:
                raise LoraError(Code.NOT_FOUND, f"Nothing was chosen in {run}: nothing to undo.")
            change.emit(wire.CheckpointJudged(run=run))
        return await self._answer(run)

    async def _answer(self, run: str) -> wire.WhichCheckpoint:
        found = await self._find(run)
        told = await asyncio.to_thread(_which, found, self._measuring.at_work(found.run.id))
        return wire.WhichCheckpoint(found=told)

    async def _find(self, name: str) -> _Found:
        run = self._runs.get(name)
        singles = self._measuring.checkpoints(run.id)
        rows = self._store.query("SELECT * FROM choices WHERE run = ? ORDER BY number", (run.id,))
        choices = [dict(row) for row in rows]
        newest = sorted(self._runs.all(), key=lambda one: (one.id != run.id, -one.created))
        past = [one.spent for one in newest if one.spent is not None]  # its own first
        return await asyncio.to_thread(self._known, run, singles, choices, past)

    def _known(
        self, run: wire.Run, singles: list[Measurable], choices: list[dict[str, str]],
        past: Sequence[Spent],
    ) -> _Found:  # fmt: skip
        plan, _ = self._measuring.plan(run.id)
        records = {
            one: self._measuring.record(run.id, one, plan)
            for one in (Measurable(BASE, 0), *singles)
        }
        best = recommending.best_of(measurements(records))
        left = [calls(plan, one, record) for one, record in records.items()]
        average = average_of(singles, best.name if best else "")
        if average is not None:
            record = self._measuring.record(run.id, average, plan)
            left.append(calls(plan, average, record))
            if record.rows:
                records[average] = record
        elif len(singles) >= AVERAGED:  # which, is not known yet
            left.append(calls(plan, singles[0], Record(plan="", files=[])))
        painted, predicted = (sum(column) for column in zip(*left, strict=True))
        recipe = recipes.load(self._runs.directory(run.id) / "recipe.toml")
        measured = measurements(records)
        return _Found(
            run, records, measured, recommending.judge(measured), choices,
            [spec.prompt for spec in plan.specs], len(plan.held), len(plan.train),
            foretelling.measuring(recipe, painted, predicted, past),
        )  # fmt: skip


def average_of(singles: Sequence[Measurable], best: str) -> Measurable | None:
    """The average of the checkpoints around the best; None while there is none."""
    place = next((n for n, one in enumerate(singles) if one.name == best), None)
    if place is None or len(singles) < AVERAGED:
        return None
    first = min(max(0, place - AVERAGED // 2), len(singles) - AVERAGED)
    members = singles[first : first + AVERAGED]
    return Measurable(
        f"average of steps {', '.join(str(one.step) for one in members)}", members[-1].step,
        tuple(path for one in members for path in one.files),
    )  # fmt: skip


def _wanted(found: _Found) -> int:
    return max(LEAST, len(found.pairs))


def _next(found: _Found) -> tuple[str, tuple[str, str], int]:
    """The next pair's name, its sides, and which of the prompts. Raises LoraError(WRONG_STATE)."""
    pairs = found.pairs
    if not pairs:
        raise LoraError(
            Code.WRONG_STATE,
            f"There are no two checkpoints of {found.run.id} to compare yet: measure them first, "
            f"with `lora-tui run which {found.run.id}`.",
        )
    number = len(found.choices)
    turn, place = divmod(number, len(pairs))
    sides = pairs[place]
    prompt = (place + turn) % len(found.prompts)
    toss = hashlib.sha256(f"{found.run.id} {number} {sides}".encode()).digest()
    if toss[0] % 2:
        sides = sides[1], sides[0]
    return toss.hex()[:16], sides, prompt


def _standing(found: _Found) -> dict[str, tuple[float, int]]:
    """Wins, and pairs met, of each candidate."""
    standing: dict[str, tuple[float, int]] = {}
    for choice in found.choices:
        for name in (choice["one"], choice["other"]):
            won, met = standing.get(name, (0.0, 0))
            point = 0.5 if not choice["taken"] else float(choice["taken"] == name)
            standing[name] = won + point, met + 1
    return standing


def _which(found: _Found, busy: bool) -> Which:
    judged, standing = found.judged, _standing(found)
    chosen, reason = "", judged.reason
    if found.choices and len(found.choices) >= _wanted(found):
        # Of equals what the measure says, else the earliest.
        known = [one.name for one in found.records if one.name in standing]
        known.sort(key=lambda name: name != judged.recommended)
        chosen = max(known, key=lambda name: standing[name][0] / standing[name][1], default="")
    if chosen:
        won, met = standing[chosen]
        by = " and ".join(sorted({choice["by"] for choice in found.choices}))
        says = "the same" if chosen == judged.recommended else judged.recommended or "nothing yet"
        reason = (
            f"{by} took {chosen} in {won:g} of {met} pairs of pictures seen without their names; "
            f"that goes before the measure, which says {says}."
        )
    notes = list(judged.notes)
    for path, why in dict(
        pair for record in found.records.values() for pair in record.skipped
    ).items():
        notes.append(f"{to_text(Path(path).name)} could not be measured: {why}.")
    return Which(
        run=found.run.id, base=found.run.base,
        candidates=[_candidate(found, one, standing) for one in found.records if one.step],
        recommended=judged.recommended, chosen=chosen, reason=reason, notes=notes,
        held_out=found.held, trained=found.trained, pairs=len(found.choices),
        wanted=_wanted(found), busy=busy, seconds=found.seconds,
    )  # fmt: skip


def _candidate(found: _Found, one: Measurable, standing: dict[str, tuple[float, int]]) -> Candidate:
    numbers = found.measured[one.name]
    won, met = standing.get(one.name, (0.0, 0))
    return Candidate(
        name=one.name, step=one.step, files=[to_text(path) for path in one.files],
        measured="drift" in found.records[one].rows,
        held=recommending.gain(found.measured, one.name, "held"),
        train=recommending.gain(found.measured, one.name, "train"),
        behind=found.judged.behind.get(one.name), tied=one.name in found.judged.tied,
        drift=numbers.drift, leak=numbers.leak, nearness=numbers.nearness, wins=won, met=met,
    )  # fmt: skip
