"""Small LoRA layers folded into their weights: y = (W + s·BA) x, and all of a shape at once.

A small layer's two thin products, and the three of their gradients, cost more in calls than in
arithmetic. Here each forward of the network begins by adding every BA to its W, one batched product
for all layers of a shape, and what a layer then computes is one matrix. Backward gives the gradient
of that matrix, of which those of A and B are again one batched product for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor

from lora_daemon.engine.fused import fuse

# Up to so many numbers in W, its whole gradient is cheaper than the thin products.
LARGEST = 1 << 15


@dataclass(frozen=True)
class _Alike:
    """Layers of one shape, rank and scale. ``plain``: their W, (layers, out, in)."""

    plain: Tensor
    ups: list[Tensor]
    downs: list[Tensor]
    scale: float


class _Fold(torch.autograd.Function):
    """Layers to their W + s·BA, (layers, out, in). The gradients of A and B are added straight to
    where they are kept. The first argument only says that there are some."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, alike: _Alike) -> Tensor:
        up, down = torch.stack(alike.ups), torch.stack(alike.downs)
        ctx.save_for_backward(up, down)
        ctx.alike = alike
        return torch.baddbmm(alike.plain, up, down, alpha=alike.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        up, down = ctx.saved_tensors
        alike = ctx.alike
        for weights, product in (
            (alike.ups, torch.bmm(gradient, down.transpose(1, 2))),
            (alike.downs, torch.bmm(up.transpose(1, 2), gradient)),
        ):
            kept = [weight.grad for weight in weights]
            torch._foreach_add_(kept, product.unbind(), alpha=alike.scale)
        return None, None


class Folded:
    """The layers of a network that are folded in its forwards, from now until ``remove``. One that
    is called by itself computes its own, as ``fuse`` has it.

    Needs ``.grad`` of the adapter's weights in place.
    """

    def __init__(self, network: Any, layers: Sequence[Linear], adapter: str) -> None:
        together: dict[tuple[object, ...], list[Linear]] = {}
        for layer in layers:
            alike = (layer.get_base_layer().weight.shape, layer.r[adapter], layer.scaling[adapter])
            together.setdefault(alike, []).append(layer)
        self._groups = [
            (
                _Alike(
                    torch.stack([one.get_base_layer().weight for one in group]),
                    [one.lora_B[adapter].weight for one in group],
                    [one.lora_A[adapter].weight for one in group],
                    group[0].scaling[adapter],
                ),
                group,
            )
            for group in together.values()
        ]
        self._network = network
        self._now: dict[Linear, Tensor] = {}
        for layer in layers:
            self._attach(layer, adapter)
        self._hooks = (
            network.register_forward_pre_hook(self._fold),
            network.register_forward_hook(self._forget, always_call=True),
        )

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _attach(self, layer: Linear, adapter: str) -> None:
        fuse(layer, adapter)
        by_itself, bias = layer.forward, layer.get_base_layer().bias

        def forward(x: Tensor) -> Tensor:
            weight = self._now.get(layer)
            out: Tensor = by_itself(x) if weight is None else F.linear(x, weight, bias)
            return out

        layer.forward = forward

    def _fold(self, *_: object) -> None:
        apply: Any = _Fold.apply
        for alike, group in self._groups:
            self._now.update(zip(group, apply(alike.ups[0], alike).unbind(), strict=True))

    def _forget(self, *_: object) -> None:
        if not self._network.is_gradient_checkpointing:  # backward then computes forwards again
            self._now.clear()


def folds(layer: Linear, adapter: str) -> bool:
    """Whether a layer is one to fold: where calls are what costs, and nothing is rounded."""
    weight: Tensor = layer.get_base_layer().weight
    small = weight.device.type == "cpu" and weight.numel() <= LARGEST
    return small and weight.dtype == layer.lora_A[adapter].weight.dtype
