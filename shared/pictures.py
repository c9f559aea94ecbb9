"""What to paint: the request for one generated picture, and its standard ``parameters`` text."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from shared.recipe import Sampler, Text

Weight = Annotated[float, Meta(ge=-10, le=10)]
Share = Annotated[float, Meta(ge=0, le=1)]


class LoraUse(msgspec.Struct, frozen=True, kw_only=True):
    """One LoRA at a weight: the factor on ΔW = (alpha / rank) · B A.

    ``text_weight``: on the text encoders; none: as ``weight``. ``blocks``: factors on both, per
    block, as ``shared.blocks`` reads them; empty: all 1. ``begin``, ``end``: the part of the
    denoising steps that it takes part in.
    """

    lora: str  # a name in the library or the path of a .safetensors file
    weight: Weight = 1.0
    text_weight: Weight | None = None
    blocks: Annotated[list[Weight], Meta(max_length=100)] = []
    begin: Share = 0.0
    end: Share = 1.0

    def span(self, steps: int) -> tuple[int, int]:
        """The first of ``steps`` that it takes part in, counted from 0, and the first after."""
        return round(self.begin * steps), round(self.end * steps)


class PictureSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a picture's pixels."""

    base: str = "starter"
    prompt: Text = ""
    negative: Text = ""
    sampler: Sampler = "Euler"
    steps: Annotated[int, Meta(ge=1, le=1000)] = 20
    cfg: Annotated[float, Meta(ge=0, le=100)] = 7.0
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 1025
    width: Annotated[int, Meta(ge=0, le=8192)] = 0  # pixels, a multiple of 8; 0: the base's own
    height: Annotated[int, Meta(ge=0, le=8192)] = 0
    loras: list[LoraUse] = []


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
    ]
    if lora_hashes:
        pairs = ", ".join(f"{name}: {digest}" for name, digest in lora_hashes.items())
        fields.append(f'Lora hashes: "{pairs}"')
    fields.append("Version: lora-tui")
    return "\n".join([*lines, ", ".join(fields)])


def tag(use: LoraUse, steps: int) -> str:
    """The LoRA as it stands in the WebUI prompt of a picture with so many steps. Which of them it
    takes part in is in the words of the block weight extension."""
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
    return f"<lora:{stem(use.lora)}:{weights}>"


def stem(lora: str) -> str:
    """A LoRA's name, also where it is given by its path."""
    name = lora.replace("\\", "/").rsplit("/", 1)[-1]
    return name.removesuffix(".safetensors")
