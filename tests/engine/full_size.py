"""The families' networks at full size without their memory: on torch's meta device."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_daemon.families import Family, Network
from lora_daemon.original_layout import to_original


@cache
def network(family: Family, name: Network) -> Any:
    """A network of full size on the meta device; not to be changed."""
    config = family.configs[name]
    with torch.device("meta"):
        if name == "unet":
            return UNet2DConditionModel.from_config(config)
        if name == "vae":
            return AutoencoderKL.from_config(config)
        projects = "CLIPTextModelWithProjection" in config["architectures"]
        kind = CLIPTextModelWithProjection if projects else CLIPTextModel
        return kind(CLIPTextConfig(**config))


def tensors(family: Family, name: Network) -> dict[str, Tensor]:
    """Its tensors as diffusers names them in files."""
    found = network(family, name).state_dict()
    if name.startswith("text_encoder"):
        outside = ("text_model.", "text_projection.")
        found = {k if k.startswith(outside) else f"text_model.{k}": t for k, t in found.items()}
    return found


@cache
def original(family: Family) -> dict[str, Tensor]:
    """All of a family as one file of the original code has it, on the meta device."""
    whole = {}
    for name in family.parts:
        here = tensors(family, name)
        for key, rows in to_original(family.rows(name, family.configs[name])).items():
            parts = [here[row.diffusers] for row in rows]
            tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
            match rows[0].form:
                case "turned":
                    tensor = tensor.T.contiguous()
                case "point":
                    tensor = tensor[..., None, None]
            whole[key] = tensor
    return whole


def write_hollow(
    path: Path,
    family: Family,
    more: Mapping[str, tuple[int, ...]] | None = None,
    without: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A file of full size and true header that takes no disk: all its numbers are zero.

    ``more``: further tensors. ``without``: leave out what begins so.
    """  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in original(family).items()}
    shapes = {name: one for name, one in shapes.items() if not without or without not in name}
    header: dict[str, Any] = {"__metadata__": dict(metadata or {})}
    begin = 0
    for name, shape in {**shapes, **(more or {})}.items():
        end = begin + math.prod(shape) * 2
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + begin)
    return path
