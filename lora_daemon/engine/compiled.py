"""The denoiser of a run compiled: fewer and larger kernels by ``torch.compile``, once a shape.

Compiled is what training calls, and nothing else: pictures and measurements beside a run have other
shapes, each of which would take its minutes. Shapes are static. Dynamic ones would make a kernel
depend on what was seen before it, and a run that goes on has seen less.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch

from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base, checkpointed
from lora_daemon.engine.device import out_of_memory
from lora_daemon.engine.feed import Feed
from shared.errors import Code, LoraError
from shared.recipe import Recipe

BACKEND = "inductor"
Look = Callable[[int, int], None]  # shapes compiled, and of how many; may raise to give up


@functools.cache
def hindrance(device: torch.device) -> str:
    """Why nothing can be compiled for a device, in words; empty if it can. Takes some seconds."""
    try:
        torch.compile(lambda x: x * 2 + 1, backend=BACKEND)(torch.ones(8, device=device))
    except Exception as error:  # a compiler, its headers, Triton, a disk: each fails in its way
        return _reason(error)
    return ""


def learner(recipe: Recipe, base: Base, adapter: Adapter, feed: Feed, look: Look) -> Base | None:
    """The base as training is to call it, compiled for every shape of the run's batches, forward
    and back; None if the recipe does not ask for it or nothing can be compiled here.

    Its layers stay those of ``base``. On a GPU a forward is one CUDA graph, and its backward
    another. Raises LoraError(INVALID_RECIPE) where torch cannot compile it, and what ``look``
    raises.
    """
    if not recipe.training.compile or hindrance(base.device):
        return None
    # Beyond its limits dynamo runs eagerly without a word.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 4096
    mode = "reduce-overhead" if base.device.type == "cuda" else None
    adapter.unfuse(base.family.denoiser)
    denoiser = torch.compile(base.denoiser, backend=BACKEND, mode=mode, dynamic=False)
    ready = replace(base, denoiser=denoiser)
    examples = list(feed.examples())
    for number, batch in enumerate(examples):
        look(number, len(examples))
        try:
            with checkpointed(base, recipe.training.checkpointing):
                predicted = ready.denoise(batch.latents, batch.timesteps, batch.text, batch.views)
                (predicted.mean() * 0.0).backward()  # type: ignore[no-untyped-call]
        except torch._dynamo.exc.TorchDynamoException as error:
            raise _explained(error) from None
        finally:
            adapter.gradient.zero_()
    look(len(examples), len(examples))
    return ready


def _explained(error: Exception) -> BaseException:
    """In words for the user; memory that was not enough is no fault of the compiler's."""
    if out_of_memory(first := _first(error)):
        return first
    return LoraError(
        Code.INVALID_RECIPE,
        f"torch could not compile the denoiser: {_reason(error)}. Leave training.compile off: the "
        "same is trained without it, only slower.",
        data={"key": "training.compile"},
    )


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
