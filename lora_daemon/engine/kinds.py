"""The kinds of adapter that are trained, through peft's layers: what each holds and how it begins.

LoRA (https://arxiv.org/abs/2106.09685) and DoRA (https://arxiv.org/abs/2402.09353); LoHa and LoKr
(LyCORIS, https://arxiv.org/abs/2309.14859).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from peft.tuners.loha import LoHaLayer
from peft.tuners.lokr import LoKrLayer
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora_daemon.engine.randomness import generator
from shared import patterns
from shared.recipe import Network

ADAPTER = "lora"
MAGNITUDE = "magnitude"
# What begins at zero, so that the adapter does. LyCORIS's choice for LoHa and LoKr: peft's other
# one learns more slowly at the rates that people know.
_ZERO = {"up", "hada_w2_a", "lokr_w2", "lokr_w2_b"}
_NORMAL = {"hada_w1_a": 0.1, "hada_w1_b": 1.0, "hada_w2_b": 1.0}  # deviation
# Where a weight lies: the module that has it, and under what name.
Holder = tuple[nn.Module, str]


def config(sizes: Mapping[str, tuple[int, float]], network: Network) -> PeftConfig:
    """What peft is to inject into one network. ``sizes``: module path → rank and alpha."""
    common: dict[str, Any] = {
        "r": network.rank,
        "target_modules": [*sizes],
        "rank_pattern": {path: r for path, (r, _) in sizes.items() if r != network.rank},
        "alpha_pattern": {path: a for path, (_, a) in sizes.items() if a != network.alpha},
    }
    match network.kind:
        case "lora" | "dora":
            return LoraConfig(
                lora_alpha=network.alpha, use_rslora=network.rslora,
                use_dora=network.kind == "dora", **common,
            )  # fmt: skip
        case "loha":
            return LoHaConfig(alpha=network.alpha, **common)
        case "lokr":
            return LoKrConfig(
                alpha=network.alpha, decompose_both=network.decompose_both,
                decompose_factor=network.factor or -1, **common,
            )  # fmt: skip


def holders(layer: nn.Module) -> dict[str, Holder]:
    """A layer's weights, by role as ``shared.lora_keys`` names them."""
    if isinstance(layer, LoraLayer):
        found: dict[str, Holder] = {
            "down": (layer.lora_A[ADAPTER], "weight"), "up": (layer.lora_B[ADAPTER], "weight"),
        }  # fmt: skip
        if ADAPTER in layer.lora_magnitude_vector:
            found[MAGNITUDE] = (layer.lora_magnitude_vector[ADAPTER], "weight")
        return found
    assert isinstance(layer, LoHaLayer | LoKrLayer), layer
    kept = {role: getattr(layer, role) for role in layer.adapter_layer_names}
    return {role: (holder, ADAPTER) for role, holder in kept.items() if ADAPTER in holder}


def settle(layer: Any) -> tuple[int, float]:
    """Make a layer just injected ready; returns its rank and alpha.

    A LoKr of two whole matrices has no rank, and every tool takes its scale as 1.
    """
    layer.eval()  # in training mode peft draws numbers of its own
    if isinstance(layer, LoKrLayer) and ADAPTER in layer.lokr_w1 and ADAPTER in layer.lokr_w2:
        layer.scaling[ADAPTER] = 1.0
    rank = int(layer.r[ADAPTER])
    return rank, layer.scaling[ADAPTER] * rank


@torch.no_grad()
def begin(weights: Mapping[str, Tensor], base: Tensor, seed: int, name: str) -> None:
    """Give a module's weights their first values, from the seed and its name alone.

    ``base``: the weight that is adapted, whose row norms a DoRA begins with.
    """
    for role, weight in weights.items():
        if role in _ZERO:
            weight.zero_()
        elif role == MAGNITUDE:
            weight.copy_(row_norms(base).reshape(weight.shape))
        elif role in _NORMAL:
            draw = torch.randn(weight.shape, generator=generator(seed, "init", name, role))
            weight.copy_(draw * _NORMAL[role])
        else:  # as peft does: Kaiming uniform, a = √5
            named = (name,) if role == "down" else (name, role)
            bound = 1 / math.sqrt(weight[0].numel())
            draw = torch.rand(weight.shape, generator=generator(seed, "init", *named))
            weight.copy_((draw * 2 - 1) * bound)


def row_norms(weight: Tensor) -> Tensor:
    """The norm of each output's weights, float64 (out,)."""
    norms: Tensor = weight.detach().double().flatten(1).norm(dim=1)
    return norms


def size(module: nn.Module, network: Network, entry: str | None) -> tuple[int, float]:
    """Rank and alpha of a module: those of the ``entry`` of ``network.ranks`` that fits it, else
    the recipe's, of which 3 × 3 convolutions have their own. Rank 0: it is not trained."""
    wide = isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
    rank = (wide and network.conv_rank) or network.rank
    alpha = (wide and network.conv_alpha) or network.alpha
    if entry is None:
        return rank, alpha
    _, (own, *rest) = patterns.read(entry, 2)
    return int(own), rest[0] if rest else alpha
