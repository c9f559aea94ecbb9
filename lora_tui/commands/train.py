"""``lora-tui train``: start a run and follow it. Leaving stops the following, not the run."""

from __future__ import annotations

import asyncio
import math

import msgspec

from lora_tui.commands import recipe as recipes
from lora_tui.commands import run_compare
from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.follow import follow, outcome
from lora_tui.core import run_sides, train_sums, words
from shared import recipe, wire
from shared.errors import Exit
from shared.foretelling import foretell


def add(subparsers: Subparsers) -> None:
    train = command(
        subparsers,
        "train",
        train_it,
        "train a LoRA from a recipe, and follow the run",
        "  lora-tui train lesson --dataset dragons --set base.name=~/models/sd15\n"
        "  lora-tui train dragons.toml --set network.rank=16 --detach\n"
        "  lora-tui train lesson --dataset dragons --sweep network.rank=4,8,16 --detach\n"
        "  lora-tui train dragons.toml --json | tail -1 | jq -r .lora",
    )
    train.add_argument("recipe", metavar="RECIPE.toml", help="a file, or one of `recipe list`")
    train.add_argument("--dataset", default="", metavar="NAME", help="train on this dataset")
    train.add_argument("--base", default="", metavar="NAME", help="train on this base")
    train.add_argument("--name", default="", help="call the run so")
    train.add_argument(
        "--sweep", action="append", default=[], metavar="KEY=VALUE,VALUE…",
        help="one run for each value, queued as a group; several --sweep multiply",
    )  # fmt: skip
    train.add_argument(
        "--after", action="append", default=[], metavar="RUN",
        help="begin once this run, or each of this sweep, has left its LoRA; may be repeated",
    )  # fmt: skip
    train.add_argument("--hold", action="store_true", help="queue it, but paused")
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
    network = msgspec.structs.replace(loaded.network, start=call.base(loaded.network.start))
    loaded = msgspec.structs.replace(loaded, base=base, network=network)
    if args.sweep:
        return await _sweep(call, loaded)
    async with call.client(subscribe=not args.detach) as client:
        state = await client.call(wire.GetState())
        run = await client.call(
            wire.StartRun(
                recipe=recipe.dump(loaded), name=args.name, after=args.after, held=args.hold
            )
        )
        warnings = (await client.call(wire.GetRun(run=run.id))).warnings
        where = f" on {run.base}" if run.base else ""
        call.console.say(
            f"{run.id} {run.name}: {words.plural(run.pictures, 'picture')}, "
            f"{words.plural(run.steps, 'step')}{where}"
            + (f", {run.skipped} skipped" if run.skipped else "")
        )
        each = math.ceil(run.steps / run.epochs)
        asked, past = train_sums.resolved(loaded, state.bases), train_sums.took(state.runs)
        if said := train_sums.in_words(foretell(asked, run.pictures, run.steps, each, past)):
            call.console.say(said)
        if run.message:
            call.console.say(run.message)
        for warning in warnings:
            call.console.say(f"warning: {warning}")
        if args.detach or args.hold:
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


async def _sweep(call: Invocation, loaded: recipe.Recipe) -> Exit:
    """Queue a run for each combination, follow them, and show them side by side."""
    args = call.args
    async with call.client(subscribe=True) as client:
        ask = wire.StartSweep(
            recipe=recipe.dump(loaded), sweep=args.sweep, name=args.name, after=args.after,
            held=args.hold,
        )  # fmt: skip
        queued = await client.call(ask)
        for run in queued.runs:
            count = words.plural(run.pictures, "picture")
            call.console.say(f"{run.id} {run.name}: {count}, {words.plural(run.steps, 'step')}")
        for warning in (await client.call(wire.GetRun(run=queued.runs[0].id))).warnings:
            call.console.say(f"warning: {warning}")
        if args.detach or args.hold:
            call.console.show(queued, lambda: [run.id for run in queued.runs])
            return Exit.OK
        runs = [await follow(call, client, run.id) for run in queued.runs]
        found = run_compare.Compared(await run_sides.gathered(client.call, runs))
    call.console.show(found.value(), found.lines)
    return Exit.RUN_FAILED if any(run.state == "failed" for run in runs) else Exit.OK
