"""A run as TensorBoard event files: loss, rate, gradient norm, samples, recipe."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import msgspec

from lora_tui.core.run_sides import Ask, Fetch
from shared import wire
from shared.errors import Code, LoraError

MOST_POINTS = 20_000  # of a series that the daemon sends


class Written(msgspec.Struct, frozen=True):
    """What was written of a run."""

    run: str
    dir: str
    points: int
    samples: int
    steps: int  # of the run; more than ``points`` where its series was thinned out

    def said(self) -> str:
        """logs/r0007: 8330 points, 12 samples"""
        more = f", of {self.steps} steps" if self.points < self.steps else ""
        return f"{self.dir}: {self.points} points{more}, {self.samples} samples"


async def write(ask: Ask, fetch: Fetch, run: str, folder: str) -> Written:
    """Write a run's events into a new or empty folder.

    Raises LoraError: WRONG_STATE without the package, ALREADY_EXISTS, NOT_FOUND, STORAGE.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise LoraError(
            Code.WRONG_STATE,
            "Event files are written by tensorboardX, which is not installed: pip install "
            '"lora-tui[tensorboard]".',
        ) from None
    out = _empty(folder)
    detail = await ask(wire.GetRun(run=run))
    points = (await ask(wire.GetSeries(run=run, points=MOST_POINTS))).points
    pictures = {}
    for one in detail.samples:
        _, blobs = await fetch(wire.GetPicture(picture=one.id))
        pictures[one.id] = blobs[0]
    await asyncio.to_thread(_events, SummaryWriter, out, detail, points, pictures)
    return Written(
        run=run, dir=str(out), points=len(points), samples=len(pictures), steps=detail.run.step
    )


def _events(
    writer_of: Any, out: Path, detail: wire.RunDetail, points: list[wire.LivePoint],
    pictures: dict[str, bytes],
) -> None:  # fmt: skip
    """Raises LoraError(STORAGE)."""
    began = detail.run.started or detail.run.created
    try:
        with writer_of(str(out)) as writer:
            writer.add_text("recipe", f"```toml\n{detail.recipe}\n```", 0, walltime=began)
            for point in points:
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


def _empty(text: str) -> Path:
    """A folder for one run's events. Raises LoraError(ALREADY_EXISTS)."""
    out = Path(text).expanduser()
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
