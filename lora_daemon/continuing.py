"""Runs that go on from others: extended in place, or forked with other settings.

A resume state holds all that training remembers. Where one is there, and the settings leave its
tensors as they are, nothing begins anew; else the kept LoRA is what goes on, and only that.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Iterable
from operator import attrgetter
from pathlib import Path

import msgspec

from lora_daemon import pipe
from lora_daemon.freezing import Freezer, Prepared, file_name, samples, unnamed
from lora_daemon.library import Library
from lora_daemon.runs import Runs
from lora_daemon.schedules import learning_rate
from lora_daemon.service import Context, Daemon
from shared import forks, sweeps, wire
from shared import recipe as recipes
from shared.errors import Code, LoraError
from shared.files import publish
from shared.recipe import Recipe

_SERIES = ("pictures.json", "metrics.csv", "losses.csv")


class Continuing:
    """Answers ExtendRun and ForkRun, up to the moment when the scheduler may take the run."""

    def __init__(self, daemon: Daemon, runs: Runs, freezer: Freezer, library: Library) -> None:
        self._store = daemon.store
        self._runs = runs
        self._freezer = freezer
        self._library = library

    async def extend(self, context: Context, request: wire.ExtendRun) -> wire.Continued:
        """Raises LoraError: NOT_FOUND (its base too), WRONG_STATE, INVALID_RECIPE, INVALID_FILE,
        STORAGE."""
        run = self._runs.get(request.run)
        if run.state not in ("finished", "stopped"):
            raise LoraError(
                Code.WRONG_STATE,
                f"{run.id} is {run.state}: only what has finished or was stopped is extended.",
                data={"run": run.id, "state": run.state},
            )
        if request.steps < 1:
            raise LoraError(Code.BAD_REQUEST, "A run is extended by at least one step.")
        directory = self._runs.directory(run.id)
        if run.step not in states_of(directory):
            raise LoraError(
                Code.WRONG_STATE,
                f"There is no state of {run.id} at step {run.step}, so it cannot go on as it was. "
                f"`lora-tui run fork {run.id}` begins a new run from what it left.",
            )
        before = recipes.load(directory / "recipe.toml")
        await self._insist_on_base(run, before)
        freeze = await asyncio.to_thread(_frozen, directory)
        shown = samples(before, freeze)
        recipe = lasting(before, run.step + request.steps, run.pictures, shown)
        await self._keep_end(run, directory)
        publish(directory / "recipe.toml", recipes.dump(recipe).encode())
        told = extended(before, recipe, run, shown)
        self._runs.log(
            run.id, f"extended by {context.by} to step {run.step + request.steps}. {told}"
        )
        steps = recipes.total_steps(recipe, run.pictures, shown)
        after = msgspec.structs.replace(
            run, state="queued", phase="", steps=steps, total=steps, message=told, finished=None,
            restarts=0, epochs=-(-steps // recipes.steps_per_epoch(recipe, run.pictures, shown)),
            place=self._runs.last_place() + 1, rev=run.rev + 1,
        )  # fmt: skip
        answer = wire.Continued(run=after, told=told)
        with self._store.change(context.by) as change:
            self._runs.put(change, after)
            self._store.remember(change, context.key, answer)
        return answer

    async def _keep_end(self, run: wire.Run, directory: Path) -> None:
        """The LoRA of the present end stays, by its step: the new end takes its name."""
        rows = self._store.query("SELECT * FROM checkpoints WHERE run = ? AND final = 1", (run.id,))
        for row in rows:
            path = directory / row["path"]
            kept = path.with_name(f"{path.stem}-step{row['step']:06d}{path.suffix}")
            if not path.exists() or kept.exists():
                continue
            publish(kept, await asyncio.to_thread(path.read_bytes))
            with self._store.change("engine") as change:
                change.execute(
                    "INSERT OR REPLACE INTO checkpoints (run, path, step, epoch, size, final)"
                    " VALUES (?, ?, ?, ?, ?, 0)",
                    (run.id, f"lora/{kept.name}", row["step"], row["epoch"], row["size"]),
                )
            await self._library.add_lora(run, kept, row["step"])

    async def fork(self, context: Context, request: wire.ForkRun) -> wire.Continued:
        """Raises LoraError: NOT_FOUND, INVALID_RECIPE, INVALID_FILE, STORAGE."""
        parent = self._runs.get(request.run)
        directory = self._runs.directory(parent.id)
        text = (directory / "recipe.toml").read_text("utf-8")
        before = recipes.parse(text)
        recipe = recipes.parse(text, request.settings, where="the fork's recipe")
        keys = forks.changed(before, recipe)
        states, loras = states_of(directory), self._loras(parent)
        steps = sorted({*states, *loras})
        new_data, unfit = forks.new_data(keys), forks.unfit(keys)
        step = request.step
        if step < 0:  # the latest that can be gone on from: without the state's help, of a LoRA
            step = max(loras if unfit else steps, default=0)
        if step and step not in steps:
            raise LoraError(
                Code.NOT_FOUND,
                f"Nothing was kept of {parent.id} at step {step}. "
                + (f"There is {', '.join(map(str, steps))}." if steps else "Nothing was at all."),
                data={"steps": steps},
            )
        whole = step in states and not unfit
        if not whole and step:
            if step not in loras:
                raise LoraError(
                    Code.NOT_FOUND,
                    f"Of step {step} of {parent.id} there is a state, which {', '.join(unfit)} "
                    "does not go together with, and no LoRA. There is one of "
                    f"{', '.join(map(str, loras)) or 'no step'}.",
                    data={"steps": sorted(loras)},
                )  # fmt: skip
            recipe = msgspec.structs.replace(
                recipe, network=msgspec.structs.replace(recipe.network, start=str(loras[step]))
            )
        words = sweeps.short(request.settings)
        name = request.name.strip() or f"{parent.name} from {step} {words}".strip()
        if not whole:  # a state has what the parent began from in it
            recipe = await self._freezer.begun(recipe)
        prepared = await self._prepared(parent, recipe, name, new_data)
        if whole:
            _insist_on_more(recipe, prepared, step)
            prepared.copies.extend(_taken_over(directory, states[step]))
        settings = [f"{key}={attrgetter(key)(recipe)}" for key in keys]
        fields = {"parent": parent.id, "settings": settings, "step": step if whole else 0}
        prepared = msgspec.structs.replace(prepared, fields=fields)
        shown = samples(recipe, prepared.freeze)
        told = forked(before, recipe, parent, step, whole, unfit, new_data, shown)
        [run] = await self._freezer.queue(
            context, [prepared], lambda runs: wire.Continued(run=runs[0], told=told)
        )
        self._runs.log(run.id, told)
        return wire.Continued(run=run, told=told)

    async def _prepared(
        self, parent: wire.Run, recipe: Recipe, name: str, new_data: list[str]
    ) -> Prepared:
        """With the pictures and captions of the parent, unless what decides them has changed."""
        if new_data:
            return await self._freezer.prepare(recipe, name)
        await self._freezer.suited(recipe, await self._insist_on_base(parent, recipe))
        freeze = await asyncio.to_thread(_frozen, self._runs.directory(parent.id))
        stem = file_name(name.replace("=", "").replace(" ", "-"))
        freeze = msgspec.structs.replace(freeze, name=stem, queued_at=time.time())
        return Prepared(unnamed(recipe), freeze, name)

    async def _insist_on_base(self, run: wire.Run, recipe: Recipe) -> wire.BaseModel:
        """A run whose base is gone would wait for its turn and fail.

        Raises LoraError: NOT_FOUND, INVALID_FILE.
        """
        try:
            return await self._library.base(recipe.base.name)
        except LoraError as error:
            raise LoraError(
                error.code,
                f"{run.id} cannot go on, as the base {recipe.base.name} cannot be used: "
                f"{error.message} Add it again under this name, or fork with base.name=ANOTHER.",
                data={"key": "base.name"},
            ) from None

    def _loras(self, run: wire.Run) -> dict[int, Path]:
        """The kept LoRA of each step that is still there."""
        directory = self._runs.directory(run.id)
        rows = self._store.query(
            "SELECT path, step FROM checkpoints WHERE run = ? ORDER BY step, final", (run.id,)
        )
        found = {int(row["step"]): directory / row["path"] for row in rows}
        return {step: path for step, path in found.items() if path.exists()}


def states_of(directory: Path) -> dict[int, Path]:
    """The resume states that a run has, by step."""
    found = {}
    for path in (directory / "state").glob("step*.safetensors"):
        number = path.stem.removeprefix("step")
        if number.isdecimal():
            found[int(number)] = path
    return found


def lasting(
    recipe: Recipe, steps: int, pictures: int, shown: Collection[int] = ()
) -> Recipe:  # fmt: skip
    """The recipe for so many steps: as whole epochs where that fits, else cut short. ``shown``: the
    samples of each bucket, as ``recipe.steps_per_epoch`` takes them.

    Raises LoraError(INVALID_RECIPE).
    """
    each = recipes.steps_per_epoch(recipe, pictures, shown)
    epochs = math.ceil(steps / each)
    training = msgspec.structs.replace(
        recipe.training, epochs=epochs, max_steps=0 if epochs * each == steps else steps
    )
    longer = msgspec.structs.replace(recipe, training=training)
    return recipes.convert(msgspec.to_builtins(longer), "the longer recipe")


def extended(before: Recipe, after: Recipe, run: wire.Run, shown: Collection[int]) -> str:
    """What an extension goes on with, and what it does not."""
    old, new = (recipes.total_steps(one, run.pictures, shown) for one in (before, after))
    begins = f"Goes on from step {run.step} of {new} with optimiser, order and noise as they are"
    if before.schedule.kind == "constant":
        return f"{begins}: as a run that was asked for {new} steps from the beginning."
    rate = before.optimizer.learning_rate
    was = learning_rate(before.schedule, rate, run.step - 1, old)
    now = learning_rate(after.schedule, rate, run.step, new)
    return (
        f"{begins}. The {before.schedule.kind} schedule is worked out anew over {new} steps: the "
        f"rate goes from {was:.3g} to {now:.3g} at once, and a run asked for {new} steps from the "
        "beginning would have had other rates before."
    )


def forked(
    before: Recipe, after: Recipe, parent: wire.Run, step: int, whole: bool, unfit: list[str],
    new_data: list[str], shown: Collection[int],
) -> str:  # fmt: skip
    """What a fork goes on with, and what begins anew."""
    data = "Pictures and captions are frozen as they are now" if new_data else (
        f"Pictures and captions are those of {parent.id}"
    )  # fmt: skip
    if not step:
        return f"Begins at step 0: nothing was kept of {parent.id} before. {data}."
    if not whole:
        why = f", as {', '.join(unfit)} does not go with its state" if unfit else (
            ", as there is no state of it"
        )  # fmt: skip
        return (
            f"Begins from the LoRA of step {step} of {parent.id}{why}: the optimiser's memory, the "
            f"schedule and the count of steps begin anew. {data}."
        )
    rate = after.optimizer.learning_rate
    total = recipes.total_steps(after, parent.pictures, shown)
    then = learning_rate(after.schedule, rate, step, total)
    was = learning_rate(
        before.schedule, before.optimizer.learning_rate, step,
        recipes.total_steps(before, parent.pictures, shown),
    )  # fmt: skip
    jump = f" The rate there goes from {was:.3g} to {then:.3g}." if was != then else ""
    return (
        f"Goes on from step {step} of {parent.id} with the optimiser's memory, the order of the "
        f"pictures and the noise; nothing begins anew.{jump} {data}."
    )


def _insist_on_more(recipe: Recipe, prepared: Prepared, step: int) -> None:
    freeze = prepared.freeze
    total = recipes.total_steps(recipe, len(freeze.pictures), samples(recipe, freeze))
    if total <= step:
        raise LoraError(
            Code.INVALID_RECIPE,
            f"The fork would end at step {total} and begins at {step}. Set more "
            "training.epochs or training.max_steps, or begin earlier: --at.",
            data={"key": "training.max_steps"},
        )


def _frozen(directory: Path) -> pipe.Freeze:
    """The pictures and captions of a run."""
    return msgspec.json.decode((directory / "freeze.json").read_bytes(), type=pipe.Freeze)


def _taken_over(directory: Path, state: Path) -> Iterable[tuple[Path, str]]:
    yield state, f"state/{state.name}"
    for name in _SERIES:
        if (directory / name).exists():
            yield directory / name, name
