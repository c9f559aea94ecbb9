"""The LoRA in training: peft's layers in the base, and all their weights in one vector.

``W x + (alpha / rank) · B A x`` (Hu et al., https://arxiv.org/abs/2106.09685): A is down, B is up.
The other kinds of adapter are in ``kinds``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from lora_daemon import families
from lora_daemon.engine import kinds
from lora_daemon.engine.bases import Base
from lora_daemon.engine.dropout import Dropout
from lora_daemon.engine.fused import HALVES, Halves, fuse, in_16_bits
from lora_daemon.engine.kinds import ADAPTER, MAGNITUDE
from lora_daemon.engine.mix import Placed
from lora_daemon.engine.start import take_over
from lora_daemon.trained import Place, Trained, trained
from shared.errors import Code, LoraError
from shared.recipe import Network

Side = Literal["up", "down", "magnitude", "all"]
_ALIGNMENT = 16  # floats: every weight starts on a cache line


@dataclass(frozen=True)
class Module:
    """One adapted module. ``weights``: float32 views of the adapter's vector, by role as
    ``shared.lora_keys`` names them: of a LoRA ``down`` (rank, in …) and ``up`` (out, rank …).
    ``alpha`` is what a LoRA file says: what it adds is scaled by alpha / rank. ``pace``: how much
    faster than the others it learns."""

    network: str  # "unet", "transformer", "text_encoder" or "text_encoder_2"
    path: str
    name: str  # in LoRA files
    weights: Mapping[str, nn.Parameter]
    rank: int
    alpha: float
    pace: float = 1.0

    @property
    def down(self) -> Tensor:
        return self.weights["down"].data

    @property
    def up(self) -> Tensor:
        return self.weights["up"].data


@dataclass(frozen=True)
class Group:
    """Weights that an optimiser treats alike. ``side``: which of a module's."""

    network: str
    side: Side
    pace: float
    weights: list[nn.Parameter]


