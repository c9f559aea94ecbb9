"""Training: the loop, top to bottom.

Everything around it (pausing, saving, sampling, telling) happens in ``Session.steps`` between two
steps, and reads what ``Session.record`` was told.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.feed import Feed
from lora_daemon.engine.objectives import objective, wanted
from lora_daemon.engine.preservation import Preservation
from lora_daemon.engine.schedules import learning_rate
from lora_daemon.engine.session import Session
from shared.recipe import Recipe


def train(
    recipe: Recipe, base: Base, adapter: Adapter, optimizer: torch.optim.Optimizer, feed: Feed,
    session: Session,
) -> None:  # fmt: skip
    """Fit the adapter so that the base predicts the noise in the run's pictures.

    The objective is L = E ‖ε - ε_θ(√ᾱ_t x₀ + √(1-ᾱ_t) ε, t, c)‖² (Ho et al.,
    https://arxiv.org/abs/2006.11239), in the latents x₀ (https://arxiv.org/abs/2112.10752). A base
    that flows has 1 - σ and σ in the place of √ᾱ and √(1-ᾱ), and predicts ε - x₀.
    """
    signal = base.signal.to(base.device)[:, None, None, None]  # √ᾱ_t
    spread = base.spread.to(base.device)[:, None, None, None]  # √(1-ᾱ_t)

    loss_of = objective(recipe.loss, base)
    preserved = Preservation(recipe, base, adapter, loss_of) if recipe.loss.preservation else None

    for step in session.steps():
        step_loss = torch.zeros((), device=base.device)
        adapter.dropout.begin(step)
        for batch in feed.batches(step):
            latents, noise, t = batch.latents, batch.noise, batch.timesteps

            noisy = signal[t] * latents + spread[t] * batch.mixed
            predicted = base.denoise(noisy, t, batch.text, batch.views)
            target = wanted(base.objective, latents, noise, signal[t], spread[t])
            loss = loss_of(predicted, target, t, batch.counts)
            if preserved is not None:
                loss = loss + preserved.loss(noisy, t, batch.views)

            (loss * (base.loss_scale * batch.share)).backward()  # type: ignore[no-untyped-call]
            step_loss += loss.detach() * batch.share
            session.saw(batch, predicted, target)

        norm = clip(adapter.gradient, recipe.optimizer.max_grad_norm, base.loss_scale)
        for group in optimizer.param_groups:
            rate = group["initial_lr"]
            group["lr"] = learning_rate(recipe.schedule, rate, step, session.total)
        optimizer.step()
        adapter.gradient.zero_()
        adapter.settle(step)

        first = optimizer.param_groups[0]
        session.record(step_loss, first["lr"] * first.get("d", 1.0), norm)  # d: Prodigy's find


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
