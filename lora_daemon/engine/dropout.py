"""Dropout in the LoRA while it is trained, from counted randomness.

As kohya's trainer knows it: of the down product's numbers, of whole ranks, of whole modules.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lora_daemon.engine.randomness import generator
from shared.recipe import Network


class Dropout:
    """The masks of one forward after the other. ``begin`` names the randomness of a step's."""

    def __init__(self, network: Network, seed: int, device: torch.device) -> None:
        self.numbers, self.ranks = network.dropout, network.rank_dropout
        self.modules = network.module_dropout
        self._seed = seed
        # Where only shapes are counted, nothing is drawn.
        self._own = torch.Generator("cpu" if device.type == "meta" else device)

    @property
    def on(self) -> bool:
        return bool(self.numbers or self.ranks or self.modules)

    def begin(self, step: int, part: int = 0) -> None:
        """Before all forwards of a part of a step, those of a text encoder that learns included."""
        if not self.on:
            return
        counted = generator(self._seed, "dropout", step, *([part] if part else []))
        self._own.manual_seed(counted.initial_seed())

    def attach(self, layer: Any, adapter: str) -> None:
        """Let a peft layer drop, wherever gradients are recorded."""
        if not isinstance(layer, LoraLayer) or layer.use_dora.get(adapter):
            self._attach_whole(layer)
            return
        plain, scale = layer.get_base_layer(), layer.scaling[adapter]
        down, up = layer.lora_A[adapter], layer.lora_B[adapter]

        def forward(x: Tensor) -> Tensor:
            out: Tensor = plain(x)
            training = torch.is_grad_enabled()
            if training and self.modules and float(self._draw(1)) < self.modules:
                return out
            low = down(x.to(down.weight.dtype))
            if training:
                low = self._masked(low)
            added: Tensor = up(low) * scale
            return out + added.to(out.dtype)

        layer.forward = forward

    def _attach_whole(self, layer: Any) -> None:
        """Of another kind of adapter than a LoRA only whole modules can be left out."""
        plain, adapted = layer.get_base_layer(), layer.forward

        def forward(x: Tensor) -> Tensor:
            training = torch.is_grad_enabled()
            left_out = training and float(self._draw(1)) < self.modules
            out: Tensor = (plain if left_out else adapted)(x)
            return out

        layer.forward = forward

    def _masked(self, low: Tensor) -> Tensor:
        """``low``: (n, …, rank) of a linear layer, (n, rank, h, w) of a convolution."""
        if self.numbers:
            low = low * (self._draw(*low.shape) >= self.numbers) / (1 - self.numbers)
        if self.ranks:
            convolved = low.dim() == 4
            count, rank = len(low), low.shape[1 if convolved else -1]
            kept = self._draw(count, rank) >= self.ranks
            shape = (count, rank, 1, 1) if convolved else (count, *[1] * (low.dim() - 2), rank)
            low = low * kept.view(shape) / (1 - self.ranks)
        return low

    def _draw(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._own, device=self._own.device)
