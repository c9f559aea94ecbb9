"""LoRA files for every family have kohya's names, counts and metadata, at full size."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from torch import nn

from lora_daemon.families import IN_ONE_FILE, SD2, SDXL, Family
from lora_daemon.names import targeted, text_names, unet_names
from shared.lora_keys import split_key
from shared.lora_names import to_original
from tests.engine import full_size


def _names(family: Family) -> tuple[dict[str, str], list[dict[str, str]]]:
    unet = unet_names(family.configs["unet"], family.original_lora_names)
    texts = [
        text_names(family.configs[use.network]["num_hidden_layers"], "", use.lora_prefix)
        for use in family.encoders
    ]
    return unet, texts


@pytest.mark.parametrize(
    ("family", "linear", "convolutions", "text"),
    [("sd1", 192, 86, [72]), ("sd2", 192, 86, [138]), ("sdxl", 722, 66, [72, 192])],
)
def test_there_are_as_many_modules_as_kohya_makes(
    family: str, linear: int, convolutions: int, text: list[int]
) -> None:
    (one,) = [known for known in IN_ONE_FILE if known.name == family]
    unet, texts = _names(one)
    attentions = [path for path in unet if ".attentions." in path]
    assert (len(attentions), len(unet) - len(attentions)) == (linear, convolutions)
    assert [len(names) for names in texts] == text
    every = [*unet.values(), *(name for names in texts for name in names.values())]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("family", IN_ONE_FILE, ids=lambda family: family.name)
def test_every_path_is_a_linear_layer_or_a_convolution_of_the_network(family: Family) -> None:
    unet, texts = _names(family)
    network = full_size.network(family, "unet")
    kinds = {type(network.get_submodule(path)) for path in unet}
    assert all(issubclass(kind, nn.Linear | nn.Conv2d) for kind in kinds)
    trained = {
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and re.match(r"(down|up)_blocks|mid_block", path)
    }
    assert unet.keys() == trained
    for use, names in zip(family.encoders, texts, strict=True):
        encoder = full_size.network(family, use.network)
        inner = getattr(encoder, "text_model", encoder)
        found = {path for path, one in inner.named_modules() if isinstance(one, nn.Linear)}
        assert names.keys() == found - {"text_projection"}


def test_sdxl_has_the_original_codes_words() -> None:
    unet, (first, second) = _names(SDXL)
    for path, name in (
        ("down_blocks.1.attentions.0.proj_in", "input_blocks_4_1_proj_in"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
            "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0",
            "middle_block_1_transformer_blocks_3_attn2_to_out_0",
        ),
        (
            "up_blocks.1.attentions.2.transformer_blocks.1.attn1.to_k",
            "output_blocks_5_1_transformer_blocks_1_attn1_to_k",
        ),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks_2_2_conv"),
        ("down_blocks.0.resnets.1.time_emb_proj", "input_blocks_2_0_emb_layers_1"),
    ):
        assert unet[path] == f"lora_unet_{name}"
    layer = "text_model_encoder_layers_11_self_attn_q_proj"
    assert first["encoder.layers.11.self_attn.q_proj"] == f"lora_te1_{layer}"
    assert second["encoder.layers.11.self_attn.q_proj"] == f"lora_te2_{layer}"


def test_the_grammar_that_converts_files_says_the_same_of_sdxl() -> None:
    for path, name in _names(SDXL)[0].items():
        assert to_original(f"lora_unet_{path.replace('.', '_')}") == name


def test_diffusers_finds_each_of_sdxls_modules_again() -> None:
    """Its reader of kohya files is the judge: every name has to come back as its path."""
    unet, _ = _names(SDXL)
    linear = {path: name for path, name in unet.items() if ".attentions." in path}
    state = {}
    for number, name in enumerate(linear.values()):
        state[f"{name}.lora_down.weight"] = torch.full((1, 1), float(number))
        state[f"{name}.lora_up.weight"] = torch.full((1, 1), float(number))
        state[f"{name}.alpha"] = torch.tensor(1.0)
    config = full_size.network(SDXL, "unet").config
    mapped = _maybe_map_sgm_blocks_to_diffusers(state, config)
    found, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
    places = {}
    for key, tensor in found.items():
        split = split_key(key)
        assert split is not None
        places[split[0], split[1]] = float(tensor)
    assert places == {
        (f"unet.{path}", role): number
        for number, path in enumerate(linear)
        for role in ("down", "up")
    }


def test_what_metadata_says_of_each_family() -> None:
    """As sd-scripts' get_sai_model_spec and SsMetadata have them."""
    said = {
        (family.name, objective): (
            family.base_versions[objective],
            family.architectures[objective],
            family.implementation,
        )
        for family in IN_ONE_FILE
        for objective in ("epsilon", "v_prediction")
    }
    generative = "https://github.com/Stability-AI/generative-models"
    assert said == {
        ("sd1", "epsilon"): ("sd_v1", "stable-diffusion-v1/lora", "diffusers"),
        ("sd1", "v_prediction"): ("sd_v1_v", "stable-diffusion-v1/lora", "diffusers"),
        ("sd2", "epsilon"): ("sd_v2", "stable-diffusion-v2-512/lora", "diffusers"),
        ("sd2", "v_prediction"): ("sd_v2_v", "stable-diffusion-v2-768-v/lora", "diffusers"),
        ("sdxl", "epsilon"): (
            "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", generative,
        ),
        ("sdxl", "v_prediction"): (
            "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", generative,
        ),
    }  # fmt: skip


def test_targets_choose_in_every_family() -> None:
    for family in (SD2, SDXL):
        unet, _ = _names(family)
        attention = targeted(unet, ["to_q", "to_k", "to_v", "to_out.0"])
        assert len(attention) == {"sd2": 128, "sdxl": 560}[family.name]
