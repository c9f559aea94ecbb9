"""Pictures on request: resolved, given to the worker, followed, entered in the library."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lora_daemon import embeddings, pipe, upscalers
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.orders import Orders
from lora_daemon.service import Context, Daemon
from shared import lora_tags, wire
from shared.errors import Code, LoraError
from shared.filenames import typed
from shared.pictures import UPSCALERS, LoraUse, PictureSpec

LARGEST = 8192  # pixels of a side
Progress = Callable[[int, int, str], None]  # denoising steps done, of how many; what is before


@dataclass(frozen=True)
class Resolved:
    """What is to be painted, its size settled, and all that it needs. ``embeddings``: textual
    inversions that its prompts name, with their files."""

    spec: PictureSpec
    base: wire.BaseModel
    loras: list[pipe.LoraFile]
    embeddings: list[tuple[str, str]]

    def order(self, job: str, out: Path, *, patient: bool = False) -> pipe.Paint:
        """The order to the worker that puts it at ``out``."""
        return pipe.Paint(
            job=job, spec=self.spec, base_path=self.base.path, base_predicts=self.base.objective,
            loras=self.loras, out=str(out), embeddings=self.embeddings, patient=patient,
        )  # fmt: skip

    def files(self) -> list[Path]:
        """Files besides the base that decide the pixels."""
        paths = [lora.path for lora in self.loras] + [path for _, path in self.embeddings]
        if self.spec.start is not None:
            paths.append(self.spec.start.picture)
        if self.spec.second is not None and self.spec.second.upscaler not in UPSCALERS:
            paths.append(self.spec.second.upscaler)
        paths += [lora.region.picture for lora in self.loras if lora.region and lora.region.picture]
        return [Path(typed(path)) for path in paths]


class Painting:
    """Answers Generate, and has the worker make pictures for others."""

    def __init__(self, daemon: Daemon, library: Library, jobs: Jobs, orders: Orders) -> None:
        self._workspace = daemon.workspace
        self._library = library
        self._jobs = jobs
        self._orders = orders
        self._outs: list[str] = []  # files that are being made
        self.settled: Callable[[], None] = lambda: None  # called after each picture
        self.file_of: Callable[[str], Awaitable[str]] = _itself  # of a picture to begin from
        self.keep: Callable[[str, PictureSpec], None] = lambda *_: None  # with what one was asked

    @property
    def busy(self) -> bool:
        return bool(self._outs)

    async def generate(self, context: Context, request: wire.Generate) -> wire.Picture:
        """Raises LoraError: NOT_FOUND (base, LoRA), BAD_REQUEST, OUT_OF_MEMORY, WORKER_FAILED,
        STORAGE, CANCELLED."""
        made = await self.resolved(request.spec)
        spec = made.spec
        out = await asyncio.to_thread(self._place, spec)
        with self._jobs.open("generate", spec.prompt[:60] or "a picture", spec.work) as job:
            paint = made.order(job, out, patient=request.patient)

            def progress(done: int, total: int, before: str) -> None:
                self._jobs.progress(job, done, total, before)
                context.progress(done, total, before)

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
                notes=painted.notes,
            )
            self.keep(picture.id, spec)
            self._library.add_picture(picture, context.by, context.key)
            self._jobs.end(job, "done", " ".join(painted.notes) or f"{painted.seconds:.1f} s")
        return picture

    async def make(
        self, paint: pipe.Paint, progress: Progress, seen: Callable[[str], None] = lambda _: None
    ) -> pipe.Painted:
        """Have the worker do a picture job; one that dies of it is replaced once. Cancelled, the
        worker gives the job up within a denoising step. ``seen``: told of each file that shows the
        picture on its way. Raises LoraError."""

        def hear(report: pipe.PaintStep | pipe.Painted) -> bool:
            if isinstance(report, pipe.PaintStep):
                progress(report.step, report.steps, report.before)
                if report.seen:
                    seen(report.seen)
            return isinstance(report, pipe.Painted)

        self._outs.append(paint.out)
        try:
            painted: pipe.Painted = await self._orders.ask(paint, "The picture was not made.", hear)
            return painted
        finally:
            self._outs.remove(paint.out)
            self.settled()

    async def resolved(self, spec: PictureSpec) -> Resolved:
        """The spec with all that it names: LoRAs in its prompt are among its own. Raises LoraError:
        NOT_FOUND, BAD_REQUEST, INVALID_FILE (a textual inversion that its prompts name)."""
        base = await self._library.base(spec.base)
        prompt, tags = lora_tags.taken(spec.prompt, spec.steps)
        spec = sized(msgspec.structs.replace(spec, prompt=prompt, loras=[*spec.loras, *tags]), base)
        if spec.start is not None:
            path = await self.file_of(spec.start.picture)
            start = msgspec.structs.replace(spec.start, picture=path)
            spec = msgspec.structs.replace(spec, start=start)
        spec = await asyncio.to_thread(upscalers.found, self._workspace.upscalers, spec)
        loras = [
            lora_file(use, name, path)
            for use in spec.loras
            for name, path in [self._library.lora(use.lora)]
        ]
        named = await asyncio.to_thread(
            embeddings.named, self._workspace.embeddings, spec.prompt, spec.negative
        )
        return Resolved(spec, base, loras, named)

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


async def _itself(picture: str) -> str:
    return picture


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
    if spec.start is not None and spec.second is not None:
        raise LoraError(
            Code.BAD_REQUEST,
            "A second pass is for pictures made from words. One that is begun from comes out as "
            "large as is asked for: give the size.",
        )
    if max(spec.final_size) > LARGEST:
        raise LoraError(
            Code.BAD_REQUEST,
            f"The second pass would make {spec.final_size[0]} × {spec.final_size[1]} pixels; a "
            f"side has at most {LARGEST}.",
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
        region=use.region,
        guidance=use.guidance,
    )
