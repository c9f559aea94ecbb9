"""How much of a LoRA is in a picture that was painted with it at some weight.

``shared.weighing`` says what it is for. Noise and timesteps are fixed by the picture's seed, so
that the same picture painted at two weights meets the same; each noise comes with its negative.
"""

from __future__ import annotations

import torch

from lora_daemon.engine.effects import Check
from lora_daemon.engine.generate import conditioning, paint_latents
from lora_daemon.engine.mix import Mix, Strength
from lora_daemon.engine.objectives import wanted
from lora_daemon.engine.randomness import generator
from shared.pictures import PictureSpec

STRATA = 6  # equal stretches of the timesteps, in the middle of which is asked


@torch.no_grad()
def effect(mix: Mix, painted: Strength, spec: PictureSpec, check: Check) -> float:
    """The share of the base's squared error on a picture that the LoRA, at weight 1, takes off it,
    the mean over ``STRATA`` timesteps; negative where the LoRA explains it worse.

    ``mix``: of one LoRA; ``painted``: how the picture of ``spec`` is painted with it. Raises
    LoraError: BAD_REQUEST, DIVERGED, and what ``check`` raises.
    """
    base = mix.base
    with mix.on():
        mix.set([painted])
        latents = paint_latents(base, [spec], lambda _: check())
        asked = []
        for strength in (Strength(0.0), Strength(1.0)):
            mix.set([strength])
            asked.append((strength, conditioning(base, [spec], guided=False).expand(2, -1, -1)))
        shares = []
        for stretch in range(STRATA):
            check()
            at = int((stretch + 0.5) * len(base.alphas_cumprod) / STRATA)
            timestep = torch.tensor(at, device=base.device)
            draw = generator(spec.seed, "weighed", stretch)
            noise = torch.randn(latents.shape, generator=draw).to(latents)
            noise = torch.cat([noise, -noise])
            signal, spread = (one[at].to(latents) for one in (base.signal, base.spread))
            target = wanted(base.objective, latents, noise, signal, spread)
            errors = []
            for strength, text in asked:
                mix.set([strength])
                found = base.denoise(signal * latents + spread * noise, timestep, text)
                errors.append(float((found - target).square().mean()))
            shares.append((errors[0] - errors[1]) / max(errors[0], 1e-30))
    return sum(shares) / STRATA
