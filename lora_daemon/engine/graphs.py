"""Work that is done again and again, recorded as one CUDA graph.

A step at batch 1 is some thousand short kernels, and a processor takes longer to start each than a
GPU to run it. Recorded, they are started at once. They are the very kernels that would run anyway,
so a run may be recorded or not, and its resume states know nothing of it. A graph keeps the memory
of what it does for itself, so it is made where there is plenty.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lora_daemon.engine.device import convolutions, poisoned

# Runs what it is given some times, records it, and returns what replays it; the tensors that it
# gives are then the same each time. None where it cannot be recorded.
Record = Callable[[Callable[[], tuple[Tensor, Tensor]]], Callable[[], tuple[Tensor, Tensor]] | None]
WARM_UP = 2
SPARE = 2 * 2**30  # bytes that are left to pictures and measurements beside the run


def recorder(device: torch.device, *, search: bool = True) -> Record | None:
    """What records on a device; None where nothing is to be: on a CPU, or where
    LORA_TUI_CUDA_GRAPHS is 0. ``search``: for the quickest of several ways to compute a
    convolution, which takes seconds and is worth it for what is done thousands of times."""
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
            with convolutions("benchmark") if search else contextlib.nullcontext():
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
    print(f"No CUDA graph: {why}.", file=sys.stderr, flush=True)
