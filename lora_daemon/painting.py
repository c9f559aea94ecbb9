"""Pictures on request: resolved, given to the worker, followed, entered in the library."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lora_daemon import pipe
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.orders import Orders
from lora_daemon.service import Context, Daemon
from shared import wire
from shared.errors import Code, LoraError
from shared.pictures import LoraUse, PictureSpec

Progress = Callable[[int, int], None]  # denoising steps done, of how many


class Painting:
    """Answers Generate, and has the worker make pictures for others."""

    def __init__(self, daemon: Daemon, library: Library, jobs: Jobs, orders: Orders) -> None:
        self._workspace = daemon.workspace
        self._library = library
        self._jobs = jobs
        self._orders = orders
        self._outs: list[str] = []  # files that are being made
        self.settled: Callable[[], None] = lambda: None  # called after each picture

    @property
    def busy(self) -> bool:
        return bool(self._outs)

    async def generate(self, context: Context, request: wire.Generate) -> wire.Picture:
        """Raises LoraError: NOT_FOUND (base, LoRA), BAD_REQUEST, OUT_OF_MEMORY, WORKER_FAILED,
        STORAGE, CANCELLED."""
        spec, base, files = await resolved(self._library, request.spec)
        out = await asyncio.to_thread(self._place, spec)
        with self._jobs.open("generate", spec.prompt[:60] or "a picture", spec.steps) as job:
            paint = pipe.Paint(
                job=job, spec=spec, base_path=base.path, base_predicts=base.objective,
                loras=files, out=str(out),
            )  # fmt: skip

            def progress(done: int, total: int) -> None:
                self._jobs.progress(job, done, total)
                context.progress(done, total, "")

            painted = await self.make(paint, progress)
            picture = wire.Picture(
                id=f"p{secrets.token_hex(6)}",
                path=str(out),
                run="",
                step=0,
                prompt=spec.prompt,
                seed=spec.seed,
                width=painted.width,
                height=painted.height,
                parameters=painted.parameters,
                created=time.time(),
            )
            self._library.add_picture(picture, context.by, context.key)
            self._jobs.end(job, "done", " ".join(painted.notes) or f"{painted.seconds:.1f} s")
        return picture

    async def make(self, paint: pipe.Paint, progress: Progress) -> pipe.Painted:
        """Have the worker do a picture job; one that dies of it is replaced once. Cancelled, the
        worker gives the job up within a denoising step. Raises LoraError."""

        def hear(report: pipe.PaintStep | pipe.Painted) -> bool:
            if isinstance(report, pipe.PaintStep):
                progress(report.step, report.steps)
            return isinstance(report, pipe.Painted)

        self._outs.append(paint.out)
        try:
            painted: pipe.Painted = await self._orders.ask(paint, "The picture was not made.", hear)
            return painted
        finally:
            self._outs.remove(paint.out)
            self.settled()

    def _place(self, spec: PictureSpec) -> Path:
        """A free file name in the outputs: when, the prompt's first words, the seed."""
        self._workspace.outputs.mkdir(parents=True, exist_ok=True)
        words = re.sub(r"[^\w]+", "-", spec.prompt[:60]).strip("-")[:40] or "picture"
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{words}-{spec.seed}"
        for number in itertools.count(1):
            path = self._workspace.outputs / f"{stem}{f'-{number}' if number > 1 else ''}.png"
            if not path.exists() and str(path) not in self._outs:
                return path
        raise AssertionError


async def resolved(
    library: Library, spec: PictureSpec
) -> tuple[PictureSpec, wire.BaseModel, list[pipe.LoraFile]]:
    """The spec, its size settled, with its base and its LoRAs. Raises LoraError: NOT_FOUND,
    BAD_REQUEST."""
    base = await library.base(spec.base)
    spec = sized(spec, base)
    files = [
        lora_file(use, name, path) for use in spec.loras for name, path in [library.lora(use.lora)]
    ]
    return spec, base, files


def sized(spec: PictureSpec, base: wire.BaseModel) -> PictureSpec:
    """The spec on this base, its size settled. Raises LoraError(BAD_REQUEST)."""
    spec = msgspec.structs.replace(
        spec,
        base=base.name,
        width=spec.width or base.resolution,
        height=spec.height or base.resolution,
    )
    if spec.width % 8 or spec.height % 8:
        raise LoraError(
            Code.BAD_REQUEST,
            f"A picture's sides are multiples of 8 pixels; {spec.width} × {spec.height} "
            f"is not. {spec.width // 8 * 8 or 8} × {spec.height // 8 * 8 or 8} is near.",
        )
    return spec


def lora_file(use: LoraUse, name: str, path: Path) -> pipe.LoraFile:
    """The LoRA as the worker takes it."""
    return pipe.LoraFile(
        path=str(path),
        weight=use.weight,
        name=name,
        text_weight=use.text_weight,
        blocks=use.blocks,
        begin=use.begin,
        end=use.end,
    )
