"""What to paint: the request for one generated picture, and its standard ``parameters`` text."""

from __future__ import annotations

import difflib
from typing import Annotated, get_args

import msgspec
from msgspec import Meta

from shared import regions
from shared.errors import Code, LoraError
from shared.recipe import Sampler, Text
from shared.regions import Region, Share

Weight = Annotated[float, Meta(ge=-10, le=10)]
Seed = Annotated[int, Meta(ge=0, lt=2**62)]
UPSCALERS = ("Latent", "Lanczos")  # what enlarges between two passes without a network


def steps_between(begin: float, end: float, steps: int) -> tuple[int, int]:
    """Shares of the way as the first of ``steps``, counted from 0, and the first after."""
    return round(begin * steps), round(end * steps)


class LoraUse(msgspec.Struct, frozen=True, kw_only=True):
    """One LoRA at a weight: the factor on ΔW = (alpha / rank) · B A.

    ``text_weight``: on the text encoders; none: as ``weight``. ``blocks``: factors on both, per
    block, as ``shared.blocks`` reads them; empty: all 1. ``begin``, ``end``: the part of the
    denoising steps that it takes part in. ``region``: the part of the picture that it acts in; its
    text encoder part, which has no place there, is then left out unless ``text_weight`` is given.
    ``guidance``: how much further each step goes along what the LoRA adds to the mix, with the
    prompt, in units of ``cfg``: ε + guidance · (ε(mix) − ε(mix without it)). Each LoRA that has one
    takes half as long again.
    """

    lora: str  # a name in the library or the path of a .safetensors file
    weight: Weight = 1.0
    text_weight: Weight | None = None
    blocks: Annotated[list[Weight], Meta(max_length=100)] = []
    begin: Share = 0.0
    end: Share = 1.0
    region: Region | None = None
    guidance: Annotated[float, Meta(ge=0, le=100)] = 0.0

    def span(self, steps: int) -> tuple[int, int]:
        """The first of ``steps`` that it takes part in, counted from 0, and the first after."""
        return steps_between(self.begin, self.end, steps)


