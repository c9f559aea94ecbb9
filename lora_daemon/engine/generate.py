"""From words to pictures: text, latents, denoising with guidance, pixels, PNG."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lora_daemon.engine import starting, wording
from lora_daemon.engine.approximate import Decode
from lora_daemon.engine.bases import DTYPES, Base
from lora_daemon.engine.encoders import ORDINARY, Reading
from lora_daemon.engine.mix import Further, Turned
from lora_daemon.engine.objectives import expected
from lora_daemon.engine.samplers import timed
from shared.errors import Code, LoraError
from shared.files import publish
from shared.pictures import PictureSpec, taken

MAX_BATCH = 8
RESCALE = 0.7  # φ of the guidance on bases with zero terminal SNR
Progress = Callable[[int], None]  # called after each denoising step with those done
Turn = Callable[[int], Turned]  # called before each, with those done
Look = Callable[[Callable[[], Tensor]], None]  # called after each, with what is expected at the end


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
    turn: Turn = lambda _: Turned(),
    until: float = 1.0,
    look: Look = lambda _: None,
    decode: Decode | None = None,
) -> list[Image.Image]:
    """Pictures for specs that share all but their words and seeds; their LoRAs are on the base.

    Each picture has its own generator, so it does not depend on its neighbours. ``progress`` may
    raise to give up; ``turn`` may give LoRAs other weights. ``until``: the part of the steps, from
    the first, that are guided. ``look`` is told at each step but the last how to get the latents
    that the pictures are on the way to. ``decode``: none is the base's VAE. Raises LoraError:
    DIVERGED where a picture comes out as NaN, INVALID_FILE for a picture to begin from that cannot
    be read.
    """
    latents = paint_latents(base, specs, progress, reading, turn, until, look)
    decode = decode or base.decode_latents
    return [to_picture(decode(one[None])) for one in latents]


@torch.no_grad()
def paint_latents(
    base: Base,
    specs: Sequence[PictureSpec],
    progress: Progress,
    reading: Reading = ORDINARY,
    turn: Turn = lambda _: Turned(),
    until: float = 1.0,
    look: Look = lambda _: None,
) -> Tensor:
    """As ``paint``, but the pictures' scaled latents: float32 (n, channels, h/8, w/8)."""
    first = specs[0]
    if base.distilled and any(spec.negative for spec in specs):
        raise LoraError(
            Code.BAD_REQUEST,
            f"{base.family.title} takes no negative prompt: guidance was distilled into it. Leave "
            "the negative prompt empty.",
        )
    size = sized(first, base)
    begun = None
    if first.start is not None:
        begun = starting.read(base, first.start.picture, size).expand(len(specs), -1, -1, -1)
    strength = first.start.strength if first.start else 1.0
    latents = _denoised(
        base, specs, size, first.steps, begun, strength, progress, reading, turn, until, look
    )
    if first.second is not None:
        done = first.work - taken(first.second.steps or first.steps, first.second.strength)
        size = msgspec.structs.replace(first, width=size[0], height=size[1]).final_size
        latents = _denoised(
            base, specs, size, first.second.steps or first.steps,
            starting.enlarged(
                base, latents, size, first.second.upscaler, lambda: progress(done)
            ),
            first.second.strength, lambda step: progress(done + step), reading, turn, until,
            look,
        )  # fmt: skip
    if not bool(torch.isfinite(latents).all()):
        precision = next(name for name, dtype in DTYPES.items() if dtype == base.dtype)
        raise LoraError(
            Code.DIVERGED,
            f"The picture came out as NaN: numbers grew beyond what {precision} can hold.",
        )
    return latents


