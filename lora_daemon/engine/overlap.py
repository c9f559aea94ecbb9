"""How much two low-rank changes of one module have to do with each other, by Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.conflicts import Place

_RIDGES = (1e-9, 1e-7, 1e-5, 1e-3)  # relative, for rows of A that depend on one another


@dataclass(frozen=True)
class Share:
    """What one LoRA adds to a module: ``factor`` (weight and scale) times ``up`` · ``down``."""

    lora: int
    factor: float
    up: Tensor  # (out, r)
    down: Tensor  # (r, in · kernel)


@dataclass
class Sum:
    """Modules added up: ⟨ΔWᵢ, ΔWⱼ⟩, and what of i's energy answers to what j reads, (n, n) each."""

    inner: Tensor
    touched: Tensor
    met: int = 0

    def add(self, inner: Tensor, touched: Tensor, met: bool) -> None:
        self.inner += inner
        self.touched += touched
        self.met += met

    def place(self, **what: str) -> Place:
        energy = self.inner.diagonal().clamp_min(0)
        own = torch.where(energy > 0, energy, 1)[:, None]
        return Place(
            met=self.met, energy=energy.tolist(), overlap=(self.inner / own).tolist(),
            touched=(self.touched / own).tolist(), **what,
        )  # fmt: skip


def nothing(count: int) -> Sum:
    """The sum of no modules, for so many LoRAs."""
    zeros = torch.zeros(count, count, dtype=torch.float64)
    return Sum(zeros, zeros.clone())


def overlaps(shares: Sequence[Share], count: int) -> tuple[Tensor, Tensor]:
    """⟨ΔWᵢ, ΔWⱼ⟩ = tr(BᵢᵀBⱼ · AⱼAᵢᵀ), and ‖ΔWᵢ Pⱼ‖² less chance, where Pⱼ projects on the rows of
    Aⱼ. Both (count, count), float64, nought where a LoRA has no share.

    Of a random direction, Pⱼ keeps rank / width: from a share s of i's energy that becomes
    max(0, (s − chance) / (1 − chance)), nothing for one as good as random, all where all is kept.
    """  # fmt: skip
    inner, touched = (torch.zeros(count, count, dtype=torch.float64) for _ in range(2))
    down = torch.cat([share.down for share in shares])
    up = torch.cat([share.up for share in shares], dim=1)
    reads, writes = (down @ down.t()).double(), (up.t() @ up).double()
    spans, begin = [], 0
    for share in shares:
        spans.append(slice(begin, begin + len(share.down)))
        begin += len(share.down)
    for one, i in zip(shares, spans, strict=True):
        for other, j in zip(shares, spans, strict=True):
            product = (writes[i, j] * reads[i, j]).sum() * one.factor * other.factor
            inner[one.lora, other.lora] = product
    for other, j in zip(shares, spans, strict=True):
        chance = len(other.down) / down.shape[1]
        if len(shares) == 1 or not other.factor or chance >= 1:
            continue
        root = _root(reads[j, j])
        for one, i in zip(shares, spans, strict=True):
            energy = inner[one.lora, one.lora]
            if one is other or not energy > 0:
                continue
            seen = torch.linalg.solve_triangular(root, reads[j, i], upper=False)
            kept = (writes[i, i] * (seen.t() @ seen)).sum() * one.factor**2
            touched[one.lora, other.lora] = (kept - chance * energy).clamp_min(0) / (1 - chance)
    return inner, touched


def _root(gram: Tensor) -> Tensor:
    """A lower-triangular L with L Lᵀ = the Gram matrix, its ridge grown until there is one."""
    size = gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    root: Tensor
    for ridge in _RIDGES:
        shifted = gram + ridge * size * torch.eye(len(gram), dtype=gram.dtype)
        root, fault = torch.linalg.cholesky_ex(shifted)
        if not int(fault):
            break
    return root