class Adapter:
    """A LoRA, or another kind of adapter, injected into a base's denoiser and, if ``with_text``,
    its text encoders.

    ``vector``: every weight, float32 (n,). Its gradient is one vector too, so that the optimiser,
    clipping, saving and resuming each handle one tensor instead of hundreds. ``average``: the
    running average of the vector, if ``ema`` asks for one. ``rates``: the recipe's
    ``optimizer.rates``. Raises LoraError(INVALID_RECIPE) as ``trained``.
    """

    def __init__(
        self, base: Base, network: Network, seed: int, with_text: bool = False, ema: float = 0.0,
        rates: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.kind, self.max_norm, self.ema = network.kind, network.max_norm, ema
        self._device = base.device
        names: dict[families.Network, Mapping[str, str]] = {base.family.denoiser: base.unet_names}
        if with_text:
            names |= {encoder.use.network: encoder.names for encoder in base.encoders}
        chosen = trained(names, base.block_layers, network, rates)
        self._networks = {place[0]: getattr(base, place[0]) for place in chosen}
        for part, whole in self._networks.items():
            sizes = {
                path: kinds.size(whole.get_submodule(path), network, one.ranks)
                for (own, path), one in chosen.items()
                if own == part
            }
            inject_adapter_in_model(kinds.config(sizes, network), whole, ADAPTER)
        self._layers: dict[Place, Any] = {
            (part, path): self._networks[part].get_submodule(path) for part, path in chosen
        }
        self._plain = {place: layer.get_base_layer() for place, layer in self._layers.items()}
        settled = {place: kinds.settle(layer) for place, layer in self._layers.items()}
        weights = self._laid(chosen)
        self.modules = [
            Module(*place, one.name, weights[place], *settled[place], one.pace)
            for place, one in chosen.items()
        ]
        self.dropout = Dropout(network, seed, base.device)
        fusing = network.kind == "lora" and not self.dropout.on
        self._halves = None
        if fusing and base.dtype in HALVES:
            self._halves = Halves(self.vector.data, self.gradient, base.dtype)
        for layer in self._layers.values():
            if self.dropout.on:
                self.dropout.attach(layer, ADAPTER)
            elif isinstance(layer, Linear) and fusing:
                fuse(layer, ADAPTER, self._halves)
        for module in self.modules:
            plain = self._plain[module.network, module.path].weight
            values = {role: weight.data for role, weight in module.weights.items()}
            kinds.begin(values, plain, seed, module.name)
        self.average = self.vector.data.clone() if ema else None
        self.kept: Callable[[], Tensor] | None = None  # what is kept, if not the vector itself

    def _laid(self, chosen: Mapping[Place, Trained]) -> dict[Place, dict[str, nn.Parameter]]:
        """Make every weight a view of one vector, and its gradient a view of the vector's.

        What an optimiser treats alike lies side by side.
        """
        order = [*self._networks]
        every = [
            (place, role, *holder)
            for place, layer in self._layers.items()
            for role, holder in kinds.holders(layer).items()
        ]
        every.sort(key=lambda one: (order.index(one[0][0]), one[1] == MAGNITUDE,
                                    chosen[one[0]].pace))  # fmt: skip
        begins, length = [], 0
        for _, _, owner, attribute in every:
            begins.append(length)
            length += math.ceil(getattr(owner, attribute).numel() / _ALIGNMENT) * _ALIGNMENT
        self.vector = nn.Parameter(torch.zeros(length, device=self._device))
        self.vector.grad = torch.zeros_like(self.vector)
        found: dict[Place, dict[str, nn.Parameter]] = {place: {} for place in chosen}
        for (place, role, owner, attribute), begin in zip(every, begins, strict=True):
            shape = getattr(owner, attribute).shape
            weight = nn.Parameter(self.vector.data[begin : begin + shape.numel()].view(shape))
            weight.grad = self.gradient[begin : begin + shape.numel()].view(shape)
            setattr(owner, attribute, weight)
            found[place][role] = weight
        return found

    @property
    def gradient(self) -> Tensor:
        """Float32 (n,): backward adds to it in place."""
        assert self.vector.grad is not None
        return self.vector.grad

    @property
    def bytes_beside(self) -> int:
        """What is kept beside the vector and its gradient."""
        return self._halves.bytes if self._halves else 0

    @contextlib.contextmanager
    def learning(self) -> Iterator[None]:
        """Layers compute as is quickest where a gradient is wanted, for as long as the context
        lasts, in which the vector stays as it is."""
        with self._halves.lend() if self._halves else contextlib.nullcontext():
            yield

    def groups(self, by_matrix: bool) -> Iterator[Group]:
        """The weights for an optimiser: flat, one parameter a group, or ``by_matrix``, up and down
        apart."""
        alike: dict[tuple[str, Side, float], list[nn.Parameter]] = {}
        for one in self.modules:
            for role, weight in one.weights.items():
                side: Side = "all"
                if role == MAGNITUDE:
                    side = "magnitude"
                elif by_matrix:
                    side = "up" if role == "up" else "down"
                alike.setdefault((one.network, side, one.pace), []).append(weight)
        for (network, side, pace), weights in alike.items():
            if by_matrix:
                yield Group(network, side, pace, weights)
            else:
                flat = self.vector if len(alike) == 1 else self._stretch(weights)
                yield Group(network, side, pace, [flat])

    def _stretch(self, weights: Sequence[nn.Parameter]) -> nn.Parameter:
        """The vector from the first of its views to the last, both included, gradient and all."""
        first, last = weights[0], weights[-1]
        begin, end = first.storage_offset(), last.storage_offset() + last.numel()
        stretch = nn.Parameter(self.vector.data[begin:end])
        stretch.grad = self.gradient[begin:end]
        return stretch

    @torch.no_grad()
    def settle(self, step: int) -> None:
        """After the optimiser's step, counted from 0: shorten and average, where that is asked."""
        if self.max_norm:
            for module in self.modules:
                _shorten(module, self.max_norm)
        if self.average is not None:
            # At first it forgets faster, or it would remember the untrained LoRA for long.
            decay = min(self.ema, (1 + step) / (10 + step))
            self.average.lerp_(self.vector.data, 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """What is sampled and kept in place of what is trained, for as long as the context lasts:
        the average if there is one, or what the optimiser says."""
        kept = self.average if self.kept is None else self.kept()
        if kept is None:
            yield
            return
        own = self.vector.data.clone()
        self.vector.data.copy_(kept)
        try:
            yield
        finally:
            self.vector.data.copy_(own)

    def begin_from(self, start: Sequence[Placed], where: str) -> None:
        """Take over a LoRA file's weights. Raises LoraError(INVALID_RECIPE) if they do not fit."""
        known = {(module.network, module.path): module for module in self.modules}
        for one in start:
            place = (one.network, one.path)
            if place not in known:
                raise LoraError(
                    Code.INVALID_RECIPE,
                    f"network.start: {where} trains {one.path} of the {one.network}, and this "
                    "recipe does not: what it learnt there would be lost. Add to network.targets, "
                    "or set optimizer.text_encoder_rate for the text encoder.",
                )
            module = known[place]
            values = {role: weight.data for role, weight in module.weights.items()}
            own = module.alpha / module.rank
            take_over(self.kind, values, own, self._plain[place].weight, one, where)
        if self.average is not None:
            self.average.copy_(self.vector.data)

    def unfuse(self, network: str) -> Callable[[], None]:
        """Let a network's layers compute in a way that a compiler can read, which is not ``fused``.
        Returns what takes that back."""
        own = [layer for (part, _), layer in self._layers.items() if part == network]
        fused = [(layer, vars(layer).pop("forward")) for layer in own if "forward" in vars(layer)]
        for layer, _ in fused:
            in_16_bits(layer, ADAPTER)

        def again() -> None:
            for layer, forward in fused:
                layer.forward = forward

        return again

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """The plain base, for as long as the context lasts. Nothing of the adapter is touched."""
        self._put(self._plain)
        try:
            yield
        finally:
            self._put(self._layers)

    def remove(self) -> None:
        """Leave the base as it was before."""
        self._put(self._plain)
        for network in self._networks.values():
            if hasattr(network, "peft_config"):
                del network.peft_config

    def _put(self, layers: Mapping[tuple[str, str], nn.Module]) -> None:
        for (network, path), layer in layers.items():
            self._networks[network].set_submodule(path, layer)


def _shorten(module: Module, longest: float) -> None:
    """Scale a pair so that ‖(alpha / rank) B A‖ is at most ``longest`` (Frobenius).

    ‖BA‖² is the sum over (BᵀB) ∘ (AAᵀ), which are rank × rank.
    """
    up, down = module.up.flatten(1), module.down.flatten(1)
    squared = ((up.t() @ up) * (down @ down.t())).sum().clamp(min=0)
    norm = squared.sqrt() * (module.alpha / len(down))
    factor = (longest / norm.clamp(min=1e-12)).clamp(max=1.0).sqrt()
    module.up.mul_(factor)
    module.down.mul_(factor)
