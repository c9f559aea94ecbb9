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

    def add(self, other: Sum) -> None:
        self.inner += other.inner
        self.touched += other.touched
        self.met += other.met

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
    reads, writes = dict[tuple[int, int], Tensor](), dict[int, Tensor]()
    for at, one in enumerate(shares):
        for other in shares[at:]:
            i, j = one.lora, other.lora
            reads[i, j] = (one.down @ other.down.t()).double()
            reads[j, i] = reads[i, j].t()
            both = (one.up.t() @ other.up).double()
            writes.setdefault(i, both)  # the first is with itself
            inner[i, j] = inner[j, i] = (both * reads[i, j]).sum() * one.factor * other.factor
    for other in shares:
        j = other.lora
        chance = len(other.down) / other.down.shape[1]
        if len(shares) == 1 or not other.factor or chance >= 1:  # it reads nothing, or whatever
            continue
        root = _root(reads[j, j])
        for one in shares:
            i = one.lora
            if i == j or not inner[i, i] > 0:
                continue
            seen = torch.linalg.solve_triangular(root, reads[j, i], upper=False)
            kept = (writes[i] * (seen.t() @ seen)).sum() * one.factor**2
            touched[i, j] = (kept - chance * inner[i, i]).clamp_min(0) / (1 - chance)
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
