"""``lora-tui run compare`` and ``run export-tensorboard``: runs side by side, and elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lora_tui.commands.common import Invocation, Subparsers, command, find_run, find_runs
from lora_tui.commands.console import table
from lora_tui.core import event_files, run_sides, run_table, runs_picture, words
from lora_tui.core.run_table import Side
from shared.errors import Exit
from shared.files import publish


class Compared(msgspec.Struct, frozen=True):
    """Runs side by side, for the console."""

    sides: list[Side]

    def value(self) -> Any:
        """As data: one object a run, and what differs."""
        named = [run_table.name_of(side) for side in self.sides]
        return {
            "runs": [
                {"run": s.run.id, "name": s.run.name, "group": s.run.group, "state": s.run.state,
                 "settings": s.run.settings, "steps": s.run.step, "loss": s.run.loss,
                 "kept_back": s.held, "norm": s.norm, "lora": s.run.lora}
                for s in self.sides
            ],
            "names": named,
            "differences": dict(run_table.differences(self.sides)),
            "losses": [
                {"step": step, "losses": at}
                for step, at in run_table.losses_at(run_table.curves(self.sides))
            ],
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        curves = run_table.curves(self.sides)
        yield from table(run_table.HEAD, run_table.results(self.sides, curves))
        yield from ("", *run_table.said(self.sides), "")
        ids = [side.run.id for side in self.sides]
        if losses := run_table.losses_at(curves):
            rows = [(words.count(step), *map(words.number, at)) for step, at in losses]
            yield from table((">LOSS AT STEP", *(f">{one}" for one in ids)), rows)
            yield ""
        if differences := run_table.differences(self.sides):
            yield from table(("OPTION", *ids), [(key, *own) for key, own in differences])
        else:
            yield "Their recipes are alike."


def add(verbs: Subparsers) -> None:
    compare = command(
        verbs, "compare", compare_them,
        "runs side by side: losses, results, where their recipes differ, samples",
        "  lora-tui run compare r0003 r0004\n"
        "  lora-tui run compare 'dragons by network.rank' --sheet ranks.png   # a whole sweep",
    )  # fmt: skip
    compare.add_argument("names", metavar="RUN", nargs="+", help="runs, or the name of a sweep")
    compare.add_argument(
        "--norms", action="store_true", help="‖ΔW‖ of each LoRA too, which reads the files"
    )
    compare.add_argument(
        "--sheet", default="", metavar="FILE.png", help="losses and samples as a picture"
    )
    export = command(
        verbs, "export-tensorboard", export_it,
        "write a run as TensorBoard event files: loss, rate, gradient norm, samples, recipe",
        "  lora-tui run export-tensorboard r0007 logs/r0007 && tensorboard --logdir logs",
    )  # fmt: skip
    export.add_argument("name", metavar="RUN", help="r0001, or its name")
    export.add_argument("dir", metavar="DIR", help="a new or empty folder")


async def compare_them(call: Invocation) -> Exit:
    async with call.client() as client:
        runs = await find_runs(call, client, call.args.names)
        found = Compared(await run_sides.gathered(client.call, runs, norms=call.args.norms))
        if call.args.sheet:
            data = runs_picture.png(
                found.sides, await run_sides.samples_of(client.fetch, found.sides)
            )
            out = _path(call.args.sheet)
            publish(out, data)
            call.console.say(f"{out}: losses and samples")
    call.console.show(found.value(), found.lines)
    return Exit.OK


async def export_it(call: Invocation) -> Exit:
    """Raises LoraError: WRONG_STATE without the package, ALREADY_EXISTS, STORAGE."""
    async with call.client() as client:
        run = await find_run(call, client, call.args.name)
        done = await event_files.write(client.call, client.fetch, run.id, call.args.dir)
    call.console.show(done, lambda: [done.said()])
    return Exit.OK


def _path(text: str) -> Path:
    return Path(text).expanduser()
