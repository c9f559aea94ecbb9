"""The families' networks at full size without their memory: on torch's meta device."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_daemon.families import Family, Network
from lora_daemon.original_layout import to_original


def network(family: Family, name: Network) -> Any:
    """A network of full size on the meta device."""
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
