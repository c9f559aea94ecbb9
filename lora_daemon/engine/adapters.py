"""The LoRA in training: peft's layers in the UNet, and all their weights in one vector.

``W x + (alpha / rank) · B A x`` (Hu et al., https://arxiv.org/abs/2106.09685): A is down, B is up.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from lora_daemon.engine.bases import Base
from lora_daemon.engine.fused import fuse
from lora_daemon.engine.names import targeted
from lora_daemon.engine.randomness import generator
from shared.recipe import Network

_ADAPTER = "lora"
_ALIGNMENT = 16  # floats: every weight starts on a cache line


@dataclass(frozen=True)
class Module:
    """One adapted module. ``down`` (rank, in …) and ``up`` (out, rank …) are float32 views of the
    adapter's vector."""

    path: str
    name: str  # in LoRA files
    down: Tensor
    up: Tensor


class Adapter:
    """A LoRA injected into a base's UNet.

    ``vector``: every weight, float32 (n,). Its gradient is one vector too, so that the optimiser,
    clipping, saving and resuming each handle one tensor instead of hundreds.
    """

    def __init__(self, base: Base, network: Network, seed: int) -> None:
        self.rank, self.alpha = network.rank, network.alpha
        self._unet = base.unet
        rows = targeted(base.unet_names, network.targets)
        config = LoraConfig(r=network.rank, lora_alpha=network.alpha, target_modules=[*rows])
        inject_adapter_in_model(config, base.unet, _ADAPTER)
        self._layers = {path: _lora_layer(base.unet, path) for path in rows}
        self._plain = {path: layer.get_base_layer() for path, layer in self._layers.items()}
        places, length = _places(self._layers)
        self.vector = nn.Parameter(torch.zeros(length, device=base.device))
        self.vector.grad = torch.zeros_like(self.vector)
        self.modules = [
            Module(path, rows[path], self._adopt(layer.lora_A, *places[path][0]),
                   self._adopt(layer.lora_B, *places[path][1]))
            for path, layer in self._layers.items()
        ]  # fmt: skip
        for layer in self._layers.values():
            fuse(layer, _ADAPTER)
        for module in self.modules:
            # As peft does (Kaiming uniform, a = √5; B zero), but from the seed and the name alone.
            bound = 1 / math.sqrt(module.down[0].numel())
            draw = torch.rand(module.down.shape, generator=generator(seed, "init", module.name))
            module.down.copy_((draw * 2 - 1) * bound)

    def _adopt(self, holder: nn.ModuleDict, begin: int, shape: torch.Size) -> Tensor:
        """Make a peft weight a view of the vector, and its gradient a view of the gradient."""
        assert self.vector.grad is not None
        view = self.vector.data[begin : begin + shape.numel()].view(shape)
        weight = nn.Parameter(view)
        weight.grad = self.vector.grad[begin : begin + shape.numel()].view(shape)
        holder[_ADAPTER].weight = weight
        return view

    @property
    def gradient(self) -> Tensor:
        """Float32 (n,): backward adds to it in place."""
        assert self.vector.grad is not None
        return self.vector.grad

    @property
    def device(self) -> torch.device:
        return self.vector.device

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """The plain base, for as long as the context lasts. Nothing of the adapter is touched."""
        for path, plain in self._plain.items():
            self._unet.set_submodule(path, plain)
        try:
            yield
        finally:
            for path, layer in self._layers.items():
                self._unet.set_submodule(path, layer)

    def remove(self) -> None:
        """Leave the base as it was before."""
        for path, plain in self._plain.items():
            self._unet.set_submodule(path, plain)
        if hasattr(self._unet, "peft_config"):
            del self._unet.peft_config


def _lora_layer(unet: nn.Module, path: str) -> Linear:
    layer = unet.get_submodule(path)
    assert isinstance(layer, Linear), path
    return layer


def _places(
    layers: dict[str, Linear],
) -> tuple[dict[str, list[tuple[int, torch.Size]]], int]:
    """Where each layer's A and B begin in the vector, and the vector's length."""
    places: dict[str, list[tuple[int, torch.Size]]] = {}
    length = 0
    for path, layer in layers.items():
        places[path] = []
        for holder in (layer.lora_A, layer.lora_B):
            shape = holder[_ADAPTER].weight.shape
            places[path].append((length, shape))
            length += math.ceil(shape.numel() / _ALIGNMENT) * _ALIGNMENT
    return places, length
