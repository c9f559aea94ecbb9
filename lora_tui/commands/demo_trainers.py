"""``lora-tui demo --trainers``: why two trainers make different LoRAs of the same pictures.

The lesson's two recipes, ``lesson`` (the diffusers script's) and ``lesson-kohya``, are trained on
the starter's creatures. Between them stands the first with one section of the second at a time, so
that what each difference does is seen by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from lora_tui.commands import demo
from lora_tui.commands import recipe as recipes
from lora_tui.commands.common import Invocation
from lora_tui.commands.console import table
from lora_tui.commands.follow import followed
from lora_tui.core import run_sides, run_table, runs_picture, words
from shared import recipe, wire
from shared.client import Client
from shared.files import publish
from shared.recipe import Recipe

FIRST, LAST = "lesson", "lesson-kohya"
RATE = 20.0  # the starter has a two-hundredth of SD 1.5's weights and wants higher rates
PROMPTS = [f"{thing} {where}" for thing, where in demo.PROMPTS[:3]]
SETTLED = ("base", "sample", "save", "evaluation", "output")  # alike, or without effect on the LoRA


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What one recipe made. ``held``: the change of the loss on pictures kept back, from the bare
    base's; ``norm``: ‖ΔW‖ (Frobenius)."""

    name: str
    run: str
    steps: int
    seconds: float
    held: float | None
    norm: float | None
    creature: demo.Share
    lora: str  # the file


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of each recipe, the two trainers' own at the ends."""

    trained: list[Trained]
    differences: dict[str, list[str]]  # option: the first's value, the last's
    without: demo.Share  # creatures seen without any LoRA
    sheet: str  # losses, and samples of the same prompts and seeds


def between(overrides: list[str]) -> list[tuple[str, Recipe]]:
    """(name, recipe) of the two trainers and of what lies between. Raises LoraError."""
    first, last = _fitted(FIRST, overrides), _fitted(LAST, overrides)
    mixed = []
    for field in msgspec.structs.fields(Recipe):
        theirs = getattr(last, field.name)
        apart = isinstance(theirs, msgspec.Struct) and theirs != getattr(first, field.name)
        if apart and field.name not in SETTLED:
            one = replace(first, **{field.name: theirs})
            mixed.append((f"{FIRST} + kohya's [{field.name}]", one))
    return [(FIRST, first), *mixed, (LAST, last)]


def _fitted(name: str, overrides: list[str]) -> Recipe:
    """The lesson's recipe as it can be trained on the starter: every rate ``RATE`` times as high,
    some pictures kept back to measure by, and only the last step saved and sampled."""
    loaded = recipe.load(recipes.shipped()[name])
    rates = loaded.optimizer
    more = [
        'base.name="starter"', "dataset.resolution=128", "evaluation.held_out=0.1",
        f"optimizer.learning_rate={rates.learning_rate * RATE}",
        f"save.every_epochs={loaded.training.epochs}",
        f"sample.every_epochs={loaded.training.epochs}", f"sample.prompts={PROMPTS}",
        f'sample.sampler="{demo.SETTINGS.sampler}"', f"sample.steps={demo.SETTINGS.steps}",
        f"sample.cfg={demo.SETTINGS.cfg}", f"sample.seed={demo.SETTINGS.seed}",
    ]  # fmt: skip
    if rates.text_encoder_rate:
        more.append(f"optimizer.text_encoder_rate={rates.text_encoder_rate * RATE}")
    return recipe.load(recipes.shipped()[name], more + overrides)


async def make(call: Invocation, began: float) -> Result:
    """Train what is not trained yet, measure, count, and lay out the sheet."""
    made = between(call.args.overrides)
    async with call.client(subscribe=True) as client:
        dataset = await demo.dataset_of(call, client)
        begun = [await _run(client, name, one, dataset, began) for name, one in made]
        runs = [await followed(call, client, run.id) for run in begun]
        for run in runs:
            await client.call(wire.MeasureRun(run=run.id), on_progress=call.report)
        sides = await run_sides.gathered(client.call, runs, norms=True)
        sheet = call.home / "outputs" / f"trainers-{runs[0].id}.png"
        sheet.parent.mkdir(exist_ok=True)
        pictures = await run_sides.samples_of(client.fetch, sides)
        publish(sheet, runs_picture.png(sides, pictures))
        files = {lora.name: lora.path for lora in client.state.loras}
    loras = [files[run.lora] for run in runs]
    asked: list[dict[str, Any]] = [{"loras": []}, *({"loras": [(one, 1.0)]} for one in loras)]
    without, *seen = await demo.counted(call, asked)
    trained = [
        Trained(
            name=name, run=side.run.id, steps=side.run.step, held=side.held, norm=side.norm,
            seconds=side.run.took,
            creature=one.creature, lora=lora,
        )
        for (name, _), side, one, lora in zip(made, sides, seen, loras, strict=True)
    ]  # fmt: skip
    ends = [sides[0], sides[-1]]
    return Result(
        trained=trained, differences=dict(run_table.differences(ends)), without=without.creature,
        sheet=str(sheet),
    )  # fmt: skip


async def _run(client: Client, name: str, loaded: Recipe, dataset: str, began: float) -> wire.Run:
    """The run of this recipe since ``began``, begun if there is none."""
    text = recipe.dump(replace(loaded, dataset=replace(loaded.dataset, name=dataset)))
    key = f"demo --trainers {began} {name} {text}"
    return await client.call(wire.StartRun(recipe=text, name=name), key=key)


def told(result: Result) -> Iterator[str]:
    head = ("TRAINED BY", "RUN", ">STEPS", ">TIME", ">KEPT BACK", ">‖ΔW‖", ">CREATURES")
    yield from table(head, [_row(one) for one in result.trained])
    yield ""
    yield from reasons(result)
    yield ""
    options = [(key, *values) for key, values in result.differences.items()]
    yield from table(("OPTION", FIRST, LAST), options)
    yield ""
    yield f"creatures seen without a LoRA: {result.without}"
    yield f"losses and samples side by side: {result.sheet}"


def reasons(result: Result) -> Iterator[str]:
    """Which differences matter, as far as the counts can tell."""
    first, *mixed, last = result.trained
    yield (
        f"{FIRST} makes a creature in {first.creature.hits} of {first.creature.number} pictures, "
        f"{LAST} in {last.creature.hits}."
    )
    telling = [one for one in mixed if _apart(one.creature, first.creature)]
    for one in sorted(telling, key=lambda one: -abs(one.creature.hits - first.creature.hits)):
        section = one.name.rpartition(" ")[2]
        yield f"{section} alone makes that {one.creature.hits}."
    rest = [one.name.rpartition(" ")[2] for one in mixed if one not in telling]
    if rest:
        yield f"{', '.join(rest)} alone: no difference beyond chance in so many pictures."


def _apart(one: demo.Share, other: demo.Share) -> bool:
    """Whether two rates differ: neither lies in the other's 95 % interval."""
    a, b = one.hits / one.number, other.hits / other.number
    return not other.low <= a <= other.high and not one.low <= b <= one.high


def _row(one: Trained) -> tuple[str, ...]:
    return (
        one.name, one.run, words.count(one.steps), words.duration(one.seconds),
        "–" if one.held is None else f"{one.held:+.1%}",
        "–" if one.norm is None else f"{one.norm:.3g}",
        f"{one.creature.hits} of {one.creature.number}",
    )  # fmt: skip
