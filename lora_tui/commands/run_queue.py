"""``lora-tui run move|after|extend|fork``: the queue's order, and runs that go on from others."""

from __future__ import annotations

from lora_tui.commands import recipe as recipes
from lora_tui.commands.common import Invocation, Subparsers, command, find_run
from shared import run_queue, wire
from shared.errors import Exit


def add(verbs: Subparsers) -> None:
    move = command(
        verbs, "move", move_it, "move a waiting run within the queue",
        "  lora-tui run move r0009 first\n  lora-tui run move r0009 --before r0007\n"
        "  lora-tui run pause r0009    # holds it back",
    )  # fmt: skip
    move.add_argument("name", metavar="RUN", help="r0001, or its name")
    where = move.add_mutually_exclusive_group(required=True)
    where.add_argument("move", nargs="?", choices=("up", "down", "first", "last"))
    where.add_argument("--before", default="", metavar="OTHER", help="right before this run")
    after = command(
        verbs, "after", after_it, "say which runs a waiting run follows; none: it waits for no run",
        "  lora-tui run after r0009 r0007 r0008",
    )  # fmt: skip
    after.add_argument("name", metavar="RUN", help="r0001, or its name")
    after.add_argument("others", metavar="OTHER", nargs="*",
                       help="runs, or a sweep, that must leave their LoRAs first")  # fmt: skip
    extend = command(
        verbs, "extend", extend_it, "let a finished or stopped run take more steps",
        "  lora-tui run extend r0007 --steps 500",
    )  # fmt: skip
    extend.add_argument("name", metavar="RUN", help="r0001, or its name")
    extend.add_argument("--steps", type=int, required=True, help="so many more")
    fork = command(
        verbs, "fork", fork_it, "begin a new run from a checkpoint of another, with other settings",
        "  lora-tui run fork r0007 --set optimizer.learning_rate=5e-5\n"
        "  lora-tui run fork r0007 --at 400 --set dataset.flip=false --name unflipped",
    )  # fmt: skip
    fork.add_argument("name", metavar="RUN", help="r0001, or its name")
    fork.add_argument("--at", type=int, default=-1, metavar="STEP", help="(its latest)")
    fork.add_argument("--name", dest="new_name", default="", help="call the new run so")
    recipes.add_set(fork)


async def move_it(call: Invocation) -> Exit:
    async with call.client() as client:
        run = await find_run(call, client, call.args.name)
        before = call.args.before and (await find_run(call, client, call.args.before)).id
        ask = wire.ArrangeRun(run=run.id, move=call.args.move or "", before=before)
        run = await client.call(ask)
        runs = (await client.call(wire.GetState())).runs
    waiting = [
        f"{one.id} (held)" if one.state == "paused" else one.id for one in run_queue.waiting(runs)
    ]
    call.console.show(run, lambda: [f"waiting, in this order: {', '.join(waiting) or 'none'}"])
    return Exit.OK


async def after_it(call: Invocation) -> Exit:
    async with call.client() as client:
        run = await find_run(call, client, call.args.name)
        run = await client.call(wire.ArrangeRun(run=run.id, after=call.args.others))
    word = f"waits for {', '.join(run.after)}" if run.after else "waits for no other run"
    call.console.show(run, lambda: [f"{run.id} {run.name} {word}"])
    return Exit.OK


async def extend_it(call: Invocation) -> Exit:
    async with call.client() as client:
        run = await find_run(call, client, call.args.name)
        found = await client.call(wire.ExtendRun(run=run.id, steps=call.args.steps))
    call.console.show(found, lambda: [f"{found.run.id} {found.run.name}: {found.told}"])
    return Exit.OK


async def fork_it(call: Invocation) -> Exit:
    async with call.client() as client:
        run = await find_run(call, client, call.args.name)
        ask = wire.ForkRun(
            run=run.id, step=call.args.at, settings=call.args.overrides, name=call.args.new_name
        )
        found = await client.call(ask)
    call.console.show(found, lambda: [f"{found.run.id} {found.run.name}: {found.told}"])
    return Exit.OK
