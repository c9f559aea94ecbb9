"""How far settings of LoRAs explain a picture that was painted with one of them.

A diffusion model is a classifier: what it was taught to paint, it predicts the noise on better
(https://arxiv.org/abs/2303.16203). ``shared.company`` says what that is for. Noise and timesteps
are fixed by the picture's seed, so that all settings, and all pictures of a prompt and seed, meet
the same; each noise comes with its negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lora_daemon.engine.effects import Check
from lora_daemon.engine.generate import conditioning, paint_latents
from lora_daemon.engine.mix import Mix, Strength, turning
from lora_daemon.engine.objectives import wanted
from lora_daemon.engine.randomness import generator
from shared.pictures import PictureSpec

AT = (0.56, 0.685, 0.81, 0.935)
"""Timesteps, as shares of all: the noisy half, which decides whether what is asked for is there."""

Setting = Callable[[int, int], Sequence[Strength]]  # (step, of how many): each LoRA's weight then


@torch.no_grad()
def log_errors(
    mix: Mix, painted: Setting, rows: Sequence[Setting], spec: PictureSpec, check: Check
) -> list[float]:
    """Of each row, the log of the squared error of its unguided prediction on the picture that
    ``painted`` makes of ``spec``, the mean over ``AT``. At a noise level a LoRA has the weight that
    it has at the step there.

    Raises LoraError: BAD_REQUEST, DIVERGED, and what ``check`` raises.
    """
    turn = turning(mix, lambda step: painted(step, spec.steps))
    with mix.on():
        latents = paint_latents(mix.base, [spec], lambda _: check(), turn=turn)
        return [_log_error(mix, row, spec, latents, check) for row in rows]


def _log_error(
    mix: Mix, row: Setting, spec: PictureSpec, latents: Tensor, check: Check
) -> float:  # fmt: skip
    base, given, text = mix.base, list[Strength](), torch.empty(0)
    logs = []
    for number, share in enumerate(AT):
        check()
        now = list(row(int((1 - share) * spec.steps), spec.steps))
        if now != given:
            mix.set(now)
            text = conditioning(base, [spec], guided=False).expand(2, -1, -1)
            given = now
        at = round(share * len(base.alphas_cumprod))
        noise = torch.randn(latents.shape, generator=generator(spec.seed, "company", number))
        noise = noise.to(latents)
        noise = torch.cat([noise, -noise])
        signal, spread = (one[at].to(latents) for one in (base.signal, base.spread))
        target = wanted(base.objective, latents, noise, signal, spread)
        timestep = torch.tensor(at, device=base.device)
        found = base.denoise(signal * latents + spread * noise, timestep, text)
        logs.append((found - target).square().mean().clamp_min(1e-30).log())
    return float(torch.stack(logs).mean())
