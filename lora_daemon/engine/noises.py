"""The noise that is trained with: plain, or with low frequencies added; and how much of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.recipe import Noise


def draw_noise(settings: Noise, shape: torch.Size, own: torch.Generator) -> Tensor:
    """Noise for one picture's latents, float32 (channels, h, w). Plain noise is drawn first, so
    that what is added changes no other draw before it."""
    noise = torch.randn(shape, generator=own)
    if settings.offset:  # https://www.crosslabs.org/blog/diffusion-with-offset-noise
        noise = noise + settings.offset * torch.randn((shape[0], 1, 1), generator=own)
    if settings.multires_iterations:
        noise = _multires(noise, settings, own)
    return noise


def draw_timestep(settings: Noise, span: tuple[int, int], own: torch.Generator) -> Tensor:
    """A timestep from ``span``, its end excluded, int64 (1,)."""
    if settings.density == "uniform":
        return torch.randint(*span, (1,), generator=own)
    # Logit-normal (https://arxiv.org/abs/2403.03206): most in the middle, or where the mean is.
    normal = settings.density_mean + settings.density_deviation * torch.randn(1, generator=own)
    first, end = span
    return (first + normal.sigmoid() * (end - first)).long().clamp(max=end - 1)


def _multires(noise: Tensor, settings: Noise, own: torch.Generator) -> Tensor:
    """Pyramid noise: ever coarser layers, each weaker, brought back to unit deviation."""
    channels, height, width = noise.shape
    for level in range(settings.multires_iterations):
        stride = (float(torch.rand((), generator=own)) * 2 + 2) ** level
        small = (max(1, int(height / stride)), max(1, int(width / stride)))
        layer = torch.randn((1, channels, *small), generator=own)
        coarse = F.interpolate(layer, (height, width), mode="bilinear", align_corners=False)[0]
        noise = noise + coarse * settings.multires_discount**level
        if small == (1, 1):
            break
    return noise / noise.std()