def _denoised(
    base: Base, specs: Sequence[PictureSpec], size: tuple[int, int], count: int,
    begun: Tensor | None, strength: float, progress: Progress, reading: Reading, turn: Turn,
    until: float, look: Look,
) -> Tensor:  # fmt: skip
    """Latents out of noise, or out of those that are ``begun``, of which the last steps are taken:
    as many of ``count`` as ``strength`` says."""
    first = specs[0]
    generators = [torch.Generator().manual_seed(spec.seed) for spec in specs]
    shape = latent_shape(base, *size)
    steps = schedule(base, first, size, count)
    noise = torch.cat(
        [
            starting.noise(shape, own, spec.variation)
            for spec, own in zip(specs, generators, strict=True)
        ]
    ).to(base.device)
    left = taken(count, strength)
    timesteps = steps.timesteps
    latents: Tensor
    if begun is None:
        latents = noise * steps.init_noise_sigma
    elif not left:
        return begun
    else:
        skipped = max(-(-len(timesteps) // steps.order) - left, 0)  # some look twice at each
        timesteps = timesteps[skipped * steps.order :]
        if hasattr(steps, "set_begin_index"):
            steps.set_begin_index(len(steps.timesteps) - len(timesteps))
        latents = steps.add_noise(begun, noise, timesteps[:1].expand(len(specs)))
    before = len(steps.timesteps) - len(timesteps)

    def place(number: int, of: int) -> int:
        return (before + number) * of // len(steps.timesteps)

    now = turn(place(0, first.steps))
    text = conditioning(base, specs, reading, guided=first.cfg > 1)
    known: dict[int, Tensor] = {}
    adds_noise = "generator" in inspect.signature(steps.step).parameters
    for number, timestep in enumerate(timesteps):
        if number:
            now = turn(place(number, first.steps))
        if number and now.anew:
            text = conditioning(base, specs, reading, guided=first.cfg > 1)
            known = {}
        seen = steps.scale_model_input(latents, timestep)
        plainly = before + number >= until * len(steps.timesteps)
        said = text[-len(specs) :] if plainly else text  # without the negative prompts
        further = without(base, specs, now.further, seen, timestep, text, known, reading)
        predicted = guided(base, seen, timestep, said, first.cfg, further)
        more = {"generator": generators} if adds_noise else {}
        latents = steps.step(predicted, timestep, latents, **more).prev_sample
        progress((number + 1) * left // len(timesteps))
        if number + 1 < len(timesteps):
            look(partial(expected, base, seen, predicted, timestep))
    return latents


def latent_shape(base: Base, width: int, height: int) -> tuple[int, int, int, int]:
    """Of the latents of one picture of this size in pixels."""
    unit = base.pixels_per_latent
    return (1, base.latent_channels, height // unit, width // unit)


def schedule(
    base: Base, spec: PictureSpec, size: tuple[int, int] | None = None, count: int = 0
) -> Any:
    """A fresh scheduler for a picture, its timesteps set; ``size`` in pixels and ``count`` of steps
    where they are not the picture's own. Raises LoraError(BAD_REQUEST) as ``samplers.scheduler``.
    """
    shape = latent_shape(base, *(size or sized(spec, base)))
    shift = base.shift(*shape[2:]) if base.family.flows else 0.0
    return timed(spec.sampler, base.scheduler_config, count or spec.steps, base.device, shift)


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
    return wording.conditioning(base, texts, reading)


def guided(
    base: Base, latents: Tensor, timestep: Tensor, text: Tensor, cfg: float,
    further: Sequence[tuple[float, Callable[[], Tensor]]] = (),
) -> Tensor:  # fmt: skip
    """Classifier-free guidance (Ho & Salimans, https://arxiv.org/abs/2207.12598), in float32. A
    guidance-distilled denoiser is told ``cfg`` and does it itself.

    ``further``: scales, and what is predicted with the prompts but without something that the base
    has now; the step goes so much further away from it (Karras et al.,
    https://arxiv.org/abs/2406.02507).
    """
    guided = len(text) == 2 * len(latents)
    seen = torch.cat([latents, latents]) if guided else latents
    predicted = base.denoise(seen, timestep, text, guidance=cfg)
    with_text = mixed = predicted[-len(latents) :]
    if guided:
        without = predicted[: len(latents)]
        mixed = without + cfg * (with_text - without)
    for scale, apart in further:
        mixed = mixed + scale * (with_text - apart())
    if guided and base.zero_snr:  # else it overexposes (https://arxiv.org/abs/2305.08891, 3.4)
        rescaled = mixed * (
            with_text.std((1, 2, 3), keepdim=True) / mixed.std((1, 2, 3), keepdim=True)
        )
        mixed = RESCALE * rescaled + (1 - RESCALE) * mixed
    return mixed


def without(
    base: Base, specs: Sequence[PictureSpec], further: Sequence[Further], seen: Tensor,
    timestep: Tensor, text: Tensor, known: dict[int, Tensor], reading: Reading = ORDINARY,
) -> list[tuple[float, Callable[[], Tensor]]]:  # fmt: skip
    """For ``guided``: the scale of each LoRA, and what is predicted without it. ``text``: what the
    prompts say with all; ``known``: what they say without each, so that they are read once."""

    def predicted(number: int, one: Further) -> Tensor:
        with one.without() as anew:
            if number not in known:  # in as many windows as with all, which a negative may set
                said = text
                if anew:
                    said = conditioning(base, specs, reading, guided=specs[0].cfg > 1)
                known[number] = said[-len(specs) :]
            return base.denoise(seen, timestep, known[number], guidance=specs[0].cfg)

    return [(one.scale, partial(predicted, number, one)) for number, one in enumerate(further)]


def to_picture(pixels: Tensor) -> Image.Image:
    """Pixels (1, 3, h, w) in -1 … 1."""
    array = ((pixels[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))
