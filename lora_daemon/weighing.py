"""The weight that a LoRA is recommended at: asked of the worker picture by picture, kept in the
library's row."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from lora_daemon import painting, pipe
from lora_daemon.library import Library
from lora_daemon.measurements import leak, without
from lora_daemon.orders import Orders
from lora_daemon.probing import Probing
from lora_daemon.service import Context, Daemon
from shared import lora_info, wire
from shared import weighing as rule
from shared.errors import Code, LoraError
from shared.pictures import LoraUse, PictureSpec
from shared.safetensors_file import read_header

UNFINISHED = "The LoRA was not weighed."


class Weighing:
    """Answers WeighLora."""

    def __init__(self, daemon: Daemon, library: Library, probing: Probing, orders: Orders) -> None:
        self._cache = daemon.workspace.cache
        self._library = library
        self._probing = probing
        self._orders = orders

    async def weigh(self, context: Context, request: wire.WeighLora) -> wire.LoraWeighed:
        """Raises LoraError: NOT_FOUND (base, LoRA), INVALID_FILE, BAD_REQUEST, OUT_OF_MEMORY,
        WORKER_FAILED, DIVERGED."""
        name, path = self._library.lora(request.lora)
        row = self._library.known(name, path)
        wanted = request.base or (row.base if row else "")
        if not wanted:
            raise LoraError(
                Code.BAD_REQUEST, f"Nobody says which base {name} was trained on: say one (--base)."
            )
        weights = sorted(set(request.weights or rule.WEIGHTS))
        if not all(0 < weight <= 4 for weight in weights):
            raise LoraError(Code.BAD_REQUEST, "Weights to try are between 0 and 4, such as 0.8.")
        base = await self._probing.base(wanted)
        prompts = request.prompts or await asyncio.to_thread(_own, path)
        if not prompts:
            raise LoraError(
                Code.BAD_REQUEST, f"The file of {name} does not say what it shows: --prompt TEXT."
            )
        specs = [
            PictureSpec(
                base=base.name, prompt=prompts[number % len(prompts)], sampler="DDIM",
                steps=rule.STEPS, cfg=rule.CFG, seed=request.seed + number,
            )
            for number in range(rule.PICTURES)
        ]  # fmt: skip
        trigger = (
            request.trigger
            or (row.trigger if row else "")
            or await asyncio.to_thread(lambda: lora_info.trigger(read_header(path).metadata))
        )
        spoken = [(without(one, trigger), one) for one in prompts if trigger]
        spoken = [pair for pair in spoken if pair[0] != pair[1]]
        total = (len(weights) + 1) * len(specs) + len(weights) + bool(spoken)
        with self._probing.opened(context, f"weights of {name}", "probe", "weighing", total) as (
            job, told,
        ):  # fmt: skip
            known = await self._probing.named(specs)
            done, found, drifts = 0, list[list[float]](), list[float]()
            for weight in (0.0, *weights):
                lora = painting.lora_file(LoraUse(lora=name, weight=weight), name, path)
                own = []
                for spec in specs:
                    order = pipe.Weigh(
                        job=self._probing.name(job), base_path=base.path, lora=lora, spec=spec,
                        base_predicts=base.objective, embeddings=known,
                    )  # fmt: skip
                    one: pipe.Weighed = await self._orders.ask(order, UNFINISHED)
                    own.append(one.effect)
                    done += 1
                    told(done, total)
                found.append(own)
                if weight:
                    drifts.append(await self._drift(job, base, lora, request.seed))
                    done += 1
                    told(done, total)
            plain, *effects = found
            pairs = list(zip(weights, effects, strict=True))
            advised = rule.advised(base.name, prompts, plain, pairs, drifts)
            advised = replace(advised, at=time.time())
            if spoken:
                lora = painting.lora_file(LoraUse(lora=name, weight=advised.weight), name, path)
                rows = await self._measured(job, base, lora, request.seed, "leak", captions=spoken)
                advised = replace(advised, trigger=trigger, leak=leak(rows))
                told(total, total)
            self._probing.done(job, advised.reason)
        now = self._library.known(name, path)
        if now is not None:
            self._library.change_lora(replace(now, advised=advised))
        return wire.LoraWeighed(lora=name, advised=advised, kept=now is not None)

    async def _drift(
        self, job: str, base: wire.BaseModel, lora: pipe.LoraFile, seed: int
    ) -> float:  # fmt: skip
        """‖Δε‖ / ‖ε‖ on prompts that have nothing to do with the LoRA."""
        rows = await self._measured(job, base, lora, seed, "drift", texts=list(rule.UNRELATED))
        return statistics.fmean(one for row in rows for one in row)

    async def _measured(
        self, job: str, base: wire.BaseModel, lora: pipe.LoraFile, seed: int,
        what: Literal["drift", "leak"], *, texts: list[str] | None = None,
        captions: list[tuple[str, str]] | None = None,
    ) -> list[list[float]]:  # fmt: skip
        """A row of each text or caption."""
        order = pipe.Measure(
            job=self._probing.name(job), what=what, base_path=base.path,
            base_predicts=base.objective, loras=[lora], cache_dir=str(self._cache),
            resolution=base.resolution, seed=seed, timesteps=(0, 1000), texts=texts or [],
            captions=captions or [],
        )  # fmt: skip
        told: pipe.Measured = await self._orders.ask(order, UNFINISHED)
        return told.rows


def _own(path: Path) -> list[str]:
    return lora_info.prompts(read_header(path).metadata, rule.PICTURES)
