"""What one module of a LoRA file adds to a weight, in the cheapest exact form.

A LoRA is a low-rank pair; a LoCon with a middle matrix and a LoHa become one. A LoKr stays the
Kronecker product it is unless its pair is smaller. Only what is a full matrix is kept as one.
LoHa and LoKr: LyCORIS (Yeh et al., https://arxiv.org/abs/2309.14859).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.lora_keys import Kind

_FEW = 16  # up to this rank a LoKr is stacked as a pair; beyond, its two small products are cheaper


@dataclass(frozen=True)
class LowRank:
    """ΔW = up · down. ``down`` (rank, in, *kernel), ``up`` (out, rank)."""

    down: Tensor
    up: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of ΔW: (out, in, *kernel)."""
        return (self.up.shape[0], *self.down.shape[1:])

    def dense(self) -> Tensor:
        delta: Tensor = torch.tensordot(self.up, self.down, dims=1)
        return delta


@dataclass(frozen=True)
class Kronecker:
    """ΔW = left ⊗ right. ``left`` (p, q), ``right`` (b, d, *kernel): out = p·b, in = q·d."""

    left: Tensor
    right: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        (p, q), (b, d, *kernel) = self.left.shape, self.right.shape
        return (p * b, q * d, *kernel)

    def dense(self) -> Tensor:
        ones = (1,) * (self.right.dim() - 2)
        return torch.kron(self.left.reshape(*self.left.shape, *ones), self.right)


@dataclass(frozen=True)
class Dense:
    """ΔW itself, (out, in, *kernel)."""

    delta: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.delta.shape)

    def dense(self) -> Tensor:
        return self.delta


Part = LowRank | Kronecker | Dense


def part(kind: Kind, tensors: Mapping[str, Tensor]) -> Part:
    """The tensors of one module, by role, without its scale.

    Raises RuntimeError or ValueError where their shapes do not fit together.
    """
    match kind:
        case "lora":
            return _lora(tensors)
        case "loha":
            return _loha(tensors)
        case "lokr":
            return _lokr(tensors)
        case "full":
            return Dense(tensors["diff"])


def low_rank(one: Part) -> LowRank:
    """The same ΔW as a pair: exact, with the identity as one side where it is a full matrix."""
    match one:
        case LowRank():
            return one
        case Kronecker(left, right):
            flat = right.flatten(1)
            pair = _kronecker_pair(_shorter(left), _shorter(flat))
            return LowRank(_unflatten(pair.down, left.shape[1], right), pair.up)
        case Dense(delta):
            pair = _shorter(delta.flatten(1))
            return LowRank(pair.down.reshape(-1, *delta.shape[1:]), pair.up)


def _lora(tensors: Mapping[str, Tensor]) -> Part:
    down, up = tensors["down"], tensors["up"].flatten(1)
    if (middle := tensors.get("mid")) is not None:
        down = _folded(middle, down)
    return LowRank(down, up)


def _folded(middle: Tensor, down: Tensor) -> Tensor:
    """A 1 × 1 ``down`` (r, in) behind ``middle`` (r, r, *kernel) as one (r, in, *kernel)."""
    return torch.einsum("pq...,qi->pi...", middle, down.flatten(1))


def _loha(tensors: Mapping[str, Tensor]) -> Part:
    """ΔW = (A₁B₁) ⊙ (A₂B₂): rank r², by the row-wise Kronecker products of the factors."""
    sides = []
    for side in ("1", "2"):
        up, down = tensors[f"hada_w{side}_a"], tensors[f"hada_w{side}_b"]
        if (core := tensors.get(f"hada_t{side}")) is not None:
            up, down = up.t(), _folded(core, down)
        sides.append((up, down))
    (up_1, down_1), (up_2, down_2) = sides
    if _smaller(up_1.shape[1] * up_2.shape[1], len(up_1), math.prod(down_1.shape[1:])):
        up = torch.einsum("op,oq->opq", up_1, up_2).flatten(1)
        down = torch.einsum("p...,q...->pq...", down_1, down_2).flatten(0, 1)
        return LowRank(down, up)
    return Dense(torch.tensordot(up_1, down_1, dims=1) * torch.tensordot(up_2, down_2, dims=1))


