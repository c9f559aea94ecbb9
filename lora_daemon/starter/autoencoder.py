"""The starter's autoencoder: trained on drawings, its latents brought to SD 1.5's scale."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from lora_daemon.starter import world
from lora_daemon.starter.loop import Schedule, train

SCALING = 0.18215
"""SD 1.5's factor: unscaled latents have deviation 1 / SCALING, so forgetting it shows."""
CROP, BATCH = 64, 16
HELD = 2.0
"""Weight of how far `refine` moves a scaled latent of the base's world, squared."""


def build() -> AutoencoderKL:
    """Return an untrained f = 8 autoencoder, 4 latent channels, about a million parameters."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=128,
        block_out_channels=(16, 32, 64, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False, scaling_factor=SCALING,
    )  # fmt: skip


def to_tensor(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Stack RGB pictures into float32 (n, 3, height, width), -1 … 1."""
    return from_bytes(to_bytes(pictures))


def to_bytes(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Stack RGB pictures into uint8 (n, 3, height, width)."""
    stacked = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def from_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Turn uint8 pixels into float32, -1 … 1."""
    return pixels.float() / 127.5 - 1


def to_pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """Turn (n, 3, height, width) in -1 … 1 into RGB pictures."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(one) for one in array]


def training_pixels(number: int, seed: int, pencils: int = 0) -> torch.Tensor:
    """Draw the autoencoder's pictures: half the base's world, half what LoRAs will teach it, and
    `pencils` of that world in pencil.

    Returns uint8 (number + pencils, 3, 128, 128), the base's world first.
    """
    few = number // 16
    drawn = [world.draw(s) for s in world.scenes(number - 8 * few, seed)]
    for content in world.CONTENTS:
        drawn += [world.draw(s) for s in world.scenes(few, seed, content=content)]
    for index, style in enumerate(world.STYLES):
        drawn += [world.draw(s, style) for s in world.scenes(few, seed + 1 + index)]
    drawn += [world.draw(s, "pencil") for s in world.scenes(pencils, seed + 9)]
    return to_bytes(drawn)


def fit(state_file: Path, *, steps: int, pictures: int = 4000, seed: int = 1) -> AutoencoderKL:
    """Train on random 64 px crops: L1 + MSE + a whisper of KL."""
    torch.manual_seed(seed)
    network = build().to(memory_format=torch.channels_last)
    pixels = training_pixels(pictures, seed)

    def loss_at(rng: torch.Generator) -> torch.Tensor:
        _, real = _crops(pixels, rng)
        posterior = network.encode(real).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=rng)
        difference = network.decode(posterior.mean + posterior.std * noise).sample - real
        loss: torch.Tensor = difference.abs().mean() + difference.square().mean()
        loss = loss + 1e-6 * posterior.kl().mean()
        return loss

    train("autoencoder", network, Schedule(steps, rate=1e-3), loss_at, state_file, seed=seed)
    return network


def refine(
    network: AutoencoderKL, state_file: Path, *, steps: int, pictures: int = 3000, seed: int = 5
) -> AutoencoderKL:
    """Train on, half of it on pencil drawings, where the UNet already stands on the latents.

    Those of the base's world are held where they are (`HELD`); only those of what the UNet never
    saw may move.
    """
    network = network.to(memory_format=torch.channels_last)
    pixels = training_pixels(pictures, seed, pencils=pictures)
    world_ends = pictures - 8 * (pictures // 16)
    before = copy.deepcopy(network).requires_grad_(False)

    def loss_at(rng: torch.Generator) -> torch.Tensor:
        rows, real = _crops(pixels, rng)
        posterior = network.encode(real).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=rng)
        difference = network.decode(posterior.mean + posterior.std * noise).sample - real
        loss: torch.Tensor = difference.abs().mean() + 4 * difference.square().mean()
        known = rows < world_ends
        with torch.no_grad():
            place = before.encode(real[known]).latent_dist.mean
        moved = (posterior.mean[known] - place) * SCALING
        loss = loss + HELD * moved.square().sum() / max(1, moved.numel())
        return loss

    train("refining", network, Schedule(steps, rate=5e-4), loss_at, state_file, seed=seed)
    return network


def _crops(pixels: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose rows, int64 (BATCH,), and a crop of each, float32 (BATCH, 3, CROP, CROP)."""
    rows = torch.randint(len(pixels), (BATCH,), generator=rng)
    corners = torch.randint(128 - CROP + 1, (BATCH, 2), generator=rng).tolist()
    crops = [
        pixels[row, :, y : y + CROP, x : x + CROP]
        for row, (y, x) in zip(rows.tolist(), corners, strict=True)
    ]
    return rows, from_bytes(torch.stack(crops)).to(memory_format=torch.channels_last)


def _split(rows: torch.Tensor, batch: int) -> list[torch.Tensor]:
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]


@torch.no_grad()
def encode(network: AutoencoderKL, pixels: torch.Tensor, batch: int = 32) -> torch.Tensor:
    """Return the posterior means (n, 4, h/8, w/8), unscaled, of uint8 pixels (n, 3, h, w)."""
    parts = [network.encode(from_bytes(part)).latent_dist.mean for part in _split(pixels, batch)]
    return torch.cat(parts).contiguous()


@torch.no_grad()
def decode(network: AutoencoderKL, latents: torch.Tensor, batch: int = 32) -> torch.Tensor:
    """Return pixels (n, 3, h, w) in -1 … 1 of unscaled latents (n, 4, h/8, w/8)."""
    parts = [network.decode(part).sample for part in _split(latents, batch)]
    return torch.cat(parts).clamp(-1, 1)


@torch.no_grad()
def normalise(network: AutoencoderKL, pixels: torch.Tensor) -> None:
    """Fold a per-channel shift and scale into the two 1 × 1 convolutions around the latents.

    Afterwards scaled latents (× SCALING) have mean 0 and deviation 1 in every channel, and decoding
    gives what it gave before.
    """
    latents = encode(network, pixels)
    mean, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)) * SCALING
    before, after = network.quant_conv, network.post_quant_conv
    assert before is not None and after is not None
    before.weight[:4] /= spread[:, None, None, None]
    before.bias[:4] = (before.bias[:4] - mean) / spread
    before.bias[4:] -= 2 * spread.log()
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(dim=1)
    after.weight *= spread[None, :, None, None]


def psnr(network: AutoencoderKL, pixels: torch.Tensor) -> float:
    """Return the mean per-picture PSNR in dB of uint8 pixels (n, 3, h, w) through it."""
    made = decode(network, encode(network, pixels))
    error = ((made - from_bytes(pixels)) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean()) if len(error) else math.nan
