"""What LoRAs do to the noise prediction: differences from the plain base, and how they meet.

The latents are those of the base's own way through a picture, so each setting is asked at the very
same moment: δ = (σ − σ') (ε̂(with) − ε̂(without)), guidance included, where the step goes from noise
level σ to σ'. That is how far it moves the clean picture, whichever step it is: the differences
of ε̂ alone are largest in the last steps, which decide least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import (
    conditioning,
    guided,
    latent_shape,
    schedule,
    sized,
    without,
)
from lora_daemon.engine.mix import Mix, Strength
from shared.pictures import PictureSpec

Check = Callable[[], None]  # raises to give up


@torch.no_grad()
def inner_products(
    base: Base, mix: Mix, rows: Sequence[Sequence[Strength]], spec: PictureSpec, step: int,
    check: Check,
) -> Tensor:  # fmt: skip
    """⟨δₖ, δₗ⟩ of every two rows, each one weight a LoRA of the mix: (rows, rows), float64.

    ``spec``: the picture on whose way the base is, without LoRAs; ``step``: the denoising step of
    it, from 0, before which the predictions are taken. Raises LoraError(BAD_REQUEST).
    """
    text = conditioning(base, [spec], guided=spec.cfg > 1)
    seen, timestep = next(
        (seen, timestep)
        for number, (seen, timestep) in enumerate(along(base, spec, text, check))
        if number == step
    )
    plain = guided(base, seen, timestep, text, spec.cfg)
    deltas = []
    with mix.on():
        for row in rows:
            check()
            mix.set(row)
            said = conditioning(base, [spec], guided=spec.cfg > 1) if mix.speaks else text
            further = without(base, [spec], mix.further, seen, timestep, said, {})
            now = guided(base, seen, timestep, said, spec.cfg, further)
            deltas.append((now - plain).flatten().cpu())
    together = torch.stack(deltas).double()
    return together @ together.t() * pace(base, spec, step) ** 2


def pace(base: Base, spec: PictureSpec, step: int) -> float:
    """How far a step moves the clean latents for each unit of what the UNet predicts: σ − σ', with
    σ² = (1 − ᾱ) / ᾱ; of v, √ᾱ is noise (https://arxiv.org/abs/2202.00512); of a flow σ itself."""
    steps = schedule(base, spec)
    if base.family.flows:
        return float(steps.sigmas[step] - steps.sigmas[step + 1])
    kept = [float(base.alphas_cumprod[int(timestep)]) for timestep in steps.timesteps] + [1.0]
    now, then = (math.sqrt((1 - one) / max(one, 1e-8)) for one in kept[step : step + 2])
    return (now - then) * (math.sqrt(kept[step]) if base.objective == "v_prediction" else 1.0)


def along(
    base: Base, spec: PictureSpec, text: Tensor, check: Check
) -> Iterator[tuple[Tensor, Any]]:
    """What the UNet is given at each step of a picture, (1, 4, h, w), and the timestep. What is on
    the base when the iterator goes on takes part in the step."""
    width, height = sized(spec, base)
    shape = latent_shape(base, width, height)
    steps = schedule(base, spec)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(spec.seed))
    latents = latents.to(base.device) * steps.init_noise_sigma
    for timestep in steps.timesteps:
        check()
        seen = steps.scale_model_input(latents, timestep)
        yield seen, timestep
        predicted = guided(base, seen, timestep, text, spec.cfg)
        latents = steps.step(predicted, timestep, latents).prev_sample
