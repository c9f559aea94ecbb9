"""Frozen weights in 8 bits: codes in float8_e4m3fn or int8, and a scale for each output channel.

A module keeps its class and its ``weight``, which only stands for the 16 or 32 bits: linear layers
and convolutions make them of the codes when they compute, and once more when they go back. Autograd
keeps neither, where it would hold on to every layer's at once. Symmetric, absmax of each channel
(https://arxiv.org/abs/2208.07339, 2.1; e4m3: https://arxiv.org/abs/2209.05433). What is multiplied
stays in 16 or 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
import torch.nn.grad
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

NONE = "none"
_KINDS = {"fp8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}  # and the largest
_LEAST = 1e-12  # a channel of zeros has a scale, too


class Weight8(Tensor):
    """A weight (out, in, *kernel) that is read, never written: writing raises TypeError. To others
    it is of the ``dtype`` it was made of. ``codes``: 8 bits each, of its shape; ``scale``: float32
    (out, 1, *1)."""

    codes: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Weight8:
        make: Any = Tensor._make_wrapper_subclass
        self: Weight8 = make(
            cls, codes.shape, strides=codes.stride(), dtype=dtype, device=codes.device
        )
        self.codes, self.scale = codes, scale
        return self

    @classmethod
    def of(cls, weight: Tensor, kind: str) -> Weight8:
        """``kind``: fp8 or int8."""
        stored, largest = _KINDS[kind]
        numbers = weight.detach().float()
        scale = numbers.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
        scale = scale.clamp_min_(_LEAST).div_(largest)
        codes = numbers / scale
        if not stored.is_floating_point:
            codes.round_()
        return cls(codes.to(stored), scale, weight.dtype)

    def on(self, device: torch.device) -> Weight8:
        """The same there; convolutions in channels_last, as all networks here."""
        codes = self.codes.to(device)
        if codes.dim() == 4:
            codes = codes.contiguous(memory_format=torch.channels_last)
        return Weight8(codes, self.scale.to(device), self.dtype)

    def dense(self) -> Tensor:
        """What it stands for, made anew."""
        return self.codes.to(self.dtype).mul_(self.scale)

    @property
    def size_in_memory(self) -> int:
        """Bytes."""
        return self.codes.nbytes + self.scale.nbytes

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        if func is F.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():  # what comes of it is a plain tensor
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        if func is torch.ops.aten.detach.default:
            own = args[0]
            return Weight8(own.codes, own.scale, own.dtype)
        if func._schema.is_mutable:
            raise TypeError(f"{func} would write into a weight of 8 bits")
        args, kwargs = tree_map_only(Weight8, Weight8.dense, (args, kwargs or {}))
        return func(*args, **kwargs)


class _Linear(torch.autograd.Function):
    """Rows (…, in) to rows (…, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight8, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight.dense(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient @ ctx.weight.dense(), None, None


class _Conv2d(torch.autograd.Function):
    """(n, in, h, w) to (n, out, h', w'). ``how``: stride, padding, dilation, groups."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight8, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.weight, ctx.shape, ctx.how = weight, x.shape, how
        return F.conv2d(x, weight.dense(), bias, *how)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_input: Any = torch.nn.grad.conv2d_input
        below = to_input(ctx.shape, ctx.weight.dense(), gradient, *ctx.how)
        return below, None, None, *(None for _ in ctx.how)


def _linear(x: Tensor, weight: Weight8, bias: Tensor | None = None) -> Tensor:
    out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def _conv2d(
    x: Tensor, weight: Weight8, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    out: Tensor = _Conv2d.apply(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-untyped-call]
    return out


def settle(network: nn.Module, kind: str, device: torch.device) -> None:
    """Bring a frozen network to a device, its blocks' linear layers and convolutions in 8 bits:
    never there in 16. ``kind``: none leaves all as it is."""
    found: list[tuple[Any, Weight8]] = []
    for module in _inner(network) if kind != NONE else ():
        found.append((module, Weight8.of(module.weight, kind).on(device)))
        module.weight = None
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module, weight in found:
        module.weight = nn.Parameter(weight, requires_grad=False)


def _inner(network: nn.Module) -> Iterator[Any]:
    """Linear layers and convolutions within a list of blocks. The first and the last layers and the
    embeddings of the timestep, in no such list, are few, and every error of theirs is in all."""
    seen: set[nn.Module] = set()
    for blocks in network.modules():
        if not isinstance(blocks, nn.ModuleList):
            continue
        for module in blocks.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module not in seen:
                seen.add(module)
                yield module


def bytes_of(weight: Tensor) -> int:
    """What a weight takes of the memory, in bytes."""
    return weight.size_in_memory if isinstance(weight, Weight8) else weight.nbytes
