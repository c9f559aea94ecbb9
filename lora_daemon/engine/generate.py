"""From words to pictures: text, latents, denoising with guidance, pixels, PNG."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lora_daemon.engine.bases import Base
from lora_daemon.engine.encoders import ORDINARY, Reading
from lora_daemon.engine.samplers import scheduler
from shared.errors import Code, LoraError
from shared.files import publish
from shared.pictures import PictureSpec

MAX_BATCH = 8
RESCALE = 0.7  # φ of the guidance on bases with zero terminal SNR
Progress = Callable[[int], None]  # called after each denoising step with those done
Turn = Callable[[int], bool]  # called before each, with those done: is the prompt to be read anew?


def sized(spec: PictureSpec, base: Base) -> tuple[int, int]:
    """Width and height in pixels; 0 takes the base's own. Raises LoraError(BAD_REQUEST)."""
    size = (spec.width or base.resolution, spec.height or base.resolution)
    unit = base.unit
    if any(side % unit or side < 8 * base.pixels_per_latent for side in size):
        raise LoraError(
            Code.BAD_REQUEST,
            f"A picture of {size[0]}×{size[1]} cannot be made: each side must be a multiple of "
            f"{unit} and at least {8 * base.pixels_per_latent}.",
        )
    return size


def paint(
    base: Base,
    specs: Sequence[PictureSpec],
    progress: Progress,
    reading: Reading = ORDINARY,
    turn: Turn = lambda _: False,
) -> list[Image.Image]:
    """Pictures for specs that share size, sampler, steps and cfg; their LoRAs are on the base.

    Each picture has its own generator, so it does not depend on its neighbours. ``progress`` may
    raise to give up; ``turn`` may give LoRAs other weights. Raises LoraError(DIVERGED) where a
    picture comes out as NaN.
    """
    latents = paint_latents(base, specs, progress, reading, turn)
    return [_picture(base.decode_latents(one[None])) for one in latents]


@torch.no_grad()
def paint_latents(
    base: Base,
    specs: Sequence[PictureSpec],
    progress: Progress,
    reading: Reading = ORDINARY,
    turn: Turn = lambda _: False,
) -> Tensor:
    """As ``paint``, but the pictures' scaled latents: float32 (n, channels, h/8, w/8)."""
    first = specs[0]
    width, height = sized(first, base)
    generators = [torch.Generator().manual_seed(spec.seed) for spec in specs]
    if base.distilled and any(spec.negative for spec in specs):
        raise LoraError(
            Code.BAD_REQUEST,
            f"{base.family.title} takes no negative prompt: guidance was distilled into it. Leave "
            "the negative prompt empty.",
        )
    shape = latent_shape(base, width, height)
    steps = schedule(base, first)
    steps.set_timesteps(first.steps, device=base.device)
    latents: Tensor = torch.cat([torch.randn(shape, generator=own) for own in generators])
    latents = latents.to(base.device) * steps.init_noise_sigma
    text = conditioning(base, specs, reading, guided=first.cfg > 1)
    adds_noise = "generator" in inspect.signature(steps.step).parameters
    for number, timestep in enumerate(steps.timesteps):
        if turn(number * first.steps // len(steps.timesteps)):
            text = conditioning(base, specs, reading, guided=first.cfg > 1)
        seen = steps.scale_model_input(latents, timestep)
        predicted = guided(base, seen, timestep, text, first.cfg)
        more = {"generator": generators} if adds_noise else {}
        latents = steps.step(predicted, timestep, latents, **more).prev_sample
        progress((number + 1) * first.steps // len(steps.timesteps))
    if not bool(torch.isfinite(latents).all()):
        raise LoraError(
            Code.DIVERGED,
            "The picture came out as NaN: the base's precision overflows, or a LoRA is broken.",
        )
    return latents


def latent_shape(base: Base, width: int, height: int) -> tuple[int, int, int, int]:
    """Of the latents of one picture of this size in pixels."""
    unit = base.pixels_per_latent
    return (1, base.latent_channels, height // unit, width // unit)


def schedule(base: Base, spec: PictureSpec) -> Any:
    """A fresh scheduler for a picture. Raises LoraError(BAD_REQUEST) as ``samplers.scheduler``."""
    width, height = sized(spec, base)
    shift = base.shift(*latent_shape(base, width, height)[2:]) if base.family.flows else 0.0
    return scheduler(spec.sampler, base.scheduler_config, shift)


def save_png(path: Path, picture: Image.Image, parameters: str) -> None:
    """Publish a PNG with the standard ``parameters`` text. Raises LoraError(STORAGE)."""
    info = PngInfo()
    info.add_text("parameters", parameters)
    content = io.BytesIO()
    picture.save(content, "PNG", pnginfo=info)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraError.storage("make", path.parent, error) from None
    publish(path, content.getvalue())


def conditioning(
    base: Base, specs: Sequence[PictureSpec], reading: Reading = ORDINARY, *, guided: bool
) -> Tensor:
    """What the prompts say to the denoiser: (n, rows, width), or (2n, rows, width) with the
    negative prompts first, if they are ``guided`` and guidance is not in the denoiser itself."""
    texts = [spec.prompt for spec in specs]
    if guided and not base.distilled:
        texts = [spec.negative for spec in specs] + texts
    known = {text: base.encode_text(text, reading) for text in dict.fromkeys(texts)}
    return torch.cat([known[text] for text in texts]).to(base.dtype)


def guided(base: Base, latents: Tensor, timestep: Tensor, text: Tensor, cfg: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, https://arxiv.org/abs/2207.12598), in float32. A
    guidance-distilled denoiser is told ``cfg`` and does it itself."""
    guided = len(text) == 2 * len(latents)
    seen = torch.cat([latents, latents]) if guided else latents
    predicted = base.denoise(seen, timestep, text, guidance=cfg)
    if not guided:
        return predicted
    without, with_text = predicted.chunk(2)
    mixed = without + cfg * (with_text - without)
    if base.zero_snr:  # guidance overexposes such a base (https://arxiv.org/abs/2305.08891, 3.4)
        rescaled = mixed * (
            with_text.std((1, 2, 3), keepdim=True) / mixed.std((1, 2, 3), keepdim=True)
        )
        mixed = RESCALE * rescaled + (1 - RESCALE) * mixed
    return mixed


def _picture(pixels: Tensor) -> Image.Image:
    array = ((pixels[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))
