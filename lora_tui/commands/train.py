"""``lora-tui train``: start a run and follow it. Leaving stops the following, not the run."""

from __future__ import annotations

import asyncio

import msgspec

from lora_tui.commands import recipe as recipes
from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.follow import follow, outcome
from shared import recipe, wire
from shared.errors import Exit


def add(subparsers: Subparsers) -> None:
    train = command(
        subparsers,
        "train",
        train_it,
        "train a LoRA from a recipe, and follow the run",
        "  lora-tui train lesson --dataset dragons --set base.name=~/models/sd15\n"
        "  lora-tui train dragons.toml --set network.rank=16 --detach\n"
        "  lora-tui train dragons.toml --json | tail -1 | jq -r .lora",
    )
    train.add_argument("recipe", metavar="RECIPE.toml", help="a file, or one of `recipe list`")
    train.add_argument("--dataset", default="", metavar="NAME", help="train on this dataset")
    train.add_argument("--base", default="", metavar="NAME", help="train on this base")
    train.add_argument("--name", default="", help="call the run so")
    train.add_argument("--detach", action="store_true", help="return as soon as it is queued")
    recipes.add_set(train)


async def train_it(call: Invocation) -> Exit:
    args = call.args
    overrides = list(args.overrides)
    for key, value in (("dataset.name", args.dataset), ("base.name", args.base)):
        if value:
            overrides.append(f"{key}={recipe.written(value)}")
    loaded = recipe.load(recipes.path_of(args.recipe), overrides)
    base = msgspec.structs.replace(loaded.base, name=call.base(loaded.base.name))
    loaded = msgspec.structs.replace(loaded, base=base)
    async with call.client(subscribe=not args.detach) as client:
        run = await client.call(wire.StartRun(recipe=recipe.dump(loaded), name=args.name))
        where = f" on {run.base}" if run.base else ""
        call.console.say(
            f"{run.id} {run.name}: {run.pictures} pictures, {run.steps} steps{where}"
            + (f", {run.skipped} skipped" if run.skipped else "")
        )
        if run.message:
            call.console.say(run.message)
        if args.detach:
            call.console.show(run, lambda: [run.id])
            return Exit.OK
        try:
            run = await follow(call, client, run.id)
        except asyncio.CancelledError:
            call.console.say(
                f"{run.id} goes on without you. `lora-tui run watch {run.id}` follows it again; "
                f"`lora-tui run stop {run.id}` ends it and saves."
            )
            raise
        return await outcome(call, client, run)
