"""The lesson's job from a process's start to the LoRA on the disk, and what a few steps take of the
memory beside what was foretold."""

from __future__ import annotations

import shutil
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from bench.gpu import inputs
from bench.gpu.watch import Watched, watched
from lora_daemon import pipe
from lora_daemon.engine import bases
from lora_daemon.engine.memory import Counted
from shared.recipe import total_steps

CONTEXT = 0.85  # GiB of a card that are not torch's to give
# By shape: the recipe whose memory is measured, and the GiB that it is for.
RECIPES = {"sd15": ("sd15-4gb", 4.0), "sdxl": ("sdxl-8gb", 8.0)}


def device_of(options: Namespace) -> torch.device:
    """Where bases are made: nothing else here touches the device in this process."""
    return torch.device(options.device or bases.best_device())


def prepare(options: Namespace) -> dict[str, Any]:
    """Make the base and the pictures."""
    began = time.monotonic()
    base = inputs.base(options.work, options.shape, device_of(options))
    middle = time.monotonic()
    inputs.pictures(options.work, options.pictures, inputs.SIDE[options.shape])
    return {
        "base": str(base), "base_s": round(middle - began, 1),
        "pictures_s": round(time.monotonic() - middle, 1),
    }  # fmt: skip


def job(options: Namespace) -> dict[str, Any]:
    """The lesson's recipe, all of it or some steps."""
    frozen = inputs.pictures(options.work, options.pictures, inputs.SIDE[options.shape])
    seen = 10 * len(frozen)
    whole = seen // options.batch  # steps in which as many pictures are seen
    steps = min(options.steps or whole, whole)
    own = inputs.recipe(
        "lesson", options.shape, f"training.batch_size={options.batch}",
        f"training.max_steps={steps}", "training.epochs=11",
        f"training.compile={str(options.compile).lower()}", "sample.prompts=[]", *options.set,
    )  # fmt: skip
    folder = _fresh(options.work / "job")
    order = inputs.run(
        folder / "run", options.work / f"base-{options.shape}", own, frozen, folder / "cache"
    )
    began = time.monotonic()
    with watched(cache=options.cache) as worker:
        worker.train(order)
        took = time.monotonic() - began
        found = _told(worker)
    speed = worker.speed()
    found |= {
        "shape": options.shape, "batch": options.batch, "steps": steps, "whole_job_steps": whole,
        "pictures": len(frozen), "compile": options.compile, "seconds": round(took, 2),
        "steps_per_second": round(speed, 3),
        "lora": [str(path) for path in (folder / "run" / "lora").glob("bench.safetensors")],
    }  # fmt: skip
    if steps < whole and speed:
        found["extrapolated_s"] = round(took + (whole - steps) / speed, 1)
    return found


def memory(options: Namespace) -> dict[str, Any]:
    """The recipe for a small card: caching, some steps, samples on the way, and some steps. Torch
    may reserve no more than such a card has for it, unless ``limit`` says how much."""
    name, card = RECIPES.get(options.shape, ("sd15-4gb", 4.0))
    frozen = inputs.pictures(options.work, 4, inputs.SIDE[options.shape])
    steps = options.steps or 10
    own = inputs.recipe(
        name, options.shape, f"training.max_steps={steps}", "training.epochs=1000",
        'sample.prompts=["cute dragon creature"]', f"sample.every_steps={max(1, steps // 2)}",
        "sample.steps=8", "sample.every_epochs=0", "schedule.warmup_steps=0", *options.set,
    )  # fmt: skip
    base = options.work / f"base-{options.shape}"
    folder = _fresh(options.work / "memory")
    order = inputs.run(folder / "run", base, own, frozen, folder / "cache")
    began = time.monotonic()
    limit = options.limit or card - CONTEXT
    with watched(limit, options.cache) as worker:
        worker.train(order)
        took = time.monotonic() - began
        found = _told(worker)
    need = Counted(base).need(own, own.training.precision, len(frozen))  # both say one
    most = max(worker.nvml.most.values(), default=found["own_most_mib"] * 2**20)
    found |= {
        "shape": options.shape, "recipe": name, "steps": steps, "seconds": round(took, 1),
        "limit_gib": limit, "card_gib": card,
        "total_steps_of_recipe": total_steps(own, len(frozen)),
        "counted_mib": {key: value // 2**20 for key, value in need._asdict().items()},
        "counted_most_mib": need.peak // 2**20, "measured_most_gib": round(most / 2**30, 3),
        "fits_card": most <= card * 2**30 if most else None,
        "samples": len(worker.of(pipe.SampleSaved)),
    }  # fmt: skip
    if most:
        found["measured_over_counted"] = round(most / need.peak, 3)
    return found


def _told(worker: Watched) -> dict[str, Any]:
    (_, ready) = worker.of(pipe.Ready)[0]
    return {
        "device": ready.device_name, "torch": ready.torch, "precision": ready.precision,
        "threads": ready.threads, "phases_s": worker.phases(), **worker.memory(),
        "notices": [one.message for _, one in worker.of(pipe.Notice)],
        "last_loss": next(
            (tick.points[-1].loss for _, tick in reversed(worker.of(pipe.Tick)) if tick.points),
            None,
        ),
    }  # fmt: skip


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
