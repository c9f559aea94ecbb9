"""A process that trains a run together with the worker: ``python -m lora_daemon.engine.peer``.

It is told its place on stdin, does its parts of each step, and ends when stdin closes.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import msgspec
import torch

from lora_daemon.engine import bases, compiled
from lora_daemon.engine import device as devices
from lora_daemon.engine.bases import checkpointed
from lora_daemon.engine.cache import LatentsCache
from lora_daemon.engine.feed import choose
from lora_daemon.engine.run import adapter_for, as_trained, fed, read
from lora_daemon.engine.together import Place, joined
from lora_daemon.engine.train import follow
from shared.errors import LoraError


def main() -> None:
    place = msgspec.json.decode(sys.stdin.buffer.readline(), type=Place)
    threading.Thread(target=_end_with_leader, name="leader", daemon=True).start()
    devices.use_threads()
    devices.settle()
    device = bases.best_device()
    if device.type == "cuda":
        device = torch.device("cuda", 0 if place.order.devices else place.rank)
        torch.cuda.set_device(device)
    try:
        follow_leader(place, device)
    except LoraError as error:
        print(error.message, file=sys.stderr, flush=True)
        sys.exit(1)


def follow_leader(place: Place, device: torch.device) -> None:
    """Train with a leader to the end of its run. Raises LoraError."""
    order, run_dir = place.order, Path(place.order.run_dir)
    recipe, freeze = read(run_dir)
    parts = recipe.training.num_processes
    with joined(parts, place.rank, place.world, place.meeting) as together:
        # The leader is past caching: every picture is chosen, and its latents are on the disk.
        base = bases.load(
            Path(freeze.base_path), device, recipe.training.precision, freeze.base_predicts,
            recipe.base.quantize,
        )  # fmt: skip
        resolution = recipe.dataset.resolution or base.resolution
        mirrored = recipe.dataset.flip
        cache = LatentsCache(Path(order.cache_dir), base, resolution, mirrored=mirrored)
        choice, moments = choose(recipe.dataset, freeze, cache, run_dir, lambda *_: None)
        base = as_trained(recipe, base)
        feed = fed(recipe, base, freeze, choice, moments, run_dir)
        adapter = adapter_for(base, recipe)
        with checkpointed(base, recipe.training.checkpointing):
            learner = compiled.learner(recipe, base, adapter, feed, lambda *_: None, print)
            follow(recipe, base, adapter, feed, together, learner)


def _end_with_leader() -> None:
    """The leader is gone, or is done: what the run needs to go on is not here."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
