"""Frozen convolutions whose backward is a forward: the gradient convolved with the weight turned
over. The same numbers to rounding.

Torch's own backward of a convolution over one small picture gathers its result in one thread.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers in a weight that is kept a second time. Larger ones belong to bases whose pictures are
# large enough for torch's good kernels.
LARGEST = 1 << 19


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Conv2d, turned: Tensor) -> Tensor:
        ctx.turned, ctx.padding = turned, layer.padding
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return F.conv2d(gradient, ctx.turned, padding=ctx.padding), None, None


class Turned:
    """A network's convolutions that go back this way, from now until ``remove``."""

    def __init__(self, network: nn.Module) -> None:
        self._layers = [
            one for one in network.modules() if isinstance(one, nn.Conv2d) and turns(one)
        ]
        for layer in self._layers:
            _attach(layer)

    def remove(self) -> None:
        for layer in self._layers:
            vars(layer).pop("forward", None)


def turns(layer: nn.Conv2d) -> bool:
    """Whether a convolution is one of these: frozen, of stride 1, its output as large as its input;
    and torch has threads to use for it."""
    high, wide = layer.kernel_size
    return (
        layer.weight.device.type == "cpu"
        and torch.get_num_threads() > 1
        and 1 < high == wide
        and high % 2 == 1
        and (layer.stride, layer.dilation, layer.groups) == ((1, 1), (1, 1), 1)
        and (layer.padding, layer.padding_mode) == ((high // 2, wide // 2), "zeros")
        and layer.weight.numel() <= LARGEST
        and not layer.weight.requires_grad
    )


def _attach(layer: nn.Conv2d) -> None:
    weight = layer.weight.detach().transpose(0, 1).flip(2, 3)
    turned = weight.contiguous(memory_format=torch.channels_last)
    apply: Any = _Convolution.apply

    def forward(x: Tensor) -> Tensor:
        out: Tensor = apply(x, layer, turned)
        return out

    layer.forward = forward  # type: ignore[method-assign, assignment]
