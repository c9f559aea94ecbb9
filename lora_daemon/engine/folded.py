"""What is stacked on a denoiser folded into its weights: W + Σ wᵢ·sᵢ·BᵢAᵢ, worked out anew from the
clean W whenever a weight changes, and never subtracted.

Folded, a step costs what it costs without LoRAs; each change of weight costs a product for each
layer. In 16 bits a small ΔW would be lost in the rounding of W + ΔW, so there it is not done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor, nn

from lora_daemon.engine.parts import Part

_SHARE = 0.5  # of the free memory, at most, for the second weights


class Stacked(Protocol):
    """What ``mix.Site`` says of a module: see there."""

    target: nn.Module
    down: Tensor | None
    up: Tensor | None
    others: list[Part]
    rows: Tensor | None
    shifts: Tensor | None
    v: Tensor
    active: bool


class Folds:
    """Second weights for the modules of ``sites``; their own are put aside, not touched."""

    def __init__(self, sites: Sequence[Stacked]) -> None:
        self._folds = [_Fold(site) for site in sites]
        self.stale = True  # a weight has changed since they were worked out
        self.on = False

    def put(self) -> None:
        """Let the modules compute with what is stacked on them at its present weights."""
        if self.stale or not self.on:
            self.on = True
            for fold in self._folds:
                fold.put()
            self.stale = False

    def take_off(self) -> None:
        """Let them compute with their own weights, the very tensors, again."""
        if self.on:
            for fold in self._folds:
                fold.take_off()
            self.on = False


class _Fold:
    def __init__(self, site: Stacked) -> None:
        self._site = site
        own: Any = site.target.weight
        bias: Any = site.target.bias
        self._weight, self._bias = own, bias
        self._folded = nn.Parameter(torch.empty_like(own), requires_grad=False)
        self._shifted = None
        if site.shifts is not None:
            self._shifted = nn.Parameter(torch.empty_like(site.shifts[0]), requires_grad=False)
        # As the weight lies in memory, so that a product goes straight into it.
        self._lies = _flat(own)
        self._down = None if site.down is None else _flat(site.down, like=own).contiguous()

    @torch.no_grad()
    def put(self) -> None:
        site, target = self._site, self._site.target
        if not site.active:
            self.take_off()
            return
        pairs = 0 if site.up is None else site.up.shape[1]
        clean, folded = _flat(self._weight.data), _flat(self._folded.data, like=self._weight)
        if site.up is None or self._down is None:
            folded.copy_(clean)
        else:
            torch.addmm(clean, site.up * site.v[:pairs], self._down, out=folded)
        at = pairs
        for part in site.others:
            delta = part.dense().reshape(self._weight.shape)
            self._folded.data.add_(delta * site.v[at])
            at += 1
        if site.rows is not None:  # of the clean weight: its bias has no part in it
            share = site.v[at : at + len(site.rows)] @ site.rows
            folded.addcmul_(share[:, None], clean)
            at += len(site.rows)
        if site.shifts is not None and self._shifted is not None:
            own = 0 if self._bias is None else self._bias.data
            self._shifted.data.copy_(site.v[at:] @ site.shifts + own)
            target.bias = self._shifted
        target.weight = self._folded

    def take_off(self) -> None:
        self._site.target.weight, self._site.target.bias = self._weight, self._bias


def _flat(weight: Tensor, like: Tensor | None = None) -> Tensor:
    """A view (rows, the rest), the rest in the order in which ``like`` lies in memory."""
    if weight.dim() == 4 and (weight if like is None else like).is_contiguous(
        memory_format=torch.channels_last
    ):
        return weight.permute(0, 2, 3, 1).flatten(1)
    return weight.flatten(1)


def fit(sites: Sequence[Stacked]) -> bool:
    """Whether there is room for second weights, in the precision in which nothing is lost."""
    weights: list[Any] = [site.target.weight for site in sites]
    if not weights or any(one.dtype is not torch.float32 for one in weights):
        return False
    size = sum(one.numel() * one.element_size() for one in weights)
    device = weights[0].device
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    return bool(size < _SHARE * free)
