"""What denoising begins from: a seed's noise, varied by another's; a picture; one made larger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from lora_daemon import pictures
from lora_daemon.engine import upscaling
from lora_daemon.engine.bases import Base
from shared.filenames import typed
from shared.pictures import UPSCALERS, Variation


def noise(shape: tuple[int, ...], own: torch.Generator, variation: Variation | None) -> Tensor:
    """A picture's noise, from its generator; with a variation, on the great circle to the other
    seed's, as far as its strength says."""
    plain = torch.randn(shape, generator=own)
    if variation is None or not variation.strength:
        return plain
    other = torch.randn(shape, generator=torch.Generator().manual_seed(variation.seed))
    cosine = F.cosine_similarity(plain.flatten(), other.flatten(), dim=0)
    angle = torch.arccos(cosine)
    if angle < 1e-3:  # one seed: both are the same
        return plain
    share = variation.strength
    parts = torch.sin((1 - share) * angle) * plain + torch.sin(share * angle) * other
    return parts / torch.sin(angle)


def read(base: Base, path: str, size: tuple[int, int]) -> Tensor:
    """A picture file's latents, (1, channels, h/8, w/8), scaled; what does not fit ``size``, in
    pixels, is cut off at both sides. Raises LoraError(INVALID_FILE)."""
    found = pictures.load(Path(typed(path)))
    picture = ImageOps.fit(found, size, Image.Resampling.LANCZOS)
    return base.encode_pixels(_pixels(picture))[0]


def enlarged(
    base: Base, latents: Tensor, size: tuple[int, int], upscaler: str,
    check: Callable[[], None] = lambda: None,
) -> Tensor:  # fmt: skip
    """Latents of pictures of ``size`` pixels: interpolated as they are ("Latent"), or as pictures
    by a Lanczos filter, which keeps edges and costs the autoencoder's two ways, or by a network,
    whose file ``upscaler`` then is. ``check`` may raise to give up. Raises LoraError as
    ``upscaling.Network``."""
    width, height = (side // base.pixels_per_latent for side in size)
    if upscaler == "Latent":
        return F.interpolate(latents, (height, width), mode="bilinear")
    network = None
    if upscaler not in UPSCALERS:
        network = upscaling.Network(Path(typed(upscaler)), base.device)
    found = []
    for one in latents:
        shown = (base.decode_latents(one[None]).float().cpu() + 1) / 2
        # What is larger in the end than the network makes it goes through it once more.
        while network is not None and max(shown.shape[2:]) < max(size):
            shown = network.enlarge(shown, check)
        pixels = (shown[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        larger = picture.resize(size, Image.Resampling.LANCZOS)
        found.append(base.encode_pixels(_pixels(larger))[0])
    return torch.cat(found)


def _pixels(picture: Image.Image) -> Tensor:
    """Float32 (1, 3, h, w) in -1 … 1."""
    values = torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32))
    return values.permute(2, 0, 1)[None] / 127.5 - 1
