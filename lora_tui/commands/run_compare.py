"""``lora-tui run compare`` and ``run export-tensorboard``: runs side by side, and elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lora_tui.commands.common import Invocation, Subparsers, command, find_run
from lora_tui.commands.console import table
from lora_tui.core import run_table, runs_picture, words
from lora_tui.core.run_table import Side
from shared import wire
from shared.client import Client
from shared.errors import Code, Exit, LoraError
from shared.files import publish

MOST_POINTS = 20_000  # of a series that the daemon sends
PIXELS = 384  # of a sample on the sheet


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
                {"step": step, "losses": at} for step, at in run_table.losses_at(self.sides)
            ],
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        yield from table(run_table.HEAD, run_table.results(self.sides))
        yield from ("", *run_table.said(self.sides), "")
        ids = [side.run.id for side in self.sides]
        if losses := run_table.losses_at(self.sides):
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
        runs = await _named(client, call.args.names)
        found = await gathered(client, runs, norms=call.args.norms)
        if call.args.sheet:
            data = runs_picture.png(found.sides, await samples_of(client, found.sides))
            out = _path(call.args.sheet)
            publish(out, data)
            call.console.say(f"{out}: losses and samples")
    call.console.show(found.value(), found.lines)
    return Exit.OK


async def gathered(client: Client, runs: Iterable[wire.Run], *, norms: bool = False) -> Compared:
    """What is known of the runs, as they are now. Raises LoraError(NOT_FOUND)."""
    sides = []
    for run in runs:
        detail = await client.call(wire.GetRun(run=run.id))
        series = await client.call(wire.GetSeries(run=run.id, points=3000))
        which, norm = None, None
        try:
            which = (await client.call(wire.GetWhich(run=run.id))).found
            if norms and detail.run.lora:
                ask = wire.GetLoraCard(lora=detail.run.lora, spectrum=True)
                spectrum = (await client.call(ask)).found.spectrum
                norm = spectrum.energy**0.5 if spectrum is not None else None
        except LoraError:
            pass  # no base, no LoRA yet: the rest is shown
        sides.append(
            Side(
                run=detail.run, recipe=detail.recipe, points=series.points, samples=detail.samples,
                which=which, norm=norm,
            )
        )  # fmt: skip
    return Compared(sides)


async def samples_of(client: Client, sides: Sequence[Side]) -> dict[str, bytes]:
    """The latest samples of each prompt, encoded, by their ids; what is gone is left out."""
    found: dict[str, bytes] = {}
    for _, across in run_table.pairs(sides):
        for one in across:
            if one is None:
                continue
            ask = wire.GetPicture(picture=one.id, width=PIXELS, height=PIXELS)
            try:
                _, blobs = await client.fetch(ask)
            except LoraError:
                continue
            if blobs:
                found[one.id] = blobs[0]
    return found


async def _named(client: Client, names: Sequence[str]) -> list[wire.Run]:
    """Runs by id or name, and all of a group by the group's. Raises LoraError(NOT_FOUND)."""
    every = (await client.call(wire.GetState())).runs
    runs: list[wire.Run] = []
    for name in names:
        group = [run for run in every if run.group == name]
        runs += group or [await find_run(client, name)]
    return list({run.id: run for run in runs}.values())


async def export_it(call: Invocation) -> Exit:
    """Raises LoraError: WRONG_STATE without the package, ALREADY_EXISTS, STORAGE."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise LoraError(
            Code.WRONG_STATE,
            "Event files are written by tensorboardX, which is not installed: pip install "
            '"lora-tui[tensorboard]".',
        ) from None
    out = _empty(call.args.dir)
    async with call.client() as client:
        run = await find_run(client, call.args.name)
        detail = await client.call(wire.GetRun(run=run.id))
        series = await client.call(wire.GetSeries(run=run.id, points=MOST_POINTS))
        pictures = {}
        for one in detail.samples:
            _, blobs = await client.fetch(wire.GetPicture(picture=one.id))
            pictures[one.id] = blobs[0]
    began = run.started or run.created
    try:
        with SummaryWriter(str(out)) as writer:
            writer.add_text("recipe", f"```toml\n{detail.recipe}\n```", 0, walltime=began)
            for point in series.points:
                for tag, value in (
                    ("train/loss", point.loss), ("train/learning_rate", point.learning_rate),
                    ("train/gradient_norm", point.grad_norm),
                ):  # fmt: skip
                    writer.add_scalar(tag, value, point.step, walltime=point.time)
            for one in detail.samples:
                writer.add_image(
                    f"samples/{one.prompt[:80]} ({one.seed})", _pixels(pictures[one.id]), one.step,
                    walltime=one.created, dataformats="HWC",
                )  # fmt: skip
    except OSError as error:
        raise LoraError.storage("write", out, error) from None
    thinned = len(series.points) < run.step
    told = {"run": run.id, "dir": str(out), "points": len(series.points), "samples": len(pictures)}
    more = f", of {run.step} steps" if thinned else ""
    call.console.show(
        told, lambda: [f"{out}: {len(series.points)} points{more}, {len(pictures)} samples"]
    )
    return Exit.OK


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _empty(text: str) -> Path:
    """A folder for one run's events. Raises LoraError(ALREADY_EXISTS)."""
    out = _path(text)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LoraError(
            Code.ALREADY_EXISTS, f"{out} is there and not empty: TensorBoard would mix the runs."
        )
    return out


def _pixels(data: bytes) -> Any:
    """A picture as uint8 (height, width, 3)."""
    import numpy
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        return numpy.asarray(opened.convert("RGB"))
