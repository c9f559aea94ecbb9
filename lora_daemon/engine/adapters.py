"""The LoRA in training: peft's layers in the base, and all their weights in one vector.

``W x + (alpha / rank) · B A x`` (Hu et al., https://arxiv.org/abs/2106.09685): A is down, B is up.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn

from lora_daemon.engine.bases import Base
from lora_daemon.engine.dropout import Dropout
from lora_daemon.engine.fused import fuse
from lora_daemon.engine.mix import Placed
from lora_daemon.engine.names import targeted
from lora_daemon.engine.parts import LowRank
from lora_daemon.engine.randomness import generator
from shared.errors import Code, LoraError
from shared.recipe import Network

_ADAPTER = "lora"
_ALIGNMENT = 16  # floats: every weight starts on a cache line


@dataclass(frozen=True)
class Module:
    """One adapted module. ``down`` (rank, in …) and ``up`` (out, rank …) are float32 views of the
    adapter's vector; ``weights`` are the same two as parameters. ``alpha`` is what a LoRA file
    says: the pair is scaled by alpha / rank."""

    network: str  # "unet", "text_encoder" or "text_encoder_2"
    path: str
    name: str  # in LoRA files
    down: Tensor
    up: Tensor
    alpha: float
    weights: tuple[nn.Parameter, nn.Parameter]


class Adapter:
    """A LoRA injected into a base's UNet and, if ``with_text``, its text encoders.

    ``vector``: every weight, float32 (n,). Its gradient is one vector too, so that the optimiser,
    clipping, saving and resuming each handle one tensor instead of hundreds. ``average``: the
    running average of the vector, if ``ema`` asks for one.
    """

    def __init__(
        self, base: Base, network: Network, seed: int, with_text: bool = False, ema: float = 0.0
    ) -> None:
        self._networks: dict[str, nn.Module] = {"unet": base.unet}
        rows = {
            ("unet", path): name
            for path, name in targeted(base.unet_names, network.targets).items()
        }
        if with_text:
            for encoder in base.encoders:
                self._networks[encoder.use.network] = encoder.model
                rows |= {(encoder.use.network, path): name for path, name in encoder.names.items()}
        for part, whole in self._networks.items():
            paths = [path for own, path in rows if own == part]
            inject_adapter_in_model(_config(whole, paths, network), whole, _ADAPTER)
        self._layers = {place: _lora_layer(self._networks[place[0]], place[1]) for place in rows}
        self._plain = {place: layer.get_base_layer() for place, layer in self._layers.items()}
        places, length = _places([*self._layers.values()])
        self.vector = nn.Parameter(torch.zeros(length, device=base.device))
        self.vector.grad = torch.zeros_like(self.vector)
        self.modules = []
        for (part, path), layer, place in zip(rows, self._layers.values(), places, strict=True):
            weights = self._adopt(layer.lora_A, *place[0]), self._adopt(layer.lora_B, *place[1])
            alpha = layer.scaling[_ADAPTER] * layer.r[_ADAPTER]
            name = rows[part, path]
            down, up = (weight.data for weight in weights)
            self.modules.append(Module(part, path, name, down, up, alpha, weights))
        self.dropout = Dropout(network, seed, base.device)
        for layer in self._layers.values():
            if self.dropout.on:
                self.dropout.attach(layer, _ADAPTER)
            elif isinstance(layer, Linear):
                fuse(layer, _ADAPTER)
        for module in self.modules:
            # As peft does (Kaiming uniform, a = √5; B zero), but from the seed and the name alone.
            bound = 1 / math.sqrt(module.down[0].numel())
            draw = torch.rand(module.down.shape, generator=generator(seed, "init", module.name))
            module.down.copy_((draw * 2 - 1) * bound)
        self.max_norm, self.ema = network.max_norm, ema
        self.average = self.vector.data.clone() if ema else None

    def _adopt(self, holder: nn.ModuleDict, begin: int, shape: torch.Size) -> nn.Parameter:
        """Make a peft weight a view of the vector, and its gradient a view of the gradient."""
        assert self.vector.grad is not None
        view = self.vector.data[begin : begin + shape.numel()].view(shape)
        weight = nn.Parameter(view)
        weight.grad = self.vector.grad[begin : begin + shape.numel()].view(shape)
        holder[_ADAPTER].weight = weight
        return weight

    @property
    def gradient(self) -> Tensor:
        """Float32 (n,): backward adds to it in place."""
        assert self.vector.grad is not None
        return self.vector.grad

    @property
    def device(self) -> torch.device:
        return self.vector.device

    def groups(self, by_matrix: bool) -> Iterator[tuple[str, str, list[nn.Parameter]]]:
        """The weights for an optimiser: (network, "up", "down" or "all", parameters).

        Flat, one parameter a network, or ``by_matrix``, up and down apart.
        """
        for network in self._networks:
            own = [module for module in self.modules if module.network == network]
            if by_matrix:
                yield network, "down", [module.weights[0] for module in own]
                yield network, "up", [module.weights[1] for module in own]
            elif len(self._networks) == 1:
                yield network, "all", [self.vector]
            else:
                yield network, "all", [self._stretch(own[0].down, own[-1].up)]

    def _stretch(self, first: Tensor, last: Tensor) -> nn.Parameter:
        """The vector from one of its views to another, both included, gradient and all."""
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
        """The average in place of the LoRA, if there is one, for as long as the context lasts."""
        if self.average is None:
            yield
            return
        own = self.vector.data.clone()
        self.vector.data.copy_(self.average)
        try:
            yield
        finally:
            self.vector.data.copy_(own)

    def begin_from(self, start: Sequence[Placed], where: str) -> None:
        """Take over a LoRA file's weights. Raises LoraError(INVALID_RECIPE) if they do not fit."""
        known = {(module.network, module.path): module for module in self.modules}
        for one in start:
            module = known.get((one.network, one.path))
            if module is None:
                raise _misfit(
                    where,
                    f"trains {one.path} of the {one.network}, and this recipe does not: what it "
                    "learnt there would be lost. Add to network.targets, or set "
                    "optimizer.text_encoder_rate for the text encoder",
                )
            pair, rank = one.part, len(module.down)
            if not isinstance(pair, LowRank) or one.magnitude is not None or one.bias is not None:
                raise _misfit(
                    where,
                    f"is more than a plain LoRA at {one.path}, and a plain one is trained here. "
                    "Bake it into a base with `lora-tui lora bake`, and train on that",
                )
            if len(pair.down) != rank:
                raise _misfit(
                    where,
                    f"has rank {len(pair.down)} at {one.path}, and this recipe {rank}. Set "
                    "network.rank (or network.conv_rank) to it",
                )
            module.down.copy_(pair.down)
            module.up.copy_(pair.up.reshape_as(module.up) * (one.scale * rank / module.alpha))
        if self.average is not None:
            self.average.copy_(self.vector.data)

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


