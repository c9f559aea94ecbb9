"""peft's LoRA layer in fewer kernels: y = W x + b + s·B A x, and its gradients, as one operation.

peft's own forward makes a scaled copy and a sum as large as the layer's output, and autograd a node
for each piece. Here the pair is added into the output of W in place, and the gradients of A and B
straight into where they are kept. On a base in 16 bits A and B are kept in 32, and the products are
in 16, as under autocast; peft's own would make all that goes through a layer 32 bits wide first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


class _AdaptedLinear(torch.autograd.Function):
    """Rows (…, in) to rows (…, out). A is ``down`` (rank, in), B is ``up`` (out, rank)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor,
        scale: float,
    ) -> Tensor:  # fmt: skip
        rows = x.reshape(-1, x.shape[-1])
        ctx.kept, ctx.scale = (down, up), scale
        down, up = down.to(weight.dtype), up.to(weight.dtype)
        low = rows @ down.t()
        out = F.linear(rows, weight, bias).addmm_(low, up.t(), alpha=scale)
        ctx.save_for_backward(rows, low)
        ctx.weights = weight, down, up
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, low = ctx.saved_tensors
        weight, down, up = ctx.weights
        scale = ctx.scale
        shape = gradient.shape
        gradient = gradient.reshape(-1, shape[-1])
        low_gradient = gradient @ up
        _add_product(ctx.kept[1].grad, gradient.t(), low, scale)
        _add_product(ctx.kept[0].grad, low_gradient.t(), rows, scale)
        below = None
        if ctx.needs_input_grad[0]:
            below = (gradient @ weight).addmm_(low_gradient, down, alpha=scale)
            below = below.view(*shape[:-1], -1)
        return below, None, None, None, None, None


def _add_product(to: Tensor, one: Tensor, other: Tensor, scale: float) -> None:
    """``to`` += ``scale`` · ``one`` ``other``, which may be in 16 bits."""
    if to.dtype == one.dtype:
        to.addmm_(one, other, alpha=scale)
    else:
        to.add_(one @ other, alpha=scale)


def fuse(layer: Linear, adapter: str) -> None:
    """Let a peft layer compute its forward here, where both do the same.

    Needs ``.grad`` of the adapter's weights in place.
    """
    plain = layer.get_base_layer()
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    scale = layer.scaling[adapter]
    if plain.weight.dtype not in (down.dtype, *HALVES):
        return

    def forward(x: Tensor) -> Tensor:
        run: Any = _AdaptedLinear.apply
        out: Tensor = run(x, plain.weight, plain.bias, down, up, scale)
        return out

    layer.forward = forward


def in_16_bits(layer: Linear, adapter: str) -> None:
    """The same for a compiler to read, which fuses by itself: on a base in 16 bits alone."""
    plain = layer.get_base_layer()
    down, up = layer.lora_A[adapter], layer.lora_B[adapter]
    scale = layer.scaling[adapter]
    if plain.weight.dtype not in HALVES:
        return

    def forward(x: Tensor) -> Tensor:
        low = F.linear(x, down.weight.to(x.dtype))
        out: Tensor = plain(x) + scale * F.linear(low, up.weight.to(x.dtype))
        return out

    layer.forward = forward
