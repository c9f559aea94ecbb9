"""How much two low-rank changes of one module have to do with each other, by Gram matrices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_daemon.engine.moments import CHANCE
from shared.conflicts import Place

_RIDGES = (1e-9, 1e-7, 1e-5, 1e-3)  # relative, for rows of A that depend on one another


@dataclass(frozen=True)
class Stack:
    """What LoRAs add to modules of one shape, LoRA beside LoRA: each its ``factors`` (weight and
    scale) times its columns of ``up`` times its rows of ``down``.

    ``loras`` are their numbers, ``ranks`` how many columns and rows each has.
    """

    loras: Sequence[int]
    ranks: Sequence[int]
    factors: Tensor  # float64 (modules, LoRAs)
    up: Tensor  # (modules, out, Σr)
    down: Tensor  # (modules, Σr, in · kernel)

    def spans(self) -> list[slice]:
        """Each LoRA's columns and rows."""
        ends = itertools.accumulate(self.ranks)
        return [slice(end - rank, end) for rank, end in zip(self.ranks, ends, strict=True)]


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


def overlaps(stack: Stack, count: int, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """⟨ΔWᵢ, ΔWⱼ⟩ = tr(BᵢᵀBⱼ · Aⱼ C Aᵢᵀ), and how much of ‖ΔWᵢ‖² = E‖ΔWᵢ x‖² follows (linearly)
    from Aⱼ x, less chance. Both (modules, count, count), float64, nought where a LoRA has no share.

    ``inputs``: E[(Ax)(Ax)ᵀ] as ``engine.inputs`` measures it, (modules, n, n), of its random rows
    and then the stack's; without it C is the identity. Of a random direction j keeps the part
    that it keeps of the random rows, or rank / width: from a share s of i's energy that becomes
    max(0, (s − chance) / (1 − chance)), nothing for one as good as random, all where all is kept.
    """  # fmt: skip
    inner, touched = (
        torch.zeros(len(stack.up), count, count, dtype=torch.float64) for _ in range(2)
    )
    writes = torch.bmm(stack.up.transpose(1, 2), stack.up).double()
    if inputs is None:
        reads = torch.bmm(stack.down, stack.down.transpose(1, 2)).double()
    else:
        reads = inputs[:, CHANCE:, CHANCE:]
    spans = stack.spans()
    whose = torch.zeros(stack.down.shape[1], len(spans), dtype=torch.float64)
    for at, span in enumerate(spans):
        whose[span, at] = 1
    factors = stack.factors
    summed = ((writes * reads) @ whose).transpose(1, 2) @ whose
    products = summed * factors[:, :, None] * factors[:, None]
    places = torch.tensor(stack.loras)
    inner[:, places[:, None], places] = products
    energy = products.diagonal(dim1=1, dim2=2)
    if len(spans) == 1:
        return inner, touched
    for to, rows in enumerate(spans):
        root = _root(reads[:, rows, rows])
        if inputs is None:
            chance = torch.full((len(inner),), stack.ranks[to] / stack.down.shape[2]).double()
        else:
            seen = torch.linalg.solve_triangular(
                root, inputs[:, CHANCE:][:, rows, :CHANCE], upper=False
            )
            chance = seen.square().sum((1, 2)) / inputs.diagonal(dim1=1, dim2=2)[:, :CHANCE].sum(1)
        # One at weight 0 reads nothing; of one that reads whatever there is, nothing is told.
        counts = (factors[:, to] != 0) & (chance < 1)
        for at, own in enumerate(spans):
            if at == to:
                continue
            seen = torch.linalg.solve_triangular(root, reads[:, rows, own], upper=False)
            alike = (writes[:, own, own] * (seen.transpose(1, 2) @ seen)).sum((1, 2))
            kept = (alike * factors[:, at].square() - chance * energy[:, at]).clamp_min(0)
            told = torch.where(counts & (energy[:, at] > 0), kept / (1 - chance), 0.0)
            touched[:, stack.loras[at], stack.loras[to]] = told
    return inner, touched


def _root(grams: Tensor) -> Tensor:
    """Lower-triangular L with L Lᵀ = each of the Gram matrices, (n, r, r), its ridge grown until
    there is one."""
    sizes = grams.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    ones = torch.eye(grams.shape[1], dtype=grams.dtype)
    least, *rest = _RIDGES
    roots: Tensor
    roots, faults = torch.linalg.cholesky_ex(grams + least * sizes[:, None, None] * ones)
    for ridge in rest:
        if not bool((bad := faults != 0).any()):
            break
        shifted = grams[bad] + ridge * sizes[bad, None, None] * ones
        roots[bad], faults[bad] = torch.linalg.cholesky_ex(shifted)
    return roots
