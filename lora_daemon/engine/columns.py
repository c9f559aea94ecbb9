"""Merger coefficients for LoRAs that are to be one file: one for each LoRA and column of a module.

ZipLoRA (Shah et al., https://arxiv.org/abs/2311.13600, eq. 3 to 5): ΔW = Σᵢ wᵢ ΔWᵢ diag(mᵢ), with m
such that on each LoRA's own prompts the mix predicts what that LoRA does alone, and that the LoRAs
read different columns:

    Σᵢ E‖ε̂(mix; xᵢ, pᵢ) − ε̂(LoRA i; xᵢ, pᵢ)‖² / E‖ε̂(LoRA i) − ε̂(base)‖²  +  λ mean |mᵢ ⊙ mⱼ|

The first terms are relative, so that a faint LoRA counts like a strong one, and λ means the same on
every base. They count by how far they move the picture, as a probe does (``engine.effects``). A
column is an input channel: of a convolution all its taps. No picture is needed: xᵢ are the latents
on LoRA i's own way to a picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_daemon.engine import randomness
from lora_daemon.engine.effects import Check
from lora_daemon.engine.mix import Mix, Site, Strength
from lora_daemon.engine.parts import low_rank


class Stacked:
    """One module under all its LoRAs, each a low-rank pair: ``down`` (Σr, in, *kernel), ``up``
    (out, Σr), ``factors`` (Σr,), weight and scale, and in ``which`` (Σr,) the LoRA of each row;
    ``there``: those that there are."""

    def __init__(self, site: Site) -> None:
        self.target = site.target
        downs, ups, factors, whose = [], [], [], list[int]()
        pairs = 0
        if site.down is not None and site.up is not None:
            pairs = len(site.down)
            downs.append(site.down)
            ups.append(site.up)
            factors.append(site.v[:pairs])
            whose += [lora for lora, _ in site.slots[:pairs]]
        for number, part in enumerate(site.others, pairs):
            pair = low_rank(part)
            downs.append(pair.down)
            ups.append(pair.up)
            factors.append(site.v[number].expand(len(pair.down)))
            whose += [site.slots[number][0]] * len(pair.down)
        self.down, self.up = torch.cat(downs), torch.cat(ups, dim=1)
        self.factors = torch.cat(factors)
        self.which = torch.tensor(whose, device=self.down.device)
        self.there = sorted(set(whose))

    def add(self, columns: Tensor, x: Tensor, output: Tensor) -> Tensor:
        """The module's ``output`` with Σᵢ wᵢ ΔWᵢ diag(mᵢ) x. ``columns``: m, (LoRAs, in)."""
        target, rows = self.target, columns[self.which].to(self.down)
        if isinstance(target, nn.Conv2d):
            down = self.down * rows[:, :, None, None]
            low = F.conv2d(x, down, None, target.stride, target.padding, target.dilation)
            return output + F.conv2d(low * self.factors[:, None, None], self.up[:, :, None, None])
        return output + F.linear(F.linear(x, self.down * rows) * self.factors, self.up)


@dataclass(frozen=True)
class Moment:
    """One step of a picture. ``weight``: what its squared error counts, so that the mean over the
    moments of a picture is relative to the LoRA's own effect on it."""

    seen: Tensor
    timestep: Tensor
    wanted: Tensor
    text: Tensor
    weight: float


Moments = list[list[Moment]]  # by LoRA


class Learner:
    """The coefficients on their way. ``vector``: all of them in a row; ``done``: steps."""

    def __init__(
        self, mix: Mix, strengths: Sequence[Strength], moments: Moments, rate: float,
        penalty: float, seed: int,
    ) -> None:  # fmt: skip
        self.base, self.count, self.done = mix.base, mix.count, 0
        mix.set(strengths)
        self.modules = {
            site.name: Stacked(site)
            for site in mix.sites
            if site.name.startswith("unet.") and (site.down is not None or site.others)
        }
        self._sizes = [self.count * one.down.shape[1] for one in self.modules.values()]
        self.vector = torch.ones(sum(self._sizes), device=self.base.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.vector], lr=rate)
        self._moments, self._penalty, self._seed = moments, penalty, seed

    def columns(self) -> dict[str, Tensor]:
        """m of each module, (LoRAs, in): views of the vector."""
        parts = torch.split(self.vector, self._sizes)
        return {
            name: part.view(self.count, -1) for name, part in zip(self.modules, parts, strict=True)
        }

    def step(self, check: Check) -> None:
        """One step of Adam, on one moment of each LoRA's and the whole of the overlap."""
        self.optimizer.zero_grad()
        scale = self.base.loss_scale
        for lora, moments in enumerate(self._moments):
            check()
            turn, at = divmod(self.done, len(moments))
            order = randomness.shuffled(len(moments), self._seed, turn, f"columns {lora}")
            moment = moments[order[at]]
            (self._error(moment) * (moment.weight * scale)).backward()  # type: ignore[no-untyped-call]
        (overlap(self.columns(), self.modules) * (self._penalty * scale)).backward()  # type: ignore[no-untyped-call]
        assert self.vector.grad is not None
        self.vector.grad /= scale
        self.optimizer.step()
        self.done += 1

    def _error(self, moment: Moment) -> Tensor:
        """‖ε̂(mix) − ε̂(LoRA i)‖²."""
        columns = self.columns()
        hooks = [
            one.target.register_forward_hook(_hook(one, columns[name]))
            for name, one in self.modules.items()
        ]
        try:
            found = self.base.denoise(moment.seen, moment.timestep, moment.text)
        finally:
            for hook in hooks:
                hook.remove()
        return (found - moment.wanted).square().sum()

    @torch.no_grad()
    def errors(self, kept_back: Moments, check: Check) -> list[float]:
        """Of each LoRA, on moments that are not learnt from: how far the mix is from what the LoRA
        does alone, as a share of that: 0 is all kept, 1 as far as if the LoRA were not there."""
        found = []
        for moments in kept_back:
            total = 0.0
            for moment in moments:
                check()
                total += moment.weight * float(self._error(moment))
            found.append((total / len(moments)) ** 0.5)
        return found


def overlap(columns: dict[str, Tensor], modules: dict[str, Stacked]) -> Tensor:
    """The mean of |mᵢ ⊙ mⱼ| over the columns that two LoRAs both change; 1 to begin with, and 0
    where no two change the same module."""
    terms, count = [], 0
    for name, one in columns.items():
        for first, second in itertools.combinations(modules[name].there, 2):
            terms.append((one[first] * one[second]).abs().sum())
            count += one.shape[1]
    return torch.stack(terms).sum() / count if terms else next(iter(columns.values())).sum() * 0


def _hook(module: Stacked, columns: Tensor) -> Callable[..., Tensor]:
    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return module.add(columns, inputs[0], output)

    return add
