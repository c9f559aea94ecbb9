"""``lora-tui run which`` and ``run take``: which checkpoint of a run to take, and taking it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lora_tui.commands import process
from lora_tui.commands.common import Invocation, Subparsers, command, find, find_run
from lora_tui.commands.console import table
from lora_tui.commands.lora_make import out_file
from lora_tui.core import which_table, words
from shared import wire
from shared.errors import Code, Exit, LoraError
from shared.filenames import typed
from shared.lora_orders import Merged, MergeOrder, Source
from shared.which import Candidate, Which


def add(verbs: Subparsers) -> None:
    which = command(
        verbs, "which", which_of_it, "measure a run's checkpoints and say which to take",
        "  lora-tui run which r0007            # goes on where it was given up\n"
        "  lora-tui run which r0007 --known    # what is measured, without measuring\n"
        "  lora-tui run which r0007 --json | jq -r .take",
    )  # fmt: skip
    which.add_argument("name", metavar="RUN", help="r0001, or its name; it may still be training")
    which.add_argument("--known", action="store_true", help="only show what was measured before")
    take = command(
        verbs, "take", take_it, "copy the checkpoint to take, as one LoRA file",
        "  lora-tui run take r0007 --out dragons.safetensors\n"
        "  lora-tui run take r0007 --step 400 --out dragons.safetensors",
    )  # fmt: skip
    take.add_argument("name", metavar="RUN", help="r0001, or its name")
    take.add_argument("--step", type=int, help="the checkpoint of this step, whatever is said")
    take.add_argument("--out", required=True, metavar="FILE.safetensors")


async def which_of_it(call: Invocation) -> Exit:
    async with call.client() as client:
        run = (await find_run(call, client, call.args.name)).id
        found = (await client.call(wire.GetWhich(run=run))).found
        if not call.args.known:
            if found.seconds:
                call.console.say(
                    f"Measuring takes about {words.duration(found.seconds)}, by what training here "
                    "took. ctrl-c gives it up; what is measured stays."
                )
            request = wire.MeasureRun(run=run)
            found = (await client.call(request, on_progress=call.report)).found
    take = found.take.name if found.take is not None else ""
    call.console.show({**msgspec.to_builtins(found), "take": take}, lambda: _lines(found))
    return Exit.OK


def _lines(found: Which) -> Iterator[str]:
    yield from table(which_table.HEAD, which_table.rows(found))
    yield ""
    yield from which_table.said(found)


async def take_it(call: Invocation) -> Exit:
    out = out_file(call)
    async with call.client() as client:
        run = await find_run(call, client, call.args.name)
        found = (await client.call(wire.GetWhich(run=run.id))).found
    wanted = _wanted(found, call.args.step)
    await copied(call, wanted, out)
    measured, kept = _measured(found)
    if measured < kept and call.args.step is None:
        call.console.say(
            "Not every checkpoint is measured: another may be better. "
            f"`lora-tui run which {run.id}` measures the others."
        )
    told = f"{out}: {wanted.name} of {run.id} {run.name}, {measured} of {kept} checkpoints measured"
    call.console.show(
        {"taken": wanted.name, "path": str(out), "run": run.id, "step": wanted.step,
         "measured": measured, "kept": kept},
        lambda: [told],
    )  # fmt: skip
    return Exit.OK


async def copied(call: Invocation, wanted: Candidate, out: Path) -> None:
    """Write the candidate to ``out`` as one LoRA file. Raises LoraError."""
    if len(wanted.files) > 1:
        share = 1 / len(wanted.files)
        sources = [Source(path=path, weight=share) for path in wanted.files]
        order = MergeOrder(sources=sources, out=str(out), method="exact")
        await process.engine(call, "merge", order, Merged)
    else:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)  # as merge and convert do
            shutil.copyfile(typed(wanted.files[0]), out)
        except OSError as error:
            raise LoraError.storage("copy the checkpoint to", out, error) from None


def _singles(found: Which) -> list[Candidate]:
    return [one for one in found.candidates if len(one.files) == 1]


def _measured(found: Which) -> tuple[int, int]:
    """Of how many checkpoints everything is measured, and how many there are to choose from."""
    singles = _singles(found)
    return sum(one.measured for one in singles), len(singles)


def _wanted(found: Which, step: int | None) -> Candidate:
    """Raises LoraError: NOT_FOUND, BUSY, WRONG_STATE."""
    if step is not None:
        return find(_singles(found), f"step {step}", "checkpoint", "name")
    if found.busy:
        measured, kept = _measured(found)
        raise LoraError(
            Code.BUSY,
            f"{found.run} is being measured, {measured} of {kept} checkpoints so far; wait for it, "
            "or say which to take with --step.",
            retryable=True,
        )
    if found.take is None:
        raise LoraError(
            Code.WRONG_STATE,
            f"Nothing is recommended yet: measure with `lora-tui run which {found.run}`, or say "
            "--step.",
        )
    return found.take
