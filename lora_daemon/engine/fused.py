"""peft's LoRA layer in fewer kernels: y = W x + b + s·B A x, and its gradients, as one operation.

peft's own forward makes a scaled copy and a sum as large as the layer's output, and autograd a node
for each piece. Here the pair is added into the output of W in place, and the gradients of A and B
straight into where they are kept. On a base in 16 bits A and B are kept in 32, and the products are
in 16, as under autocast; peft's own would make all that goes through a layer 32 bits wide first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn

HALVES = (torch.bfloat16, torch.float16)


class Halves:
    """All of an adapter's weights in 16 bits while it learns from a batch, and their gradient. One
    kernel makes the copy and one adds the gradient up, where each weight would take one of its own.

    ``vector``, ``gradient``: float32 (n,), what they are of.
    """

    def __init__(self, vector: Tensor, gradient: Tensor, dtype: torch.dtype) -> None:
        self._vector, self._gradient = vector, gradient
        self._copy = torch.empty_like(vector, dtype=dtype)
        self._of_copy = torch.zeros_like(self._copy)
        self._order: Tensor | None = None  # int32 (n,): of which number each of the copy is
        self.lent = False

    @property
    def bytes(self) -> int:
        every = (self._copy, self._of_copy, self._order)
        return sum(one.nbytes for one in every if one is not None)

    def like(self, weight: Tensor) -> Tensor:
        """A weight in the copy, (rows, columns), with its gradient. Rows that do not fill 16 bytes
        lie there as columns: no product is quick with them otherwise."""
        begin, (rows, columns) = weight.storage_offset(), weight.shape
        place = slice(begin, begin + weight.numel())
        turned = columns % 8 != 0

        def of(whole: Tensor) -> Tensor:
            return whole[place].view(columns, rows).t() if turned else whole[place].view_as(weight)

        if turned:
            if self._order is None:
                self._order = torch.arange(
                    len(self._vector), dtype=torch.int32, device=weight.device
                )
            own = self._order[place]
            own.copy_(own.view(rows, columns).t().flatten().clone())
        low = nn.Parameter(of(self._copy))
        low.grad = of(self._of_copy)
        return low

    @contextlib.contextmanager
    def lend(self) -> Iterator[None]:
        """Layers compute with the copy, made of the vector as it is now. At the end the vector's
        gradient is added to."""
        order = self._order
        self._copy.copy_(self._vector if order is None else self._vector.index_select(0, order))
        self.lent = True
        try:
            yield
        finally:
            self.lent = False
            if order is None:
                self._gradient.add_(self._of_copy)
            else:
                self._gradient.index_add_(0, order, self._of_copy.float())
            self._of_copy.zero_()


class _AdaptedLinear(torch.autograd.Function):
    """Rows (…, in) to rows (…, out). A is ``down`` (rank, in), B is ``up`` (out, rank)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor,
        scale: float,
    ) -> Tensor:  # fmt: skip
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ down.t()
        out = F.linear(rows, weight, bias).addmm_(low, up.t(), alpha=scale)
        ctx.save_for_backward(rows, low)
        ctx.weights, ctx.scale = (weight, down, up), scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, low = ctx.saved_tensors
        _, down, up = ctx.weights
        scale = ctx.scale
        shape = gradient.shape
        gradient = gradient.reshape(-1, shape[-1])
        low_gradient = gradient @ up
        up.grad.addmm_(gradient.t(), low, alpha=scale)
        down.grad.addmm_(low_gradient.t(), rows, alpha=scale)
        return _below(ctx, gradient, low_gradient, down, shape)


class _AdaptedHalves(torch.autograd.Function):
    """The same in 16 bits: A and B in those of the base, and where the gradients of each are kept,
    which may be in 32. What goes between A and B is (rank, rows), so that every product reads and
    writes whole rows of what is wide."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor,
        scale: float,
    ) -> Tensor:  # fmt: skip
        rows = x.reshape(-1, x.shape[-1])
        ctx.kept, ctx.scale = (down, up), scale
        down, up = down.to(weight.dtype), up.to(weight.dtype)
        low = down @ rows.t()
        out = F.linear(rows, weight, bias).addmm_(low.t(), up.t(), alpha=scale)
        ctx.save_for_backward(rows, low)
        ctx.weights = weight, down, up
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, low = ctx.saved_tensors
        _, down, up = ctx.weights
        scale = ctx.scale
        shape = gradient.shape
        gradient = gradient.reshape(-1, shape[-1])
        low_gradient = up.t() @ gradient.t()
        _add_product(ctx.kept[1].grad.t(), low, gradient, scale)
        _add_product(ctx.kept[0].grad, low_gradient, rows, scale)
        return _below(ctx, gradient, low_gradient.t(), down, shape)


def _below(
    ctx: Any, gradient: Tensor, low_gradient: Tensor, down: Tensor, shape: torch.Size
) -> tuple[Tensor | None, ...]:
    """The gradients of what ``forward`` was given: of x, where that is wanted, and no other.
    ``gradient``: (rows, out); ``low_gradient``: (rows, rank); ``shape``: of y."""
    below = None
    if ctx.needs_input_grad[0]:
        below = (gradient @ ctx.weights[0]).addmm_(low_gradient, down, alpha=ctx.scale)
        below = below.view(*shape[:-1], -1)
    return below, None, None, None, None, None


def _add_product(to: Tensor, one: Tensor, other: Tensor, scale: float) -> None:
    """``to`` += ``scale`` · ``one`` ``other``, which may be in 16 bits."""
    if to.dtype == one.dtype:
        to.addmm_(one, other, alpha=scale)
    else:
        to.add_(one @ other, alpha=scale)


def fuse(layer: Linear, adapter: str, halves: Halves | None) -> None:
    """Let a peft layer compute its forward here, where both do the same. ``halves``: of the
    adapter, on a base in 16 bits.

    Needs ``.grad`` of the adapter's weights in place.
    """
    plain = layer.get_base_layer()
    own = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    low, scale, dtype = own, layer.scaling[adapter], plain.weight.dtype
    run: Any = _AdaptedLinear.apply
    if halves and dtype in HALVES:
        run, low = _AdaptedHalves.apply, (halves.like(own[0]), halves.like(own[1]))
    elif dtype != own[0].dtype:
        return

    def forward(x: Tensor) -> Tensor:
        pair = low if halves and halves.lent else own
        out: Tensor = run(x, plain.weight, plain.bias, *pair, scale)
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
