"""LoRAs that are to become one file: what of that is learnt on a base, and the file itself."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from lora_daemon import engine_process, input_cache, pipe, probe_plan
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.orders import Orders
from lora_daemon.probing import MOST, Probing
from lora_daemon.service import Context, Daemon
from shared import lora_info, lora_orders, probes, wire, zipping
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.files import keep_latest
from shared.lora_keys import contents
from shared.lora_orders import Merged, MergeOrder
from shared.pictures import LoraUse, PictureSpec
from shared.safetensors_file import read_header

KEPT = 24  # results, and lessons that were left; the oldest go
UNFINISHED = "The coefficients were not learnt."


class Merging:
    """Answers LearnColumns and MergeLoras. A lesson is one order to the worker after the other, all
    alike, each a little of it; the lesson itself lies in files."""

    def __init__(
        self, daemon: Daemon, library: Library, probing: Probing, jobs: Jobs, orders: Orders
    ) -> None:
        self._cache = daemon.workspace.cache / "columns"
        self._made = daemon.workspace.root / "loras"
        self._library = library
        self._probing = probing
        self._jobs = jobs
        self._orders = orders
        self._turn = asyncio.Lock()  # two of the same lesson would write the same files

    async def learn(self, context: Context, request: wire.LearnColumns) -> wire.ColumnsLearnt:
        """Raises LoraError: NOT_FOUND (base, LoRA), INVALID_FILE, BAD_REQUEST, DIVERGED,
        OUT_OF_MEMORY, WORKER_FAILED, STORAGE."""
        count = len(request.loras)
        if not 2 <= count <= MOST:
            raise LoraError(Code.BAD_REQUEST, f"Zipping takes 2 to {MOST} LoRAs, not {count}.")
        base = await self._probing.base(request.base)
        uses, paths = self._probing.resolved(request.loras)
        for use, path in zip(uses, paths, strict=True):
            lora_orders.source(use, to_text(path))  # a file has no blocks, steps, regions
            if not use.weight:
                raise LoraError(Code.BAD_REQUEST, f"{use.lora} has weight 0: leave it out.")
        notes = dict.fromkeys(await asyncio.to_thread(_fit, paths))
        pictures = await asyncio.to_thread(_pictures, request, base.name, uses, paths)
        files = probe_plan.files(uses, paths)
        decides = (
            input_cache.stamps(Path(typed(base.path))), base.objective,
            [input_cache.stamps(one) for one in paths], files, pictures,
            request.steps, request.rate, request.penalty, request.seed,
        )  # fmt: skip
        name = hashlib.sha256(msgspec.json.encode(decides)).hexdigest()
        out = self._cache / f"{name}.safetensors"
        about = {"base": base.name, "steps": str(request.steps), "rate": f"{request.rate:g}",
                 "penalty": f"{request.penalty:g}"}  # fmt: skip
        order = pipe.Zip(
            job="", base_path=base.path, base_predicts=base.objective, loras=files,
            pictures=pictures, folder=to_text(self._cache / name), out=to_text(out),
            steps=request.steps, rate=request.rate, penalty=request.penalty, seed=request.seed,
            about=about, embeddings=await self._probing.named([spec for _, spec in pictures]),
        )  # fmt: skip
        async with self._turn:
            if not out.exists():
                notes |= dict.fromkeys(await self._learnt(context, order, uses))
                await asyncio.to_thread(keep_latest, KEPT, self._cache.glob("*"))
            return _told(out, list(notes))

    async def merge(self, context: Context, request: wire.MergeLoras) -> wire.LoraMerged:
        """Raises LoraError: ALREADY_EXISTS, BAD_REQUEST, NOT_FOUND, INVALID_FILE, STORAGE, and as
        ``learn`` for ziplora."""
        out = self._place(request.name)
        uses, paths = self._probing.resolved(request.loras)
        sources = [
            lora_orders.source(use, to_text(path)) for use, path in zip(uses, paths, strict=True)
        ]
        order = MergeOrder(
            sources=sources, out=to_text(out), method=request.method, rank=request.rank,
            error=request.error, density=request.density, seed=request.seed,
        )  # fmt: skip
        notes = []
        if request.method == "ziplora":
            lesson = wire.LearnColumns(
                loras=request.loras, base=request.base, prompts=request.prompts
            )
            learnt = await self.learn(context, lesson)
            names = probe_plan.names(uses)
            notes = [*learnt.notes, zipping.sentence(names, learnt.before, learnt.after)]
            order = replace(order, columns=learnt.path)
        elif request.base:
            if request.method == "orthogonal":
                inputs = wire.MeasureInputs(loras=[use.lora for use in uses], base=request.base)
                found = await self._probing.measure(context, inputs)
                order = replace(order, inputs=found.path, order=found.order)
            if await asyncio.to_thread(_depends, paths):
                order = replace(order, base=(await self._library.base(request.base)).path)
        with self._jobs.open("merge", request.name) as job:
            made = await engine_process.ask("lora_daemon.engine.merge", order, Merged, "The merge")
            base = {one.base for one in self._library.loras() if Path(typed(one.path)) in paths}
            lora = await self._library.enter(
                request.name, out, base.pop() if len(base) == 1 else "", by=context.by
            )
            self._jobs.end(job, "done", " ".join(made.notes))
        return wire.LoraMerged(lora=lora, error=made.error, notes=[*notes, *made.notes])

    def _place(self, name: str) -> Path:
        """Where a file of this name goes. Raises LoraError: BAD_REQUEST, ALREADY_EXISTS."""
        if not name.strip() or not name.isprintable() or set(name) & set("/\\:") or name[0] == ".":
            raise LoraError(
                Code.BAD_REQUEST,
                f"{name!r} cannot be a file's name: leave out / \\ : and a first dot.",
            )
        out = self._made / f"{name}.safetensors"
        if out.exists() or any(one.name == name for one in self._library.loras()):
            raise LoraError(Code.ALREADY_EXISTS, f"There is a LoRA {name} already.")
        return out

    async def _learnt(
        self, context: Context, order: pipe.Zip, uses: Sequence[LoraUse]
    ) -> list[str]:  # fmt: skip
        """Have the worker go on until all of a lesson is done. Raises LoraError."""
        title = f"columns of {', '.join(probe_plan.names(uses))}"
        with self._probing.opened(context, title, "merge", "learning columns") as (job, told):
            while True:
                part = replace(order, job=self._probing.name(job))
                done: pipe.Zipped = await self._orders.ask(part, UNFINISHED)
                told(done.done, done.total)
                if done.done == done.total:
                    self._probing.done(job)
                    return done.notes


def _told(out: Path, notes: list[str]) -> wire.ColumnsLearnt:
    """Raises LoraError: NOT_FOUND, INVALID_FILE."""
    said = read_header(out).metadata
    before, after = (msgspec.json.decode(said[name]) for name in ("before", "after"))
    return wire.ColumnsLearnt(
        path=to_text(out), before=before, after=after, overlap=float(said["overlap"]), notes=notes
    )


def _depends(paths: Sequence[Path]) -> bool:
    """Whether one of them is a DoRA."""
    return any(
        one.decomposed for path in paths for one in contents(path, read_header(path)).modules
    )


def _fit(paths: Sequence[Path]) -> list[str]:
    """What is to be known of these files. Raises LoraError(INVALID_FILE) for what cannot be scaled
    column by column into one file."""
    notes = []
    for path in paths:
        modules = contents(path, read_header(path)).modules
        for one in modules:
            if one.decomposed or "bias" in one.tensors:
                raise LoraError(
                    Code.INVALID_FILE,
                    f"{to_text(path)} {'is a DoRA' if one.decomposed else 'changes biases'} "
                    f"({one.name}): its columns cannot be scaled exactly. `lora-tui lora resize` "
                    "with --base makes plain pairs of a DoRA.",
                )
        if any(one.name.startswith(("lora_te", "text_encoder")) for one in modules):
            notes.append(
                f"{path.stem}: its text encoder part is added as it is; columns are learnt of the "
                "UNet's modules."
            )
    return notes


def _pictures(
    request: wire.LearnColumns, base: str, uses: Sequence[LoraUse], paths: Sequence[Path]
) -> list[tuple[int, PictureSpec]]:
    """Each LoRA's own prompts, in turn, each time another seed; one picture more than is learnt
    from. Raises LoraError(BAD_REQUEST) where nobody says what a LoRA shows."""
    found = []
    for lora, (use, path) in enumerate(zip(uses, paths, strict=True)):
        own = request.prompts[lora] if lora < len(request.prompts) else []
        own = own or lora_info.prompts(read_header(path).metadata, zipping.PICTURES)
        if not own:
            raise LoraError(
                Code.BAD_REQUEST,
                f"The file of {use.lora} does not say what it shows. Say it: --prompt "
                f"'{probe_plan.names([use])[0]}=…'.",
            )
        for number in range(zipping.PICTURES + 1):
            spec = PictureSpec(
                base=base, prompt=own[number % len(own)], sampler=probes.SAMPLER,
                steps=probes.STEPS, cfg=request.cfg, seed=request.seed + number,
            )  # fmt: skip
            found.append((lora, spec))
    return found
