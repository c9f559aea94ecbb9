"""Weights per block of the denoiser, in the WebUI's notation (its extension's ``lbw=``).

A list of numbers stands for BASE (the text encoder and what lies outside the blocks), then the
input blocks, the middle and the output blocks: all of them (26 numbers for SD 1.x, 20 for SDXL) or
those with attention (17 and 12). FLUX's are BASE, its blocks of two streams and those of one, D00 …
D18 and S00 … S37: 58 numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shared.errors import Code, LoraError

BASE = "BASE"
TEXT = "TEXT"  # where a text encoder's modules stand among the blocks
_PLACE = re.compile(
    r"^(?P<side>down|up)_blocks\.(?P<block>\d+)\."
    r"(?P<what>resnets|attentions|downsamplers|upsamplers)\.(?P<layer>\d+)"
)
_STREAMS = re.compile(
    r"^(?:(?P<both>transformer_blocks|double_blocks)|single_(?:transformer_)?blocks)\.(?P<block>\d+)\."
)
# Names for lists of 17, as input, middle and output thirds are on (1) or off (0).
_PRESETS = {
    "NONE": "0" * 17,
    "ALL": "1" * 17,
    "INS": "11100000000000000",
    "IND": "10001110000000000",
    "INALL": "11111110000000000",
    "MIDD": "10001111111100000",
    "OUTD": "10000000111100000",
    "OUTS": "10000000000011111",
    "OUTALL": "10000000111111111",
}


def read(text: str) -> list[float]:
    """``1,0,0.5,…`` or a preset's name such as ``OUTD``. Raises LoraError(BAD_REQUEST)."""
    if preset := _PRESETS.get(text.strip().upper()):
        return [float(one) for one in preset]
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise LoraError(
            Code.BAD_REQUEST,
            f"The block weights {text!r} are neither numbers with commas between them nor one of "
            f"{', '.join(_PRESETS)}.",
        ) from None


def label(path: str, layers: int) -> str:
    """The block of a denoiser's module by its path. ``layers``: a UNet's layers a block."""
    if path.startswith("mid_block."):
        return "M00"
    if path.startswith("conv_in"):
        return "IN00"
    if match := _STREAMS.match(path):
        return f"{'D' if match['both'] else 'S'}{int(match['block']):02d}"
    if not (match := _PLACE.match(path)):
        return BASE
    within = layers if match["what"] in ("downsamplers", "upsamplers") else int(match["layer"])
    number = int(match["block"]) * (layers + 1) + within
    return f"IN{number + 1:02d}" if match["side"] == "down" else f"OUT{number:02d}"


def stage(label: str, layers: int) -> str:
    """The UNet's own name for where a block lies, such as up.1; empty outside of the blocks."""
    if label.startswith("OUT"):
        return f"up.{int(label[3:]) // (layers + 1)}"
    if label.startswith("IN"):
        return f"down.{max(int(label[2:]) - 1, 0) // (layers + 1)}"
    return "mid" if label == "M00" else ""


def without(label: str, values: Sequence[float], config: Mapping[str, Any]) -> list[float]:
    """The block weights with one block at 0; ``values`` empty: all 1."""
    own = factors(values, config) if values else dict.fromkeys(labels(config), 1.0)
    return [0.0 if one == label else own[one] for one in labels(config)]


def scaled(
    by: Mapping[str, float], values: Sequence[float], config: Mapping[str, Any]
) -> list[float]:  # fmt: skip
    """The block weights with these blocks' multiplied, as short as can be."""
    every, attending = _labels(config)
    own = factors(values, config) if values else dict.fromkeys(every, 1.0)
    made = {one: round(own[one] * by.get(one, 1.0), 3) for one in every}
    plain = all(own[one] == made[one] for one in every if one not in attending)
    short = plain and (not values or len(values) == len(attending))
    return [made[one] for one in (attending if short else every)]


def labels(config: Mapping[str, Any]) -> list[str]:
    """BASE and all blocks of a UNet of this configuration, in their order."""
    return _labels(config)[0]


def factors(values: Sequence[float], config: Mapping[str, Any]) -> dict[str, float]:
    """Block → factor for a UNet of this configuration; every block there is has one.

    Raises LoraError(BAD_REQUEST) with the lengths that this base understands.
    """
    every, attending = _labels(config)
    for labels in (every, attending):
        if len(values) == len(labels):
            given = dict(zip(labels, values, strict=True))
            return {one: given.get(one, 0.0) for one in every}
    raise LoraError(
        Code.BAD_REQUEST,
        f"{len(values)} block weights do not fit this base: it takes {len(attending)} (BASE and "
        f"the blocks with attention) or {len(every)} (BASE and all blocks).",
    )


def _labels(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """BASE and all blocks; BASE and those with attention."""
    if "num_single_layers" in config:
        every = [f"D{number:02d}" for number in range(int(config["num_layers"]))]
        every += [f"S{number:02d}" for number in range(int(config["num_single_layers"]))]
        return [BASE, *every], [BASE, *every]
    layers = int(config["layers_per_block"])
    down, up = config["down_block_types"], config["up_block_types"]
    inputs = {"IN00": False}
    for block, kind in enumerate(down):
        for within in range(layers + (block < len(down) - 1)):
            attends = "CrossAttn" in kind and within < layers
            inputs[f"IN{block * (layers + 1) + within + 1:02d}"] = attends
    outputs = {
        f"OUT{block * (layers + 1) + within:02d}": "CrossAttn" in kind
        for block, kind in enumerate(up)
        for within in range(layers + 1)
    }
    blocks = inputs | {"M00": True} | outputs
    return [BASE, *blocks], [BASE, *(one for one, attends in blocks.items() if attends)]
