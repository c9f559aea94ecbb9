"""What is done with a batch recorded as one CUDA graph, and replayed for the next of its shape.

A step at batch 1 is some thousand short kernels, and a processor takes longer to start each than a
GPU to run it. Recorded, they are started at once. They are the very kernels that would run anyway,
so a run may be recorded or not, and its resume states know nothing of it. A graph keeps the memory
of a step for itself, so it is made where there is plenty.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lora_daemon.engine.device import convolutions, poisoned
from lora_daemon.engine.feed import Batch

# Learns from a batch; gives its share of the step's loss, a scalar, and the plain error of each
# picture, (n,).
Learn = Callable[[Batch], tuple[Tensor, Tensor]]
# Runs what it is given some times, records it, and returns what replays it; the tensors that it
# gives are then the same each time. None where it cannot be recorded.
Record = Callable[[Callable[[], tuple[Tensor, Tensor]]], Callable[[], tuple[Tensor, Tensor]] | None]
MOST = 16  # shapes that are recorded; more of them are learnt from as they come
WARM_UP = 2
SPARE = 2 * 2**30  # bytes that are left to pictures and measurements beside the run
_TENSORS = ("latents", "noise", "mixed", "timesteps", "text", "views", "counts")


class Replayed:
    """``learn``, which adds to ``gradient`` in place and waits for nothing, recorded by batches'
    shapes."""

    def __init__(self, learn: Learn, gradient: Tensor, record: Record) -> None:
        self._learn, self._gradient, self._record = learn, gradient, record
        self._known: dict[Any, tuple[Batch, Callable[[], tuple[Tensor, Tensor]]]] = {}
        self._able = True

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As ``learn``. What it returns holds until the next call."""
        key = _shape(batch)
        if key not in self._known and not (self._able and self._recorded(key, batch)):
            return self._learn(batch)
        own, replay = self._known[key]
        for name in _TENSORS:
            if (there := getattr(own, name)) is not None:
                there.copy_(getattr(batch, name), non_blocking=True)
        return replay()

    def _recorded(self, key: Any, batch: Batch) -> bool:
        if len(self._known) >= MOST:
            return False
        tensors = {name: getattr(batch, name) for name in _TENSORS}
        own = replace(
            batch, **{name: one.clone() for name, one in tensors.items() if one is not None}
        )
        before = self._gradient.clone()
        try:
            replay = self._record(lambda: self._learn(own))
        finally:
            self._gradient.copy_(before)
        if replay is None:
            self._able = False
            return False
        self._known[key] = own, replay
        return True


def recorder(device: torch.device) -> Record | None:
    """What records on a device; None where nothing is to be: on a CPU, or where
    LORA_TUI_CUDA_GRAPHS is 0."""
    if device.type != "cuda" or os.environ.get("LORA_TUI_CUDA_GRAPHS") == "0":
        return None
    pool: Any = None

    def record(
        act: Callable[[], tuple[Tensor, Tensor]],
    ) -> Callable[[], tuple[Tensor, Tensor]] | None:
        nonlocal pool
        _run(device, act, WARM_UP - 1)
        if not _roomy(device):
            _say("the device has too little memory")
            return None
        graph = torch.cuda.CUDAGraph()
        try:
            # The quickest of several ways is worth looking for: it is done thousands of times.
            with convolutions("benchmark"):
                _run(device, act, 1)
                with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                    given = act()
        except RuntimeError as error:
            if poisoned(error):
                raise
            _say(str(error).strip().partition("\n")[0])
            return None
        pool = pool or graph.pool()

        def replay() -> tuple[Tensor, Tensor]:
            graph.replay()
            return given

        return replay

    return record


def _run(device: torch.device, act: Callable[[], object], times: int) -> None:
    """On a stream of its own, as it is recorded: what a library sets up at first is set up then."""
    side: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(times):
            act()
    torch.cuda.current_stream(device).wait_stream(side)


def _roomy(device: torch.device) -> bool:
    """Whether a graph may keep what a step takes, and there is as much again beside it."""
    allocated = torch.cuda.memory_allocated(device)
    step = torch.cuda.max_memory_allocated(device) - allocated  # at least: caching took its part
    free, whole = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - allocated
    number = torch.cuda.current_device() if device.index is None else device.index
    allowed = whole * torch.cuda.get_per_process_memory_fraction(number) - allocated
    return bool(min(free + cached, allowed) > 2 * step + SPARE)


def _say(why: str) -> None:
    """In the worker's log: it trains the same, only slower."""
    print(f"No CUDA graph of the steps: {why}.", file=sys.stderr, flush=True)


def _shape(batch: Batch) -> Any:
    """All that a recording depends on, but the numbers."""
    tensors = [getattr(batch, name) for name in _TENSORS]
    return batch.share, *(None if one is None else (one.shape, one.dtype) for one in tensors)
