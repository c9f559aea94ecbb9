"""LoRA files live on a base: Y = (W + Σ wᵢ·sᵢ·BᵢAᵢ) X, exactly, with nothing fused.

All LoRAs on one module are stacked into one low-rank pair, so that N of them cost one extra product
each way. The pair is a forward hook: taking it off leaves the base bit for bit as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_daemon.engine.bases import Base


@dataclass(frozen=True)
class Placed:
    """One module of a LoRA file, placed on a base.

    ``down`` (rank, in …), ``up`` (out, rank …), float32 on the CPU; ``scale`` is alpha / rank.
    """

    network: str  # "unet" or "text_encoder"
    path: str
    down: Tensor
    up: Tensor
    scale: float


@contextlib.contextmanager
def applied(base: Base, loras: Sequence[tuple[Sequence[Placed], float]]) -> Iterator[None]:
    """The base with these LoRAs at these weights, for as long as the context lasts.

    A weight of 0 is the same as leaving the LoRA out.
    """
    stacks: dict[tuple[str, str], list[tuple[Placed, float]]] = {}
    for modules, weight in loras:
        for module in modules if weight else ():
            stacks.setdefault((module.network, module.path), []).append((module, weight))
    hooks = []
    try:
        for (network, path), members in stacks.items():
            target = getattr(base, network).get_submodule(path)
            hooks.append(target.register_forward_hook(_hook(target, members)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(target: nn.Module, members: list[tuple[Placed, float]]) -> Any:
    """The forward hook that adds the stacked pair's output to the target's own."""
    weight = target.weight
    assert isinstance(weight, Tensor)
    down = torch.cat([member.down for member, _ in members]).to(weight.device, weight.dtype)
    up = torch.cat([m.up * (m.scale * factor) for m, factor in members], dim=1)
    up = up.to(weight.device, weight.dtype)

    if isinstance(target, nn.Conv2d):
        stride, padding, dilation = target.stride, target.padding, target.dilation

        def add_convolved(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            low = F.conv2d(inputs[0], down, None, stride, padding, dilation)
            return output + F.conv2d(low, up)

        return add_convolved

    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(inputs[0], down), up)

    return add
