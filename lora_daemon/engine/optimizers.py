"""The optimisers by the recipe's names, over the adapter's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lora_daemon.engine.adapters import Adapter
from shared.recipe import Optimizer

_BY_MATRIX = ("adafactor", "came")  # they factor each matrix's second moment


def optimizer_for(adapter: Adapter, settings: Optimizer) -> torch.optim.Optimizer:
    """The recipe's optimiser. Each group's ``initial_lr`` is its rate before the schedule.

    One flat vector where that is the same: AdamW then is one kernel.
    """
    text = settings.text_encoder_rate
    rates = {"text_encoder": text, "text_encoder_2": text}
    plus = settings.lora_plus
    groups: list[dict[str, Any]] = [
        {
            "params": one.weights,
            "lr": rates.get(one.network, settings.learning_rate)
            * one.pace
            * (plus if one.side == "up" else 1.0),
            # A magnitude that decays takes from the base itself.
            **({"weight_decay": 0.0} if one.side == "magnitude" else {}),
        }
        for one in adapter.groups(by_matrix=plus != 1 or settings.kind in _BY_MATRIX)
    ]
    for group in groups:
        group["initial_lr"] = group["lr"]
    decay, betas = settings.weight_decay, (settings.beta1, settings.beta2)
    made: torch.optim.Optimizer
    kind = settings.kind
    if kind == "adamw8bit" and no_8bit(adapter.vector.device):
        kind = "adamw"
    match kind:
        case "adamw8bit":  # https://arxiv.org/abs/2110.02861
            from bitsandbytes.optim import AdamW8bit

            made = AdamW8bit(
                groups, lr=settings.learning_rate, betas=betas, eps=settings.epsilon,
                weight_decay=decay,
            )  # fmt: skip
        case "schedule_free":  # https://arxiv.org/abs/2405.15682
            from pytorch_optimizer import ScheduleFreeAdamW

            made = ScheduleFreeAdamW(
                groups, lr=settings.learning_rate, betas=betas, eps=settings.epsilon,
                weight_decay=decay,
            )  # fmt: skip
            adapter.kept = lambda: _evaluated(adapter, made)
        case "adamw":  # https://arxiv.org/abs/1711.05101
            made = torch.optim.AdamW(
                groups, lr=settings.learning_rate, betas=betas, eps=settings.epsilon,
                weight_decay=decay, fused=True,
            )  # fmt: skip
        case "adafactor":  # https://arxiv.org/abs/1804.04235, with a rate from outside
            from transformers.optimization import Adafactor

            made = Adafactor(
                groups, lr=settings.learning_rate, weight_decay=decay,
                scale_parameter=False, relative_step=False,
            )  # fmt: skip
        case "lion":  # https://arxiv.org/abs/2302.06675
            from pytorch_optimizer import Lion

            made = Lion(groups, betas=betas, weight_decay=decay)
        case "prodigy":  # https://arxiv.org/abs/2306.06101
            from pytorch_optimizer import Prodigy

            made = Prodigy(
                groups, betas=betas, eps=settings.epsilon, weight_decay=decay,
                d_coef=settings.d_coef, bias_correction=settings.bias_correction,
                safeguard_warmup=settings.safeguard_warmup,
            )  # fmt: skip
        case "came":  # https://arxiv.org/abs/2307.02047
            from pytorch_optimizer import CAME

            made = CAME(groups, betas=(*betas, 0.9999), weight_decay=decay)
    return made


def no_8bit(device: torch.device) -> str:
    """Why AdamW cannot be had in 8 bits on a device, in words; empty if it can."""
    if device.type != "cuda":
        return f"it needs a CUDA GPU, and this runs on {device.type}"
    try:
        import bitsandbytes.optim  # noqa: F401
    except Exception as error:  # it loads a library of its own, which fails in many ways
        return f"bitsandbytes cannot be loaded ({str(error).strip() or type(error).__name__})"
    return ""


@torch.no_grad()
def _evaluated(adapter: Adapter, optimizer: torch.optim.Optimizer) -> Tensor:
    """What schedule-free training has come to: its average x, which is not where it takes its
    gradients, y = β z + (1 - β) x. Made beside it: taking y to x and back is not exact."""
    kept = adapter.vector.data.clone()
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if "z" in (state := optimizer.state[weight]):
                begin = weight.storage_offset()
                place = kept[begin : begin + weight.numel()].view(weight.shape)
                place.lerp_(state["z"], 1 - 1 / group["betas"][0])
    return kept