def _lokr(tensors: Mapping[str, Tensor]) -> Part:
    """ΔW = C ⊗ D, each whole or a product of two factors."""
    if "lokr_w1" in tensors:
        left, outer = tensors["lokr_w1"], _shorter(tensors["lokr_w1"])
    else:
        outer = LowRank(tensors["lokr_w1_b"], tensors["lokr_w1_a"])
        left = outer.dense()
    if "lokr_w2" in tensors:
        right = tensors["lokr_w2"]
        inner = _shorter(right.flatten(1))
    else:
        up, down = tensors["lokr_w2_a"], tensors["lokr_w2_b"]
        if (core := tensors.get("lokr_t2")) is not None:
            up, down = up.t(), _folded(core, down)
        right = torch.tensordot(up, down, dims=1)
        inner = LowRank(down.flatten(1), up)
    rank = outer.up.shape[1] * inner.up.shape[1]
    if rank <= _FEW:
        pair = _kronecker_pair(outer, inner)
        return LowRank(_unflatten(pair.down, left.shape[1], right), pair.up)
    return Kronecker(left, right)


def _kronecker_pair(outer: LowRank, inner: LowRank) -> LowRank:
    """(A₁B₁) ⊗ (A₂B₂) = (A₁ ⊗ A₂)(B₁ ⊗ B₂)."""
    down = torch.kron(outer.down.contiguous(), inner.down.contiguous())
    return LowRank(down, torch.kron(outer.up.contiguous(), inner.up.contiguous()))


def _unflatten(down: Tensor, wide: int, right: Tensor) -> Tensor:
    """(rank, q·d·kernel) with the kernel innermost to (rank, q·d, *kernel)."""
    return down.reshape(len(down), wide * right.shape[1], *right.shape[2:])


def _shorter(matrix: Tensor) -> LowRank:
    """A whole matrix as a pair with the identity on its shorter side."""
    high, wide = matrix.shape
    if high <= wide:
        return LowRank(matrix, torch.eye(high, dtype=matrix.dtype))
    return LowRank(torch.eye(wide, dtype=matrix.dtype), matrix)


def _smaller(rank: int, high: int, wide: int) -> bool:
    """Whether a pair of this rank costs less than the matrix."""
    return rank * (high + wide) < high * wide


def fitted(one: Part, shape: torch.Size) -> Part:
    """The part in the form of its weight, (out, in, *kernel): files mix linear, 1 × 1 and flattened
    convolution forms. Raises ValueError or RuntimeError if it is of another size."""
    high, wide = shape[0], math.prod(shape[1:])
    if (one.shape[0], math.prod(one.shape[1:])) != (high, wide):
        raise ValueError(f"{one.shape} for {tuple(shape)}")
    match one:
        case LowRank(down, up):
            return LowRank(down.reshape(-1, *shape[1:]), up)
        case Kronecker(left, right):
            inner = shape[1] // left.shape[1]
            return Kronecker(left, right.reshape(len(right), inner, *shape[2:]))
        case Dense(delta):
            return Dense(delta.reshape(shape))


def kronecker(part: Kronecker, x: Tensor, through: Any, *, convolves: bool) -> Tensor:
    """(left ⊗ right) x by two products with the factors. ``through``: x and a matrix to what the
    module makes of them."""
    left = part.left
    if convolves:
        n, _, *size = x.shape
        inner = through(x.reshape(n * left.shape[1], -1, *size), part.right)
        mixed = torch.matmul(left, inner.reshape(n, left.shape[1], -1))
        return mixed.reshape(n, -1, *inner.shape[2:])
    inner = F.linear(x.reshape(*x.shape[:-1], left.shape[1], -1), part.right)
    return torch.matmul(left, inner).flatten(-2)
