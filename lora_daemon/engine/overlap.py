"""How much two low-rank changes of one module have to do with each other, by Gram matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_daemon.engine.moments import CHANCE
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


def overlaps(
    shares: Sequence[Share], count: int, inputs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """⟨ΔWᵢ, ΔWⱼ⟩ = tr(BᵢᵀBⱼ · Aⱼ C Aᵢᵀ), and how much of ‖ΔWᵢ‖² = E‖ΔWᵢ x‖² follows (linearly)
    from Aⱼ x, less chance. Both (count, count), float64, nought where a LoRA has no share.

    ``inputs``: E[(Ax)(Ax)ᵀ] as ``engine.inputs`` measures it, of its random rows and then the
    shares' A in their order; without it C is the identity. Of a random direction j keeps the part
    that it keeps of the random rows, or rank / width: from a share s of i's energy that becomes
    max(0, (s − chance) / (1 − chance)), nothing for one as good as random, all where all is kept.
    """  # fmt: skip
    inner, touched = (torch.zeros(count, count, dtype=torch.float64) for _ in range(2))
    reads, writes = dict[tuple[int, int], Tensor](), dict[int, Tensor]()
    spans = [slice(b - len(one.down), b) for b, one in zip(_ends(shares), shares, strict=True)]
    for at, one in enumerate(shares):
        for to, other in enumerate(shares[at:], at):
            i, j = one.lora, other.lora
            if inputs is None:
                reads[i, j] = (one.down @ other.down.t()).double()
            else:
                reads[i, j] = inputs[spans[at], spans[to]]
            reads[j, i] = reads[i, j].t()
            both = (one.up.t() @ other.up).double()
            writes.setdefault(i, both)  # the first is with itself
            inner[i, j] = inner[j, i] = (both * reads[i, j]).sum() * one.factor * other.factor
    for to, other in enumerate(shares):
        j = other.lora
        if len(shares) == 1 or not other.factor:  # it reads nothing
            continue
        root = _root(reads[j, j])
        chance = len(other.down) / other.down.shape[1]
        if inputs is not None:
            seen = torch.linalg.solve_triangular(root, inputs[spans[to], :CHANCE], upper=False)
            chance = float(seen.square().sum() / inputs.diagonal()[:CHANCE].sum())
        if chance >= 1:  # it reads whatever there is
            continue
        for one in shares:
            i = one.lora
            if i == j or not inner[i, i] > 0:
                continue
            seen = torch.linalg.solve_triangular(root, reads[j, i], upper=False)
            kept = (writes[i] * (seen.t() @ seen)).sum() * one.factor**2
            touched[i, j] = (kept - chance * inner[i, i]).clamp_min(0) / (1 - chance)
    return inner, touched


def _ends(shares: Sequence[Share]) -> Iterator[int]:
    """Where each share's rows end among the measured ones."""
    end = CHANCE
    for one in shares:
        end += len(one.down)
        yield end


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
