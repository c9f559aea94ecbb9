"""Where a step's time goes: kernels, launches, and the part that no trainer can leave out."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from bench.gpu import inputs
from bench.gpu.job import device_of
from bench.steps import Alone
from lora_daemon.engine import bases, compiled, quick
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache
from lora_daemon.engine.feed import Feed, choose
from lora_daemon.engine.optimizers import optimizer_for
from lora_daemon.engine.train import train
from lora_daemon.pipe import Freeze
from shared.recipe import Recipe

PICTURES = 12
WARM_UP = 5
LARGEST = 25
MANNERS = ("torch", "launched", "recorded", "whole")


class Row(NamedTuple):
    """A kernel, or what torch calls it on a CPU: ms, and how often, a step."""

    name: str
    spent: float
    times: float


class Between(Alone):
    """Steps of which the first ones, in which kernels are chosen and graphs recorded, are before
    ``begin``, and the others between it and ``end``."""

    def __init__(self, steps: int, begin: Callable[[], None], end: Callable[[], None]) -> None:
        super().__init__(WARM_UP + steps)
        self._begin, self._end = begin, end

    def steps(self) -> Iterator[int]:
        for step in super().steps():
            if step == WARM_UP:
                self._begin()
            yield step
        self._end()


class Prepared:
    """All that ``train`` takes, of a run of a few pictures."""

    def __init__(self, options: Namespace, *, compiling: bool) -> None:
        self.device = device_of(options)
        frozen = inputs.pictures(options.work, PICTURES, inputs.SIDE[options.shape])
        self.recipe: Recipe = inputs.recipe(
            "lesson", options.shape, f"training.batch_size={options.batch}",
            f"training.compile={str(compiling).lower()}", *options.set,
        )  # fmt: skip
        path = options.work / f"base-{options.shape}"
        self.base: Base = bases.load(path, self.device, quantize=self.recipe.base.quantize)
        freeze = Freeze(
            run="bench", name="bench", base="bench", base_path=str(path), dataset="bench",
            pictures=frozen, skipped=[], queued_at=0.0,
        )  # fmt: skip
        folder = options.work / "profile"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        cache = LatentsCache(folder / "cache", self.base, inputs.SIDE[options.shape])
        _, moments = choose(self.recipe.dataset, freeze, cache, folder, lambda *_: None)
        captions = [picture.caption for picture in frozen]
        self.feed = Feed(self.recipe, self.base, moments, captions)
        self.adapter = Adapter(self.base, self.recipe.network, self.recipe.training.seed)
        self.optimizer = optimizer_for(self.adapter, self.recipe.optimizer)
        self.learner: Base | None = None
        began = time.perf_counter()
        if compiling:
            self.learner = compiled.learner(
                self.recipe, self.base, self.adapter, self.feed, lambda *_: None, sys.exit
            )
        self.compiling = time.perf_counter() - began

    def steps(self, count: int, begin: Callable[[], None], end: Callable[[], None]) -> None:
        session: Any = Between(count, begin, end)
        train(
            self.recipe, self.base, self.adapter, self.optimizer, self.feed, session, None,
            self.learner,
        )  # fmt: skip

    def timed(self, count: int) -> dict[str, float]:
        """ms a step: by the clock, until all was given to the device, and of processors."""
        began: list[float] = []
        found: dict[str, float] = {}

        def begin() -> None:
            self.wait()
            began.extend((time.perf_counter(), time.process_time()))

        def end() -> None:
            found["ms_until_queued"] = time.perf_counter() - began[0]
            self.wait()
            found["ms_a_step"] = time.perf_counter() - began[0]
            found["ms_of_processors"] = time.process_time() - began[1]

        self.steps(count, begin, end)
        return {name: round(1000 * seconds / count, 3) for name, seconds in found.items()}

    def kernels(self, count: int) -> tuple[list[Row], Any]:
        """Of some steps, the largest first; and all that the profiler saw."""
        on_gpu = self.device.type == "cuda"
        found: Any = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu)

        def begin() -> None:
            self.wait()
            found.start()

        def end() -> None:
            self.wait()
            found.stop()

        self.steps(count, begin, end)
        every = found.key_averages()
        rows = [
            Row(
                one.key,
                float(one.self_device_time_total if on_gpu else one.self_cpu_time_total)
                / count / 1000,
                one.count / count,
            )
            for one in every
            if on_gpu == (str(one.device_type) != "DeviceType.CPU")
            and not one.key.startswith("Optimizer.")  # a mark around kernels
        ]  # fmt: skip
        return sorted(rows, key=lambda row: -row.spent), every

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def profiled(options: Namespace) -> dict[str, Any]:
    """Some steps of the product's loop: by the clock, then by kernel."""
    own = Prepared(options, compiling=options.compile)
    count = options.steps or 20
    took = own.timed(count)
    began = time.perf_counter()
    for step in range(count):
        for _ in own.feed.batches(step):
            pass
    own.wait()
    feeding = time.perf_counter() - began

    rows, every = own.kernels(count)
    total = sum(row.spent for row in rows)
    calls = {one.key: one.count / count for one in every if one.key.startswith("cuda")}
    return {
        "device": str(own.device), "shape": options.shape, "batch": options.batch,
        "compile": options.compile, "compiling_s": round(own.compiling, 1), "steps": count,
        **took,
        "ms_of_feeding": round(1000 * feeding / count, 3),
        "ms_of_kernels": round(total, 3),
        "share_of_kernels": round(total / took["ms_a_step"], 3),
        "kernels_a_step": round(sum(row.times for row in rows), 1),
        "cuda_calls_a_step": {
            key: round(number, 1)
            for key, number in sorted(calls.items(), key=lambda one: -one[1])[:8]
        },
        "largest": [
            f"{row.spent:8.3f} ms {row.times:7.1f} × {row.name[:100]}" for row in rows[:LARGEST]
        ],
    }  # fmt: skip


