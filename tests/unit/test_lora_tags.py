"""LoRA tags in prompts, block weights, and module names from one dialect to another."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import blocks, lora_tags
from shared.errors import Code, LoraError
from shared.lora_names import to_diffusers, to_dotted, to_kohya
from shared.pictures import LoraUse, PictureSpec, parameters_text

SD1 = {
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SDXL = {
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
}
SD15_MODULES = Path(__file__).parents[1] / "engine" / "sd15_modules.txt"


@pytest.mark.parametrize(
    ("tag", "use"),
    [
        ("<lora:ink>", LoraUse(lora="ink")),
        ("<lora:ink:0.8>", LoraUse(lora="ink", weight=0.8)),
        ("<lora:ink:0.8:-0.6>", LoraUse(lora="ink", weight=-0.6, text_weight=0.8)),
        ("<lora:ink:te=0.8:unet=1.5>", LoraUse(lora="ink", weight=1.5, text_weight=0.8)),
        ("<lora:ink:0.8:start=5:stop=15>", LoraUse(lora="ink", weight=0.8, begin=0.25, end=0.75)),
        ("<lora:ink:1:step=0.1-10>", LoraUse(lora="ink", begin=0.1, end=0.5)),
        ("<lora:ink:1:stop=99>", LoraUse(lora="ink")),
        ("<lora:ink:0.8:guide=2.5>", LoraUse(lora="ink", weight=0.8, guidance=2.5)),
        ("<lora:my ink v2:1:lbw=1,0,.5>", LoraUse(lora="my ink v2", blocks=[1.0, 0.0, 0.5])),
    ],
)
def test_tags_are_taken_out_of_a_prompt(tag: str, use: LoraUse) -> None:
    assert lora_tags.taken(f"a house, {tag} by the sea") == ("a house, by the sea", [use])


def test_what_is_written_into_a_picture_is_read_back() -> None:
    uses = [LoraUse(lora="ink", weight=0.5, text_weight=0.25, blocks=[1.0, 0.5], begin=0.25),
            LoraUse(lora="b", end=0.6, guidance=3.5)]  # fmt: skip
    spec = PictureSpec(prompt="a house", loras=uses)
    text = parameters_text(spec, model="m", model_hash="h", lora_hashes={})
    assert lora_tags.taken(text.splitlines()[0]) == ("a house", uses)


def test_a_prompt_without_tags_stays_as_it_is() -> None:
    assert lora_tags.taken("  a house, <hypernet:x:1>") == ("  a house, <hypernet:x:1>", [])


@pytest.mark.parametrize(
    "tag",
    [
        "<lora:ink:strong>",
        "<lora:ink:1:guide=far>",
        "<lora:ink:1:2:3>",
        "<lora:ink:dyn=1>",
        "<lora:ink:1:lbw=OUTX>",
        "<lora:ink:1:start=now>",
        "<lora:ink:1:start=15:stop=15>",
    ],
)
def test_a_tag_that_cannot_be_read_is_named(tag: str) -> None:
    with pytest.raises(LoraError) as refused:
        lora_tags.taken(f"a house {tag}")
    assert refused.value.code is Code.BAD_REQUEST
    said = refused.value.message
    assert "ink" in said or "OUTX" in said or "is no part of 20 steps" in said


@pytest.mark.parametrize(("config", "lengths"), [(SD1, (17, 26)), (SDXL, (12, 20))])
def test_blocks_are_counted_as_the_webui_counts_them(
    config: dict[str, object], lengths: tuple[int, int]
) -> None:
    for length in lengths:
        known = blocks.factors([1.0] * length, config)
        assert sum(known.values()) == length
    with pytest.raises(LoraError) as refused:
        blocks.factors([1.0] * 13, config)
    assert all(str(length) in refused.value.message for length in lengths)


def test_presets_and_lists_mean_the_webuis_blocks() -> None:
    known = blocks.factors(blocks.read("outd"), SD1)
    assert [name for name, one in known.items() if one] == [
        "BASE", "OUT03", "OUT04", "OUT05", "OUT06"
    ]  # fmt: skip
    numbered = blocks.factors([float(n) for n in range(17)], SD1)
    assert (numbered["IN01"], numbered["IN08"], numbered["M00"], numbered["OUT11"]) == (1, 6, 7, 16)
    assert numbered["IN03"] == 0.0


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("conv_in", "IN00"),
        ("down_blocks.0.attentions.1.proj_in", "IN02"),
        ("down_blocks.1.downsamplers.0.conv", "IN06"),
        ("down_blocks.3.resnets.1.conv1", "IN11"),
        ("mid_block.resnets.0.conv1", "M00"),
        ("up_blocks.1.upsamplers.0.conv", "OUT05"),
        ("up_blocks.3.attentions.2.proj_out", "OUT11"),
        ("time_embedding.linear_1", "BASE"),
    ],
)
def test_modules_belong_to_the_blocks_of_the_original_code(path: str, label: str) -> None:
    assert blocks.label(path, 2) == label


def test_every_sd15_name_goes_to_diffusers_and_back() -> None:
    names = [line.split()[0] for line in SD15_MODULES.read_text().splitlines()[1:]]
    for name in names:
        dotted = to_dotted(name)
        assert dotted is not None
        assert to_kohya(dotted, sdxl=False) == name
    key = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    assert to_dotted(f"lora_unet_{key}") == f"unet.{path}"
    assert to_dotted("lora_unet_something_else") is None


@pytest.mark.parametrize(
    ("original", "diffusers"),
    [
        ("input_blocks_0_0", "conv_in"),
        ("input_blocks_4_1_transformer_blocks_0_attn1_to_k",
         "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_k"),
        ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
        ("input_blocks_8_0_in_layers_2", "down_blocks_2_resnets_1_conv1"),
        ("middle_block_2_skip_connection", "mid_block_resnets_1_conv_shortcut"),
        ("middle_block_1_proj_in", "mid_block_attentions_0_proj_in"),
        ("output_blocks_5_2_conv", "up_blocks_1_upsamplers_0_conv"),
        ("output_blocks_3_1_proj_out", "up_blocks_1_attentions_0_proj_out"),
        ("output_blocks_2_0_emb_layers_1", "up_blocks_0_resnets_2_time_emb_proj"),
    ],
)  # fmt: skip
def test_sdxl_names_of_the_original_code_are_known(original: str, diffusers: str) -> None:
    assert to_diffusers(f"lora_unet_{original}") == f"lora_unet_{diffusers}"
