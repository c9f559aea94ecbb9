"""Training: the loop, top to bottom.

Everything around it (pausing, saving, sampling, telling) happens in ``Session.steps`` between two
steps, and reads what ``Session.record`` was told.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.feed import Feed
from lora_daemon.engine.session import Session
from shared.recipe import Optimizer, Recipe, Schedule


def train(
    recipe: Recipe, base: Base, adapter: Adapter, optimizer: torch.optim.AdamW, feed: Feed,
    session: Session,
) -> None:  # fmt: skip
    """Fit the adapter so that the base predicts the noise in the run's pictures.

    The objective is L = E ‖ε - ε_θ(√ᾱ_t x₀ + √(1-ᾱ_t) ε, t, c)‖² (Ho et al.,
    https://arxiv.org/abs/2006.11239), in the latents x₀ (https://arxiv.org/abs/2112.10752).
    """
    signal = base.alphas_cumprod.sqrt().to(base.device)[:, None, None, None]  # √ᾱ_t
    spread = (1 - base.alphas_cumprod).sqrt().to(base.device)[:, None, None, None]  # √(1-ᾱ_t)

    for step in session.steps():
        batch = feed.batch(step)
        latents, noise, t = batch.latents, batch.noise, batch.timesteps

        noisy = signal[t] * latents + spread[t] * noise
        predicted = base.denoise(noisy, t, batch.text)
        if base.objective == "v_prediction":  # https://arxiv.org/abs/2202.00512
            target = signal[t] * noise - spread[t] * latents
        else:
            target = noise
        loss = F.mse_loss(predicted, target)

        (loss * base.loss_scale).backward()  # type: ignore[no-untyped-call]
        norm = clip(adapter.gradient, recipe.optimizer.max_grad_norm, base.loss_scale)
        rate = learning_rate(recipe.schedule, recipe.optimizer, step, session.total)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        adapter.gradient.zero_()

        session.record(loss.detach(), rate, norm)


def optimizer_for(adapter: Adapter, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW (https://arxiv.org/abs/1711.05101) over the adapter's one vector, in one kernel."""
    return torch.optim.AdamW(
        [adapter.vector],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def learning_rate(schedule: Schedule, settings: Optimizer, step: int, total: int) -> float:
    """The rate of a step, counted from 0: a function of the step, so there is nothing to resume."""
    warm = schedule.warmup_steps
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    passed = (step - warm) / max(1, total - warm)
    match schedule.kind:
        case "constant":
            factor = 1.0
        case "linear":
            factor = 1 - passed
        case "cosine":
            factor = (1 + math.cos(math.pi * passed)) / 2
    return settings.learning_rate * factor


def clip(gradient: Tensor, longest: float, scale: float = 1.0) -> Tensor:
    """Take the loss's ``scale`` out of a gradient and shorten it to ``longest`` (0: leave it), in
    place, without waiting for the device.

    Returns its norm before that, a float32 scalar.
    """
    norm: Tensor = torch.linalg.vector_norm(gradient) / scale
    if longest:
        gradient.mul_((longest / (norm + 1e-6)).clamp(max=1.0) / scale)
    elif scale != 1.0:
        gradient.div_(scale)
    return norm
