"""``lora-tui run``: look at training runs and steer them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from lora_tui.commands import run_compare, run_queue, run_which
from lora_tui.commands.common import Invocation, Subparsers, command, find_run, find_runs, noun
from lora_tui.commands.console import pairs, table
from lora_tui.commands.follow import follow, leaving, outcome
from lora_tui.core import words
from shared import wire
from shared.errors import Exit

Action = Literal["pause", "resume", "stop", "sample", "save"]
_DONE: dict[Action, str] = {
    "pause": "pauses at the step boundary",
    "resume": "goes on",
    "stop": "stops at the step boundary and saves its LoRA",
    "sample": "paints its samples now",
    "save": "keeps a LoRA of this moment",
}


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "run", "training runs")
    command(verbs, "list", list_them, "list the runs, in the order of the queue")
    show = command(verbs, "show", show_it, "show a run: its files, samples, what was skipped")
    show.add_argument("name", metavar="RUN", help="r0001, or its name")
    actions: tuple[tuple[Action, str], ...] = (
        ("pause", "pause a run; its state is kept"),
        ("resume", "go on with a paused, interrupted or failed run"),
        ("stop", "end a run now and save its LoRA"),
        ("sample", "paint the run's samples now; changes nothing in the run"),
        ("save", "keep a LoRA of this moment; the run goes on"),
    )
    for action, help_text in actions:
        steer = command(verbs, action, steering(action), help_text)
        steer.add_argument("name", metavar="RUN", help="r0001, or its name")
    watch = command(
        verbs, "watch", watch_it, "follow a run to its end; ctrl-c only stops the following"
    )
    watch.add_argument("name", metavar="RUN", help="r0001, or its name")
    log = command(verbs, "log", log_of_it, "print a run's log")
    log.add_argument("name", metavar="RUN", help="r0001, or its name")
    log.add_argument("-n", "--lines", type=int, default=200, help="so many lines (200)")
    run_queue.add(verbs)
    run_compare.add(verbs)
    run_which.add(verbs)
    delete = command(
        verbs,
        "delete",
        delete_it,
        "delete runs with all their files, their LoRAs as well",
        "  lora-tui run delete r0003 r0004\n  lora-tui run delete r0003 --yes   # in a script",
    )
    delete.add_argument("names", metavar="RUN", nargs="+", help="runs, or the name of a sweep")


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        runs = (await client.call(wire.GetState())).runs

    def lines() -> list[str]:
        rows: list[tuple[str, ...]] = [
            (r.id, r.name, r.state, f"{r.step}/{r.steps}", words.number(r.loss), r.dataset, r.base,
             words.size(r.size), words.ago(r.created))
            for r in runs
        ]  # fmt: skip
        head: tuple[str, ...] = (
            "RUN", "NAME", "STATE", ">STEP", ">LOSS", "DATASET", "BASE", ">DISK", "QUEUED",
        )  # fmt: skip
        for name, values in (
            ("GPU", [",".join(run.gpus) for run in runs]), ("GROUP", [run.group for run in runs])
        ):  # fmt: skip
            if any(values):
                head = (*head, name)
                rows = [(*row, value) for row, value in zip(rows, values, strict=True)]
        return table(head, rows)

    call.console.show({"runs": runs}, lines)
    return Exit.OK


async def show_it(call: Invocation) -> Exit:
    async with call.client() as client:
        found = await find_run(call, client, call.args.name)
        detail = await client.call(wire.GetRun(run=found.id))
    run = detail.run
    loss = f"{words.number(run.loss)}, mean of the last 100 steps" if run.loss is not None else ""

    def lines() -> Iterator[str]:
        yield from pairs(
            [
                ("run", f"{run.id} {run.name}"),
                ("state", f"{run.state} {run.phase}".strip()),
                ("", "" if run.message in detail.warnings else run.message),
                ("GPU", ", ".join(run.gpus)),
                ("step", f"{run.step} of {run.steps}, epoch {run.epoch} of {run.epochs}"),
                ("loss", loss),
                ("dataset", f"{run.dataset}, {words.plural(run.pictures, 'picture')}"),
                ("base", run.base),
                ("group", run.group),
                ("set", ", ".join(run.settings)),
                ("forked from", run.parent),
                ("waits for", ", ".join(run.after) if run.started is None else ""),
                ("by", f"{run.by}, {words.ago(run.created)}"),
                ("directory", f"{detail.directory} ({words.size(run.size)})"),
                *(("lora", f"step {c.step}: {c.path}") for c in detail.checkpoints),
                *(("sample", f"step {s.step}: {s.path}") for s in detail.samples),
                *(("skipped", f"{path}: {reason}") for path, reason in detail.skipped),
                *(("warning", warning) for warning in detail.warnings),
            ]
        )

    call.console.show(detail, lines)
    return Exit.OK


def steering(action: Action) -> Callable[[Invocation], Any]:
    """The command that does ``action`` to a run."""

    async def steer(call: Invocation) -> Exit:
        async with call.client() as client:
            found = await find_run(call, client, call.args.name)
            run = await client.call(wire.SteerRun(run=found.id, action=action))
        done = f"is in the queue. {run.message}" if run.state == "queued" else _DONE[action]
        call.console.show(run, lambda: [f"{run.id} {run.name} {done}".strip()])
        return Exit.OK

    return steer


async def watch_it(call: Invocation) -> Exit:
    async with call.client(subscribe=True) as client:
        run = await find_run(call, client, call.args.name)
        with leaving(call, [run]):
            run = await follow(call, client, run.id)
        return await outcome(call, client, run)


async def log_of_it(call: Invocation) -> Exit:
    async with call.client() as client:
        found = await find_run(call, client, call.args.name)
        log = await client.call(wire.GetLog(run=found.id, lines=call.args.lines))
    call.console.show(log, lambda: log.lines)
    return Exit.OK


async def delete_it(call: Invocation) -> Exit:
    async with call.client() as client:
        runs = await find_runs(call, client, call.args.names)
        names = ", ".join(f"{run.id} {run.name} ({words.size(run.size)})" for run in runs)
        call.console.confirm(f"Delete {names} with every file, LoRAs and samples included?")
        for run in runs:
            await client.call(wire.RemoveRun(run=run.id))
    call.console.show({"deleted": [run.id for run in runs]}, lambda: [run.id for run in runs])
    return Exit.OK
