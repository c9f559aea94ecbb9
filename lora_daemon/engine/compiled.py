"""The denoiser of a run compiled: fewer and larger kernels by ``torch.compile``, once a shape.

Compiled is what training calls, and nothing else: pictures and measurements beside a run have other
shapes, each of which would take its minutes. Shapes are static. Dynamic ones would make a kernel
depend on what was seen before it, and a run that goes on has seen less. No kernels are trusted
before their gradients are those of torch's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base, checkpointed
from lora_daemon.engine.device import out_of_memory
from lora_daemon.engine.feed import Batch, Feed
from shared.recipe import Recipe

BACKEND = "inductor"
# How far a module's gradient may be off, as a share of it, and as one of the largest module's.
APART = {torch.float32: (0.01, 1e-4)}
APART_ROUGH = (0.3, 0.02)  # in 16 bits
Look = Callable[[int, int], None]  # shapes compiled, and of how many; may raise to give up


@functools.cache
def hindrance(device: torch.device) -> str:
    """Why nothing can be compiled for a device, in words; empty if it can. Takes some seconds."""
    try:
        torch.compile(lambda x: x * 2 + 1, backend=BACKEND)(torch.ones(8, device=device))
    except Exception as error:  # a compiler, its headers, Triton, a disk: each fails in its way
        return f"nothing can be compiled here: {_reason(error)}"
    return ""


def without_limits() -> None:
    """Let dynamo compile all shapes that come. Beyond its limits it runs eagerly without a word."""
    limits = torch._dynamo.config
    limits.recompile_limit = limits.accumulated_recompile_limit = 4096


def learner(
    recipe: Recipe, base: Base, adapter: Adapter, feed: Feed, look: Look,
    warn: Callable[[str], None],
) -> Base | None:  # fmt: skip
    """The base as training is to call it, compiled for every shape of the run's batches, forward
    and back; None if the recipe does not ask for it, or if it cannot be had: ``warn`` is told why.

    Its layers stay those of ``base``. On a GPU the kernels of a step are started as one CUDA graph,
    compiled or not (``replayed``). Raises what ``look`` raises, and where memory is not enough.
    """
    if not recipe.training.compile:
        return None
    again, why = adapter.unfuse(base.family.denoiser), hindrance(base.device)
    if not why:
        without_limits()
        denoiser = torch.compile(base.denoiser, backend=BACKEND, dynamic=False)
        ready = replace(base, denoiser=denoiser)
        with checkpointed(base, recipe.training.checkpointing):
            why = _tried(base, ready, adapter, list(feed.examples()), look)
        if not why:
            return ready
    again()
    warn(f"training.compile: {why}. It is trained eagerly, which is the same, only slower.")
    return None


def _tried(
    base: Base, ready: Base, adapter: Adapter, examples: list[Batch], look: Look
) -> str:  # fmt: skip
    """Compile for each; why that is of no use, in words, or empty."""
    for number, batch in enumerate(examples):
        look(number, len(examples))
        expected = _gradient(base, adapter, batch)
        try:
            found = _gradient(ready, adapter, batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            if out_of_memory(first := _first(error)):
                raise first from None
            return f"torch could not compile the denoiser: {_reason(error)}"
        if wrong := _wrong(adapter, expected, found, base.dtype):
            return (
                f"the kernels that torch {torch.__version__} made for batches of "
                f"{tuple(batch.latents.shape)} are wrong ({wrong})"
            )
    look(len(examples), len(examples))
    return ""


def _gradient(base: Base, adapter: Adapter, batch: Batch) -> Tensor:
    """The adapter's for a batch, float32 (n,); nothing of it stays."""
    text = batch.text.detach().requires_grad_(batch.text.requires_grad)
    try:
        predicted = base.denoise(batch.latents, batch.timesteps, text, batch.views)
        loss = F.mse_loss(predicted, batch.noise) * base.loss_scale
        loss.backward()  # type: ignore[no-untyped-call]
        return adapter.gradient.clone()
    finally:
        adapter.gradient.zero_()


def _wrong(adapter: Adapter, expected: Tensor, found: Tensor, dtype: torch.dtype) -> str:
    """Which module's gradient is off by more than rounding, and by how much; empty if none is."""
    share, of_largest = APART.get(dtype, APART_ROUGH)

    def norms(vector: Tensor) -> list[float]:
        return [
            float(torch.cat([vector[_place(one)] for one in module.weights.values()]).norm())
            for module in adapter.modules
        ]

    whole, apart = norms(expected), norms(found - expected)
    least = of_largest * max(whole)
    for module, own, off in zip(adapter.modules, whole, apart, strict=True):
        if not off <= share * own + least:  # as well if it is NaN
            return f"the gradient of {module.path} is off by {off / max(own, 1e-30):.0%}"
    return ""


def _place(weight: Tensor) -> slice:
    """Where a weight lies in its adapter's vector."""
    return slice(weight.storage_offset(), weight.storage_offset() + weight.numel())


def _first(error: BaseException) -> BaseException:
    """What came of something else was raised for it."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = inner
    return error


def _reason(error: BaseException) -> str:
    """The first line that says something."""
    first = _first(error)
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    return (lines[0] if lines else type(first).__name__).rstrip(".:")