def manners(options: Namespace) -> dict[str, Any]:
    """Steps in several manners, each told as it is done: recorded as a CUDA graph, with torch's
    kernels alone; launched kernel by kernel, with ours; recorded; and recorded with the whole
    denoiser compiled. ``ready_s``: what compiling, choosing kernels and recording took."""
    count = options.steps or 20
    found: dict[str, Any] = {"shape": options.shape, "batch": options.batch}
    quicken = quick.quicken
    for name in options.manner or MANNERS:
        os.environ["LORA_TUI_CUDA_GRAPHS"] = str(int(name != "launched"))
        quick.quicken = quicken if name != "torch" else lambda network: None
        own = Prepared(options, compiling=name == "whole")
        compiled.without_limits()
        began = time.perf_counter()
        own.steps(1, own.wait, own.wait)
        ready = own.compiling + time.perf_counter() - began
        took = own.timed(count)
        rows, _ = own.kernels(max(1, count // 4))
        found[name] = {
            "ready_s": round(ready, 1), **took,
            "ms_of_kernels": round(sum(row.spent for row in rows), 3),
            "kernels_a_step": round(sum(row.times for row in rows), 1),
        }  # fmt: skip
        found["device"] = str(own.device)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def floor(options: Namespace) -> dict[str, Any]:
    """The bare frozen denoiser, forward and back to its input, in several manners, beside our loop
    as ``options`` ask for it."""
    own = Prepared(options, compiling=options.compile)
    count = options.steps or 20
    found: dict[str, Any] = {
        "device": str(own.device), "shape": options.shape, "batch": options.batch,
        "compile": options.compile,
    }  # fmt: skip
    found["ours_ms"] = own.timed(count)["ms_a_step"]
    own.adapter.remove()
    batch = next(iter(own.feed.batches(0)))
    noisy = batch.latents.clone().requires_grad_()
    dtype = own.base.dtype

    def bare(network: Any) -> Callable[[], None]:
        seen = noisy.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        seen.requires_grad_()
        target = batch.noise.to(dtype)

        def once() -> None:
            predicted = network(
                seen, batch.timesteps, encoder_hidden_states=batch.text, return_dict=False
            )[0]
            F.mse_loss(predicted, target).backward()  # type: ignore[no-untyped-call]

        return once

    arms = {"eager": bare(own.base.denoiser)}
    if options.compile:
        arms["compiled"] = bare(torch.compile(own.base.denoiser, dynamic=False))
    if own.base.takes_views:
        raise SystemExit("floor: not of SDXL, whose denoiser is told more.")
    for name, once in arms.items():
        for _ in range(3):
            once()
        found[f"{name}_ms"] = _timed(own, lambda once=once: [once() for _ in range(count)]) / count  # type: ignore[misc]
        if own.device.type == "cuda":
            try:
                found[f"{name}_graph_ms"] = _timed(own, _recorded(once, count)) / count
            except RuntimeError as error:
                found[f"{name}_graph_ms"] = str(error)[:200]
    return found


def _recorded(once: Callable[[], None], count: int) -> Callable[[], None]:
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()

    def again() -> None:
        for _ in range(count):
            graph.replay()

    return again


def _timed(own: Prepared, act: Callable[[], object], turns: int = 3) -> float:
    """ms, the median of some turns."""
    took = []
    for _ in range(turns):
        own.wait()
        began = time.perf_counter()
        act()
        own.wait()
        took.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(took), 3)
