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


def draw_timestep(
    settings: Noise, span: tuple[int, int], own: torch.Generator, shift: float = 1.0
) -> Tensor:  # fmt: skip
    """A timestep from ``span``, its end excluded, int64 (1,). ``shift``: by how much the draws move
    to the noisier end (https://arxiv.org/abs/2403.03206, 5.3.2); 1: not at all."""
    if settings.density == "uniform":
        if shift == 1.0:
            return torch.randint(*span, (1,), generator=own)
        place = torch.rand(1, generator=own)
    else:
        # Logit-normal (https://arxiv.org/abs/2403.03206): most in the middle, or at the mean.
        normal = settings.density_mean + settings.density_deviation * torch.randn(1, generator=own)
        place = normal.sigmoid()
    if shift != 1.0:
        place = shift * place / (1 + (shift - 1) * place)
    first, end = span
    return (first + place * (end - first)).long().clamp(max=end - 1)


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
