"""The optimisers by the recipe's names, over the adapter's weights."""

from __future__ import annotations

from typing import Any

import torch

from lora_daemon.engine.adapters import Adapter
from shared.recipe import Optimizer

_BY_MATRIX = ("adafactor", "came")  # they factor each matrix's second moment


def optimizer_for(adapter: Adapter, settings: Optimizer) -> torch.optim.Optimizer:
    """The recipe's optimiser. Each group's ``initial_lr`` is its rate before the schedule.

    One flat vector where that is the same: AdamW then is one kernel.
    """
    text = settings.text_encoder_rate
    rates = {"unet": settings.learning_rate, "text_encoder": text, "text_encoder_2": text}
    plus = settings.lora_plus
    groups: list[dict[str, Any]] = [
        {
            "params": one.weights,
            "lr": rates[one.network] * one.pace * (plus if one.side == "up" else 1.0),
            # A magnitude that decays takes from the base itself.
            **({"weight_decay": 0.0} if one.side == "magnitude" else {}),
        }
        for one in adapter.groups(by_matrix=plus != 1 or settings.kind in _BY_MATRIX)
    ]
    for group in groups:
        group["initial_lr"] = group["lr"]
    decay, betas = settings.weight_decay, (settings.beta1, settings.beta2)
    made: torch.optim.Optimizer
    match settings.kind:
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
