"""How each kind of denoiser is called: the one place that knows its arguments.

A call takes noisy latents (n, channels, h, w), timesteps (a scalar or (n,)), the conditioning's
rows and pooled output, and gives the prediction in the latents' shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor

from lora_daemon.families import Network

CLASSES: dict[Network, Any] = {
    "unet": UNet2DConditionModel, "transformer": FluxTransformer2DModel,
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """What a denoiser is told besides the latents. ``text``: (n, rows, width); ``pooled``: (n,
    width) where the family has one; ``views``: float32 (n, 6), SDXL's; ``guidance``: the scale that
    a guidance-distilled denoiser is told, None for others."""

    text: Tensor
    pooled: Tensor | None
    views: Tensor | None
    guidance: float | None


def unet(network: Any, noisy: Tensor, timesteps: Tensor, given: Given) -> Tensor:
    """A UNet, and what SDXL's is told of the picture."""
    added = None
    if given.views is not None:
        added = {"text_embeds": given.pooled, "time_ids": given.views}
    seen = noisy.to(memory_format=torch.channels_last)
    predicted: Tensor = network(
        seen, timesteps, encoder_hidden_states=given.text, added_cond_kwargs=added,
        return_dict=False,
    )[0]  # fmt: skip
    return predicted


def flux(network: Any, noisy: Tensor, timesteps: Tensor, given: Given) -> Tensor:
    """FLUX's transformer: each two by two latents are one token, whose place is its row and column.

    A timestep is the noise level in thousandths.
    """
    count, channels, height, width = noisy.shape
    rows, columns = height // 2, width // 2
    tokens = noisy.view(count, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
    places = torch.zeros(rows, columns, 3, device=noisy.device, dtype=noisy.dtype)
    places[..., 1] = torch.arange(rows, device=noisy.device)[:, None]
    places[..., 2] = torch.arange(columns, device=noisy.device)[None]
    guidance = None
    if given.guidance is not None:
        guidance = torch.full((count,), given.guidance, device=noisy.device)
    predicted: Tensor = network(
        hidden_states=tokens.reshape(count, rows * columns, channels * 4),
        encoder_hidden_states=given.text, pooled_projections=given.pooled,
        timestep=timesteps.to(noisy.device).expand(count).float() / 1000, guidance=guidance,
        img_ids=places.reshape(rows * columns, 3),
        txt_ids=torch.zeros(given.text.shape[1], 3, device=noisy.device, dtype=noisy.dtype),
        return_dict=False,
    )[0]  # fmt: skip
    apart = predicted.view(count, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return apart.reshape(count, channels, height, width)


CALLS: dict[Network, Callable[[Any, Tensor, Tensor, Given], Tensor]] = {
    "unet": unet, "transformer": flux,
}  # fmt: skip