def _config(whole: nn.Module, paths: list[str], network: Network) -> LoraConfig:
    """What peft is to inject: 3 × 3 convolutions have a rank and an alpha of their own."""
    wide = [path for path in paths if _kernel(whole.get_submodule(path)) > 1]
    return LoraConfig(
        r=network.rank, lora_alpha=network.alpha, target_modules=paths, use_rslora=network.rslora,
        rank_pattern=dict.fromkeys(wide, network.conv_rank or network.rank),
        alpha_pattern=dict.fromkeys(wide, network.conv_alpha or network.alpha),
    )  # fmt: skip


def _kernel(module: nn.Module) -> int:
    return module.kernel_size[0] if isinstance(module, nn.Conv2d) else 1


def _lora_layer(network: nn.Module, path: str) -> LoraLayer:
    layer = network.get_submodule(path)
    assert isinstance(layer, LoraLayer), path
    return layer


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


def _misfit(where: str, why: str) -> LoraError:
    return LoraError(Code.INVALID_RECIPE, f"network.start: {where} {why}.")


def _places(layers: list[LoraLayer]) -> tuple[list[list[tuple[int, torch.Size]]], int]:
    """Where each layer's A and B begin in the vector, and the vector's length."""
    places: list[list[tuple[int, torch.Size]]] = []
    length = 0
    for layer in layers:
        own = []
        for holder in (layer.lora_A, layer.lora_B):
            shape = holder[_ADAPTER].weight.shape
            own.append((length, shape))
            length += math.ceil(shape.numel() / _ALIGNMENT) * _ALIGNMENT
        places.append(own)
    return places, length
