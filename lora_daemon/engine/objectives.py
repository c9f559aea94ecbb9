"""What an error counts: the distance, and the weight of its timestep."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_daemon.engine.bases import Base
from shared.recipe import Loss
from shared.wire import Objective as Predicts

# Prediction and target (n, channels, h, w), timesteps (n,), and what each place counts (n, 1, h, w)
# or each picture (n, 1, 1, 1), None for all alike: to the mean error, a scalar.
Objective = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
Distance = Callable[[Tensor, Tensor, Tensor], Tensor]


def wanted(
    predicts: Predicts, latents: Tensor, noise: Tensor, signal: Tensor, spread: Tensor
) -> Tensor:
    """What a base is to predict of ``signal`` · latents + ``spread`` · noise: the noise, v
    (https://arxiv.org/abs/2202.00512), or the velocity of the flow from the picture to the noise
    (https://arxiv.org/abs/2210.02747)."""
    match predicts:
        case "epsilon":
            return noise
        case "v_prediction":
            return signal * noise - spread * latents
        case "flow":
            return noise - latents


def expected(base: Base, noisy: Tensor, predicted: Tensor, timestep: Tensor) -> Tensor:
    """The clean latents that a prediction for ``noisy`` ones at a timestep points to, all
    (n, channels, h, w): the other way round to ``wanted``."""
    at = min(max(round(float(timestep)), 0), len(base.signal) - 1)
    signal, spread = float(base.signal[at]), float(base.spread[at])
    match base.objective:
        case "epsilon":
            return (noisy - spread * predicted) / signal
        case "v_prediction":
            return signal * noisy - spread * predicted
        case "flow":
            return noisy - spread * predicted


def objective(settings: Loss, base: Base) -> Objective:
    """The recipe's loss on a base, in float32."""
    plain = settings.kind == "l2" and settings.weighting == "none"
    distance = _distance(settings, base)
    weights = weights_of(settings, base).to(base.device)

    def weighted(predicted: Tensor, target: Tensor, t: Tensor, counts: Tensor | None) -> Tensor:
        if plain and counts is None:
            return F.mse_loss(predicted, target)
        errors = distance(predicted, target, t)
        if counts is not None:
            errors = errors * counts
        return (errors.mean(dim=(1, 2, 3)) * weights[t]).mean()

    return weighted


def weights_of(settings: Loss, base: Base) -> Tensor:
    """The weight of each timestep, float32 (timesteps,).

    Min-SNR (https://arxiv.org/abs/2303.09556) and debiased estimation
    (https://arxiv.org/abs/2310.08442), each in its form for what the base predicts. At a
    signal-to-noise ratio of 0 (zero-terminal schedules) they stay finite.
    """
    snr = base.alphas_cumprod / (1 - base.alphas_cumprod)
    velocity = base.objective == "v_prediction"
    match settings.weighting:
        case "none":
            return torch.ones_like(snr)
        case "min_snr":
            clipped = snr.clamp(max=settings.min_snr_gamma)
            return clipped / (snr + 1) if velocity else clipped / snr.clamp(min=1e-8)
        case "debiased":
            bounded = snr.clamp(min=1e-8, max=1000)
            return 1 / (bounded + 1) if velocity else bounded.rsqrt()


def _distance(settings: Loss, base: Base) -> Distance:
    """The error of each number, in the shape of the prediction."""
    match settings.kind:
        case "l2":
            return lambda predicted, target, t: (predicted - target) ** 2
        case "l1":
            return lambda predicted, target, t: (predicted - target).abs()
        case "huber" | "smooth_l1":
            bends = _bends(settings, base).to(base.device)[:, None, None, None]
            # The pseudo-Huber loss (https://arxiv.org/abs/2403.16728), near 0 the square (huber)
            # or the square by c (smooth_l1).
            by_size = settings.kind == "huber"

            def pseudo_huber(predicted: Tensor, target: Tensor, t: Tensor) -> Tensor:
                c = bends[t]
                error = ((predicted - target) ** 2 + c**2).sqrt() - c
                return 2 * (c * error if by_size else error)

            return pseudo_huber


def _bends(settings: Loss, base: Base) -> Tensor:
    """The pseudo-Huber loss's c at each timestep, float32 (timesteps,): from 1 to ``huber_c``."""
    c, alphas = settings.huber_c, base.alphas_cumprod
    match settings.huber_schedule:
        case "constant":
            return torch.full_like(alphas, c)
        case "exponential":
            return torch.exp(torch.arange(len(alphas)) * (math.log(c) / len(alphas)))
        case "snr":
            sigmas = ((1 - alphas) / alphas.clamp(min=1e-12)).sqrt()
            return (1 - c) / (1 + sigmas) ** 2 + c
