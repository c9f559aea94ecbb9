"""Low-rank algebra without ever forming ΔW, and what TIES and DARE do to ΔW itself. Float64.

A pair is (up, down): (out, r) and (r, in), with ΔW = up · down.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def concatenated(pairs: Sequence[Pair]) -> Pair:
    """The exact sum, rank Σr, or the matrix's smaller side where that is less."""
    up = torch.cat([up for up, _ in pairs], dim=1)
    down = torch.cat([down for _, down in pairs])
    if up.shape[1] > len(up) <= down.shape[1]:
        return torch.eye(len(up), dtype=up.dtype), up @ down
    if up.shape[1] > down.shape[1]:
        return up @ down, torch.eye(down.shape[1], dtype=up.dtype)
    return up, down


def beside(one: Pair, others: Pair, reads: Tensor, own: Tensor) -> Pair:
    """ΔW₁ without what it makes, of the inputs that ΔW₂ reads, of the outputs that ΔW₂ writes:
    ΔW₁' = ΔW₁ − QQᵀ ΔW₁ P, exactly, of rank r₁ + r₂.

    Q: an orthonormal basis of B₂'s columns; P = C A₂ᵀ (A₂ C A₂ᵀ)⁻¹ A₂, so that A₁P is what least
    squares predicts of A₁x from A₂x, with C = E[x xᵀ]. ``reads``: A₁ C A₂ᵀ; ``own``: A₂ C A₂ᵀ. Then
    tr(ΔW₁' C ΔW₂ᵀ) = 0, whatever A₂ and B₂ are made into within their spaces, and of all changes
    with that property this one has the least E‖(ΔW₁' − ΔW₁) x‖². (The residual of a regression,
    Frisch & Waugh 1933, on one side and a projection on the other; orthogonal subspaces for LoRAs
    as in Po et al., https://arxiv.org/abs/2312.02432, with the data's metric in place of random
    bases.)
    """  # fmt: skip
    up, down = one
    ridge = 1e-9 * own.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    known = torch.linalg.solve(own + ridge * torch.eye(len(own), dtype=own.dtype), reads.t()).t()
    basis, values, _ = torch.linalg.svd(others[0], full_matrices=False)
    basis = basis[:, values > values[0] * 1e-9]
    return torch.cat([up, -basis @ (basis.t() @ up) @ known], dim=1), torch.cat([down, others[1]])


def norm(pair: Pair) -> float:
    """‖ΔW‖ (Frobenius)."""
    up, down = pair
    return float((torch.linalg.qr(up).R @ torch.linalg.qr(down.t()).R.t()).norm())


def singular_values(pair: Pair) -> Tensor:
    """Of ΔW, the largest first, (min(r, out, in),): those of the small product of the factors' two
    triangles (QR), as orthonormal columns change none."""
    up, down = pair
    left, right = torch.linalg.qr(up, mode="r").R, torch.linalg.qr(down.t(), mode="r").R
    values: Tensor = torch.linalg.svdvals(left @ right.t())
    return values


def difference(one: Pair, other: Pair) -> float:
    """‖ΔW − ΔW'‖ (Frobenius), exact to rounding."""
    return norm((torch.cat([one[0], -other[0]], dim=1), torch.cat([one[1], other[1]])))


def truncated(pair: Pair, rank: int, error: float) -> Pair:
    """The best approximation (Eckart & Young) of at most ``rank`` (0: no limit) whose relative
    error is at most ``error`` where the rank allows it. At least rank 1."""
    up, down = pair
    left, right = torch.linalg.qr(up), torch.linalg.qr(down.t())
    u, s, v = torch.linalg.svd(left.R @ right.R.t(), full_matrices=False)
    kept = _enough(s, rank, error)
    root = s[:kept].sqrt()
    return (left.Q @ u[:, :kept]) * root, (right.Q @ v[:kept].t() * root).t()


def factored(delta: Tensor, rank: int, error: float, draw: torch.Generator) -> Pair:
    """A matrix (out, in) as a pair, like ``truncated``. Where its rank is far above ``rank``, by
    random projection with four power iterations (Halko et al., https://arxiv.org/abs/0909.4061)."""
    wide = 2 * rank + 8
    if not rank or wide * 4 > min(delta.shape):
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        kept = _enough(s, rank, error)
        root = s[:kept].sqrt()
        return u[:, :kept] * root, root[:, None] * v[:kept]
    seen = delta @ torch.randn(delta.shape[1], wide, generator=draw, dtype=delta.dtype)
    for _ in range(4):
        seen = delta @ (delta.t() @ torch.linalg.qr(seen).Q)
    basis = torch.linalg.qr(seen).Q
    return truncated((basis, basis.t() @ delta), rank, error)


def ties(deltas: Sequence[Tensor], density: float) -> Tensor:
    """TIES (Yadav et al., https://arxiv.org/abs/2306.01708): of each delta the largest ``density``
    stay, each entry's sign is elected by the sum, and those that agree are averaged.

    ``deltas`` are weighted already. One alone is only trimmed.
    """
    kept = []
    for delta in deltas:
        size = delta.abs()
        small = delta.numel() - max(1, round(density * delta.numel()))
        least = size.flatten().kthvalue(small).values if small else -1.0
        kept.append(torch.where(size > least, delta, 0.0))
    stacked = torch.stack(kept)
    elected = stacked.sum(0).sign()
    agreeing = (stacked.sign() == elected) & (stacked != 0)
    return (stacked * agreeing).sum(0) / agreeing.sum(0).clamp_min(1)


def dare(deltas: Sequence[Tensor], density: float, draw: torch.Generator) -> Tensor:
    """DARE (Yu et al., https://arxiv.org/abs/2311.03099): of each delta a random ``density`` stays,
    scaled up so that its mean is kept; then the sum."""
    total = torch.zeros_like(deltas[0])
    for delta in deltas:
        stays = torch.rand(delta.shape, generator=draw, dtype=delta.dtype) < density
        total += delta * stays / density
    return total


def _enough(s: Tensor, rank: int, error: float) -> int:
    """How many singular values to keep."""
    kept = min(rank or len(s), len(s))
    if error:
        left_out = s.square().flip(0).cumsum(0).flip(0)  # at i: what is lost when i are kept
        within = (left_out <= error**2 * left_out[0]).nonzero()
        kept = min(kept, int(within[0]) if len(within) else len(s))
    elif not rank:
        kept = int((s > s[0] * torch.finfo(s.dtype).eps * len(s)).sum()) if len(s) else 0
    return max(1, kept)
