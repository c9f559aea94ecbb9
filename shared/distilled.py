"""Distilled LoRAs (LCM, Lightning, DMD2, Hyper-SD): few steps, no guidance. What previews are for.

LCM-LoRA: https://arxiv.org/abs/2311.05556. SDXL-Lightning: https://arxiv.org/abs/2402.13929.
DMD2: https://arxiv.org/abs/2405.14867. Hyper-SD: https://arxiv.org/abs/2404.13686.
"""

from __future__ import annotations

import re
from typing import Annotated, get_args

import msgspec
from msgspec import Meta

from shared.errors import Code, LoraError
from shared.pictures import Weight, stem
from shared.recipe import Sampler

STEPS = 4  # where neither the name nor anybody says
_KINDS: dict[str, Sampler] = {  # by a word of the name: the sampler it was distilled for
    "lcm": "LCM",
    "dmd2": "LCM",
    "lightning": "Euler SGM Uniform",
    "hyper": "Euler SGM Uniform",
}
_ASKED = re.compile(
    r"(?P<lora>.+?)(?::(?P<weight>[-+]?(?:\d+\.?\d*|\.\d+)))?(?: (?P<steps>\d+)"
    rf"(?: (?P<sampler>{'|'.join(map(re.escape, get_args(Sampler)))}))?)?"
)


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """A distilled LoRA that a mix's previews are painted with, at guidance 1. The whole picture is
    painted without it."""

    lora: str  # a name in the library or the path of a .safetensors file
    weight: Weight = 1.0
    steps: Annotated[int, Meta(ge=1, le=50)] = STEPS
    sampler: Sampler = "LCM"


def read(text: str) -> Preview:
    """``NAME[:WEIGHT] [STEPS [SAMPLER]]``; what is left out is as the name says. Raises
    LoraError(BAD_REQUEST)."""
    match = _ASKED.fullmatch(text.strip())
    if match is not None:
        name, given = match["lora"], match.groupdict()
        sampler, steps = usual(name)
        values = {
            "lora": name,
            "weight": float(given["weight"] or 1.0),
            "steps": int(given["steps"] or steps),
            "sampler": given["sampler"] or sampler,
        }
        try:
            return msgspec.convert(values, Preview)
        except msgspec.ValidationError:
            pass
    raise LoraError(
        Code.BAD_REQUEST,
        f"{text!r} is no LoRA for previews: write its name, and if need be its weight, steps "
        "(1 to 50) and sampler, such as lcm-lora:1 4 LCM.",
    )


def said(preview: Preview) -> str:
    """As ``read`` takes it."""
    return f"{preview.lora}:{preview.weight:g} {preview.steps} {preview.sampler}"


def usual(lora: str) -> tuple[Sampler, int]:
    """The sampler and steps that a distilled LoRA is made for, by its name."""
    name = stem(lora).lower()
    sampler: Sampler = next((one for word, one in _KINDS.items() if word in name), "LCM")
    steps = re.search(r"(\d+)[-_ ]?steps?", name)
    count = int(steps[1]) if steps else STEPS
    return sampler, count if 1 <= count <= 50 else STEPS