class Variation(msgspec.Struct, frozen=True, kw_only=True):
    """Another seed's noise mixed in, on the sphere: 0 is the picture itself, 1 the other seed's."""

    seed: Seed
    strength: Share


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A picture to begin from instead of noise (img2img), cut to the size that is asked for.

    ``strength``: how much of it is drawn anew, as the part of the denoising steps that is taken; 0
    draws nothing.
    """

    picture: Text  # an id of the gallery, or a path on the daemon's machine
    strength: Share = 0.75


class SecondPass(msgspec.Struct, frozen=True, kw_only=True):
    """The finished picture enlarged and drawn anew in part, for more detail (Hires. fix).

    ``upscaler``: Latent, Lanczos, or a network (ESRGAN and its successors): its name in the
    workspace's ``upscalers`` folder, or the path of a .safetensors file.
    """

    scale: Annotated[float, Meta(ge=1, le=4)] = 2.0
    strength: Share = 0.3
    steps: Annotated[int, Meta(ge=0, le=1000)] = 0  # 0: as many as the first pass
    upscaler: Annotated[Text, Meta(min_length=1)] = "Latent"


class PictureSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a picture's pixels."""

    base: str = "starter"
    prompt: Text = ""
    negative: Text = ""
    sampler: Sampler = "Euler"
    steps: Annotated[int, Meta(ge=1, le=1000)] = 20
    cfg: Annotated[float, Meta(ge=0, le=100)] = 7.0
    seed: Seed = 1025
    width: Annotated[int, Meta(ge=0, le=8192)] = 0  # pixels, a multiple of 8; 0: the base's own
    height: Annotated[int, Meta(ge=0, le=8192)] = 0
    loras: list[LoraUse] = []
    variation: Variation | None = None
    start: Start | None = None
    second: SecondPass | None = None

    @property
    def work(self) -> int:
        """Denoising steps that the picture takes."""
        first = taken(self.steps, self.start.strength) if self.start else self.steps
        if self.second is None:
            return first
        return first + taken(self.second.steps or self.steps, self.second.strength)

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height in pixels of what comes out, multiples of 8."""
        scale = self.second.scale if self.second else 1.0
        return round(self.width * scale / 8) * 8, round(self.height * scale / 8) * 8


def taken(steps: int, strength: float) -> int:
    """How many of the steps are taken where a picture is drawn anew at this strength."""
    return min(int(steps * strength + 1e-6), steps)


def sampler_named(text: str) -> str:
    """The sampler that is meant, however its name is capitalised. Raises LoraError(BAD_REQUEST)."""
    every: dict[str, str] = {name.lower(): name for name in get_args(Sampler)}
    if text.lower() in every:
        return every[text.lower()]
    close = difflib.get_close_matches(text.lower(), every, n=3)
    there = f"There are {', '.join(every.values())}."
    if close:
        there = f"Did you mean {' or '.join(every[name] for name in close)}?"
    raise LoraError(Code.BAD_REQUEST, f"There is no sampler {text!r}. {there}")


def parameters_text(
    spec: PictureSpec, *, model: str, model_hash: str, lora_hashes: dict[str, str]
) -> str:
    """The PNG text chunk ``parameters`` in the form the WebUI family writes and reads.

    ``model_hash``: first 10 hex digits of the base's SHA-256. ``lora_hashes``: file stem → short
    hash. LoRAs appear in the prompt as ``<lora:name:weight>`` (``:te:unet`` where they differ).
    """
    tags = "".join(f" {tag(use, spec.steps)}" for use in spec.loras)
    lines = [spec.prompt + tags]
    if spec.negative:
        lines.append(f"Negative prompt: {spec.negative}")
    fields = [
        f"Steps: {spec.steps}",
        f"Sampler: {spec.sampler}",
        f"CFG scale: {spec.cfg:g}",
        f"Seed: {spec.seed}",
        f"Size: {spec.width}x{spec.height}",
        f"Model hash: {model_hash}",
        f"Model: {model}",
        *more(spec.variation, spec.start.strength if spec.start else None, spec.second),
    ]
    if lora_hashes:
        pairs = ", ".join(f"{name}: {digest}" for name, digest in lora_hashes.items())
        fields.append(f'Lora hashes: "{pairs}"')
    fields.append("Version: lora-tui")
    return "\n".join([*lines, ", ".join(fields)])


def more(
    variation: Variation | None, strength: float | None, second: SecondPass | None
) -> list[str]:
    """Fields that are said only of pictures that have them. ``strength``: of a beginning."""
    fields = []
    if variation is not None:
        fields.append(f"Variation seed: {variation.seed}")
        fields.append(f"Variation seed strength: {variation.strength:g}")
    if strength is not None:
        fields.append(f"Denoising strength: {strength:g}")
    if second is not None:
        fields.append(f"Denoising strength: {second.strength:g}")
        fields.append(f"Hires upscale: {second.scale:g}")
        if second.steps:
            fields.append(f"Hires steps: {second.steps}")
        fields.append(f"Hires upscaler: {stem(second.upscaler)}")
    return fields


def tag(use: LoraUse, steps: int) -> str:
    """The LoRA as it stands in the WebUI prompt of a picture with so many steps. Which of them it
    takes part in is in the words of the block weight extension; where it acts and how far pictures
    are guided along it is in ours, which others leave unread."""
    weights = f"{use.weight:g}"
    if use.text_weight is not None:
        weights = f"{use.text_weight:g}:{use.weight:g}"
    if use.blocks:
        weights += f":lbw={','.join(f'{one:g}' for one in use.blocks)}"
    begin, end = use.span(steps)
    if use.begin:
        weights += f":start={begin}"
    if use.end < 1:
        weights += f":stop={end}"
    if use.region is not None:
        weights += f":where={regions.said(use.region)}"
    if use.guidance:
        weights += f":guide={use.guidance:g}"
    return f"<lora:{stem(use.lora)}:{weights}>"


def stem(lora: str) -> str:
    """A LoRA's name, also where it is given by its path."""
    name = lora.replace("\\", "/").rsplit("/", 1)[-1]
    return name.removesuffix(".safetensors")
