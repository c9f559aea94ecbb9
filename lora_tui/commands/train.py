"""``lora-tui train``: start a run and follow it. Leaving stops the following, not the run."""

from __future__ import annotations

import asyncio
import math
from typing import Any, TypeVar

import msgspec

from lora_tui.commands import recipe as recipes
from lora_tui.commands import run_compare
from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.follow import follow, leaving, outcome
from lora_tui.core import run_sides, train_sums, words
from shared import recipe, wire
from shared.client import Client
from shared.errors import Exit
from shared.foretelling import foretell

R = TypeVar("R")


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
        ask = wire.StartRun(
            recipe=recipe.dump(loaded), name=args.name, after=args.after, held=args.hold
        )
        run = await _queued(call, client, ask)
        with leaving(call, [run]):
            return await _followed(call, client, run, loaded, state)


async def _queued(call: Invocation, client: Client, ask: wire.Request[R]) -> R:
    """What the daemon answers to a request for runs. ctrl-c is heard only then: else nobody knew
    whether there are any."""
    asked = asyncio.ensure_future(client.call(ask))
    try:
        return await asyncio.shield(asked)
    except asyncio.CancelledError:
        answer: Any = await asked
        with leaving(call, getattr(answer, "runs", [answer])):
            raise


async def _followed(
    call: Invocation, client: Client, run: wire.Run, loaded: recipe.Recipe, state: wire.State
) -> Exit:
    """Say what was queued and follow it to its end, unless that is not wanted."""
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
    if call.args.detach or call.args.hold:
        call.console.show(run, lambda: [run.id])
        return Exit.OK
    return await outcome(call, client, await follow(call, client, run.id))


async def _sweep(call: Invocation, loaded: recipe.Recipe) -> Exit:
    """Queue a run for each combination, follow them, and show them side by side."""
    args = call.args
    async with call.client(subscribe=True) as client:
        ask = wire.StartSweep(
            recipe=recipe.dump(loaded), sweep=args.sweep, name=args.name, after=args.after,
            held=args.hold,
        )  # fmt: skip
        queued = await _queued(call, client, ask)
        with leaving(call, queued.runs):
            for run in queued.runs:
                count = words.plural(run.pictures, "picture")
                steps = words.plural(run.steps, "step")
                call.console.say(f"{run.id} {run.name}: {count}, {steps}")
            for warning in (await client.call(wire.GetRun(run=queued.runs[0].id))).warnings:
                call.console.say(f"warning: {warning}")
            if args.detach or args.hold:
                call.console.show(queued, lambda: [run.id for run in queued.runs])
                return Exit.OK
            runs = [await follow(call, client, run.id) for run in queued.runs]
        found = run_compare.Compared(await run_sides.gathered(client.call, runs))
    call.console.show(found.value(), found.lines)
    return Exit.RUN_FAILED if any(run.state == "failed" for run in runs) else Exit.OK
