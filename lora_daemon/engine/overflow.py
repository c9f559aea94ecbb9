"""A picture that came out as NaN: the LoRA that is the likely cause, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lora_daemon.engine import lora_file
from lora_daemon.engine.bases import Base
from lora_daemon.pipe import LoraFile
from shared.errors import Code, LoraError
from shared.filenames import typed


@contextlib.contextmanager
def named(base: Base, uses: Sequence[LoraFile]) -> Iterator[None]:
    """Where a picture that is painted inside comes out as NaN, these LoRAs are looked into."""
    try:
        yield
    except LoraError as error:
        if error.code is not Code.DIVERGED:
            raise
        message = f"{error.message} {_likely(base, uses)}"
        raise LoraError(error.code, message, data=error.data) from None


def _likely(base: Base, uses: Sequence[LoraFile]) -> str:
    """Which of the LoRAs adds most to a weight of the base, by Frobenius norms at their weights."""
    found = [(*_most(base, use), use) for use in uses if use.weight or use.text_weight]
    if not found:
        if base.dtype == torch.float16:
            return (
                "No LoRA has a weight here: the base itself overflows in fp16. "
                "`CUDA_VISIBLE_DEVICES= lora-tui daemon restart` paints on the CPU in fp32, slowly."
            )
        return "No LoRA has a weight here: the file of the base may be damaged. Fetch it again."
    most, path, use = max(found, key=lambda one: one[0])
    of = f"Of {len(found)} LoRAs " if len(found) > 1 else ""
    return (
        f"{of}{use.name} at weight {use.weight:g} is the likely cause: to {path} it adds "
        f"{most:.3g} times what the base has there. Lower its weight, or leave it out."
    )


def _most(base: Base, use: LoraFile) -> tuple[float, str]:
    """What a LoRA adds at most to a module, as a part of its weight, and to which."""
    text = use.text_weight
    if text is None:
        text = use.weight if use.region is None else 0.0
    most = (0.0, "")
    for one in lora_file.load(Path(typed(use.path)), base).modules:
        weight = text if one.network.startswith("text") else use.weight
        own = getattr(base, one.network).get_submodule(one.path).weight
        added = abs(weight) * one.scale * float(one.part.dense().double().norm())
        most = max(most, (added / float(own.double().norm()), f"{one.network}.{one.path}"))
    return most
