"""LoRAs tried on a base: what is left of each in the mix, and what its modules are given.

A probe is many short orders to the worker, one a picture and step, so that a training run and other
people's pictures take their turn between them; each answers inner products, which add up here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from lora_daemon import base_look, embeddings, input_cache, pipe, probe_plan
from lora_daemon.company import Company, Seen
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.orders import Orders
from lora_daemon.probe_plan import Row, Trial
from lora_daemon.service import Context, Daemon
from shared import blocks, company, probes, remedies, wire
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.pictures import LoraUse, PictureSpec
from shared.recipe_families import FLOWS

MOST = 8  # LoRAs probed at once
UNFINISHED = "The probe was not finished."


class Probing:
    """Answers ProbeLoras and MeasureInputs."""

    def __init__(self, daemon: Daemon, library: Library, jobs: Jobs, orders: Orders) -> None:
        self._cache = daemon.workspace.cache
        self._embeddings = daemon.workspace.embeddings
        self._library = library
        self._jobs = jobs
        self._orders = orders
        self._numbers = itertools.count(1)
        self._at_work = 0
        self.settled: Callable[[], None] = lambda: None  # called after each request

    @property
    def busy(self) -> bool:
        return bool(self._at_work)

    # ── requests ────────────────────────────────────────────────────────────────────────────────

    async def probe(self, context: Context, request: wire.ProbeLoras) -> wire.LorasProbed:
        """Raises LoraError: NOT_FOUND (base, LoRA), INVALID_FILE, BAD_REQUEST, OUT_OF_MEMORY,
        WORKER_FAILED, STORAGE."""
        count = len(request.loras)
        if not 2 <= count <= MOST:
            raise LoraError(Code.BAD_REQUEST, f"Probing takes 2 to {MOST} LoRAs, not {count}.")
        base = await self.base(request.base)
        uses, paths = self.resolved(request.loras)
        instead, others = self.resolved(request.instead)
        config = await asyncio.to_thread(base_look.unet_config, Path(typed(base.path)))
        prompts = request.prompts or await asyncio.to_thread(probe_plan.prompts, paths)
        trial = Trial(
            base, probe_plan.specs(request, base.name, prompts), probe_plan.files(uses, paths)
        )
        names = probe_plan.names(uses)
        rows, parts = await asyncio.to_thread(
            probe_plan.rows, uses, paths, config, blocks=request.blocks, without=request.remedies
        )
        mix, together = count, rows[count]
        last = len(rows)
        if instead:
            rows.append(trial.placed(instead, others))
        total = len(trial.moments) * (1 + request.remedies) + request.losses * (
            count + 2 + request.remedies * remedies.most(count)
        )
        with self._opened(context, f"probe of {', '.join(names)}", total) as (job, advance):
            try:
                await self._inputs(job, base, paths, trial.specs, trial.notes)
            except LoraError as error:
                if error.code is not Code.BAD_REQUEST:  # nothing but DoRAs: those can be probed
                    raise
            samples = await self._sampled(job, trial, rows, advance)
            samples = [probes.added(one, mix, range(mix + 1, last)) for one in samples]
            survived = probes.survival(samples, mix, count)
            losses, said = list[float | None](), ""
            if request.losses:
                specs = probe_plan.specs(request, base.name, prompts, request.losses)
                seen = self._seen(job, trial, await self.named(specs), advance)
                own = Company(together, specs, seen)
                losses = await own.losses()
                said = f" {company.sentence(names, losses)}"
            judged = any(one is not None for one in losses)
            found = list[probes.Remedy]()
            if request.remedies and (judged or probes.loss(survived) >= remedies.WORTH):
                ideas = remedies.ideas(
                    samples, trial.at, uses, mix, range(last - count, last), parts, config,
                    cfg=request.cfg, plain=judged,
                )  # fmt: skip
                settings: list[Row] = [dict(enumerate(idea.loras)) for idea in ideas]
                measured = await self._sampled(job, trial, [*rows[:count], *settings], advance)
                if judged:
                    kept = [await own.kept(one) for one in settings]
                    found = remedies.recognised(ideas, measured, kept, losses)
                else:
                    found = remedies.chosen(ideas, measured, survived)
            bands = probes.bands(samples, trial.at, mix, count)
            places = probes.places(samples, parts, count)
            layers = int(config["layers_per_block"])
            stages = {one.block: blocks.stage(one.block, layers) for one in places}
            told = probes.Probe(
                base=base.name, loras=names, weights=[use.weight for use in uses],
                prompts=list(prompts), samples=len(samples),
                sentence=probes.sentence(base.name, names, survived, bands, places, stages) + said,
                energy=[probes.energy(samples, row) for row in range(count)], survival=survived,
                bands=bands, blocks=places,
                instead=probes.survival(samples, len(rows) - 1, count) if instead else [],
                remedies=found, notes=list(trial.notes), losses=losses, seen=request.losses,
            )  # fmt: skip
            self._jobs.end(job, "done", told.sentence)
        return wire.LorasProbed(found=told)

    async def measure(
        self, context: Context, request: wire.MeasureInputs
    ) -> wire.InputsMeasured:  # fmt: skip
        """Raises LoraError as ``probe``."""
        base = await self.base(request.base)
        uses, paths = self.resolved([LoraUse(lora=name) for name in request.loras])
        if not uses:
            raise LoraError(Code.BAD_REQUEST, "Nothing is measured without a LoRA.")
        prompts = request.prompts or await asyncio.to_thread(probe_plan.prompts, paths)
        ask = wire.ProbeLoras(loras=uses, base=base.name)
        notes = dict[str, None]()
        with self._opened(context, f"inputs of {base.name}", 1) as (job, advance):
            path, order = await self._inputs(
                job, base, paths, probe_plan.specs(ask, base.name, prompts), notes
            )
            advance()
            self._jobs.end(job, "done")
        return wire.InputsMeasured(path=to_text(path), order=order, notes=list(notes))

    @contextmanager
    def _opened(
        self, context: Context, title: str, total: int
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        """A job, and what to call when one more of ``total`` is done."""
        done = 0
        with self.opened(context, title, "probe", "probing", total) as (job, told):

            def advance() -> None:
                nonlocal done
                done += 1
                told(done, total)

            yield job, advance

    @contextmanager
    def opened(
        self, context: Context, title: str, kind: wire.JobKind, doing: str, total: int = 0
    ) -> Iterator[tuple[str, Callable[[int, int], None]]]:
        """A job that keeps the worker, and whom to tell how much of it is done, and of how much."""
        self._at_work += 1
        try:
            with self._jobs.open(kind, title, total) as job:

                def told(done: int, of: int) -> None:
                    self._jobs.progress(job, done, of)
                    context.progress(done, of, doing)

                yield job, told
        finally:
            self._at_work -= 1
            self.settled()

    def done(self, job: str, message: str = "") -> None:
        """A job that was opened here is done."""
        self._jobs.end(job, "done", message)

    async def base(self, name: str) -> wire.BaseModel:
        """Raises LoraError: NOT_FOUND, BAD_REQUEST for a FLUX: what its blocks do is asked by block
        of a UNet here, and its LoRAs join layers that it has apart."""
        base = await self._library.base(name)
        if base.family in FLOWS:
            raise LoraError(
                Code.BAD_REQUEST,
                f"{base.name} is a {wire.FAMILIES[base.family]}, and probing is made for the UNets "
                "of Stable Diffusion. Paint with the LoRAs, or compare their files without a base.",
            )
        return base

    # ── orders ──────────────────────────────────────────────────────────────────────────────────

    async def _inputs(
        self, job: str, base: wire.BaseModel, paths: Sequence[Path], specs: list[PictureSpec],
        notes: dict[str, None],
    ) -> tuple[Path, list[int]]:  # fmt: skip
        """See that the base's inputs are measured with these LoRAs. Raises LoraError."""
        path, distinct, order = await asyncio.to_thread(input_cache.place, self._cache, base, paths)
        if not path.exists():
            gather = pipe.Gather(
                job=self.name(job), specs=specs, base_path=base.path,
                loras=[to_text(one) for one in distinct], out=to_text(path),
                base_predicts=base.objective, embeddings=await self.named(specs),
            )  # fmt: skip
            told: pipe.Gathered = await self._orders.ask(gather, UNFINISHED)
            await asyncio.to_thread(input_cache.prune, self._cache)
            if told.left_out:
                notes[f"{len(told.left_out)} modules are too wide to be measured."] = None
        return path, order

    async def _sampled(
        self, job: str, trial: Trial, rows: Sequence[Row], advance: Callable[[], None]
    ) -> list[probes.Products]:
        """The rows' inner products at each moment."""
        known = await self.named(trial.specs)
        found = list[probes.Products]()
        for spec, step in trial.moments:
            order = pipe.Probe(
                job=self.name(job), spec=spec, step=step, base_path=trial.base.path,
                loras=trial.files, rows=[trial.row(row, step) for row in rows],
                base_predicts=trial.base.objective, embeddings=known,
            )  # fmt: skip
            told: pipe.Probed = await self._orders.ask(order, UNFINISHED)
            trial.notes |= dict.fromkeys(told.notes)
            found.append(told.products)
            advance()
        return found

    def _seen(
        self, job: str, trial: Trial, known: list[tuple[str, str]], advance: Callable[[], None]
    ) -> Seen:  # fmt: skip
        """Has the worker paint and look. ``known``: textual inversions that prompts name."""

        async def seen(spec: PictureSpec, painted: Row, rows: list[Row]) -> list[float]:
            order = pipe.Recognise(
                job=self.name(job), spec=spec, base_path=trial.base.path, loras=trial.files,
                painted=trial.setting(painted), rows=[trial.setting(row) for row in rows],
                base_predicts=trial.base.objective, embeddings=known,
            )  # fmt: skip
            told: pipe.Recognised = await self._orders.ask(order, UNFINISHED)
            trial.notes |= dict.fromkeys(told.notes)
            advance()
            return told.errors

        return seen

    async def named(self, specs: Sequence[PictureSpec]) -> list[tuple[str, str]]:
        """Textual inversions that prompts name, and their files. Raises LoraError(INVALID_FILE)."""
        found = dict[str, str]()
        for spec in specs:
            found |= await asyncio.to_thread(
                embeddings.named, self._embeddings, spec.prompt, spec.negative
            )
        return list(found.items())

    def name(self, job: str) -> str:
        """An order's own id: one that is cancelled must not be taken for the next."""
        return f"{job}.{next(self._numbers)}"

    def resolved(self, wanted: Sequence[LoraUse]) -> tuple[list[LoraUse], list[Path]]:
        """The uses by the library's names, and their files."""
        found = [self._library.lora(use.lora) for use in wanted]
        uses = [replace(use, lora=name) for use, (name, _) in zip(wanted, found, strict=True)]
        return uses, [path for _, path in found]
