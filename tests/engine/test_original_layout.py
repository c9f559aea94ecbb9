"""The table of both layouts is complete, at full size, and says what diffusers' converter says."""

from __future__ import annotations

import pytest
from diffusers.loaders import single_file_utils as theirs
from torch import Tensor

from lora_daemon.families import IN_ONE_FILE, SD1, SD2, SDXL, Family
from lora_daemon.original_layout import unet
from tests.engine import full_size


@pytest.mark.parametrize("family", IN_ONE_FILE, ids=lambda family: family.name)
def test_every_tensor_of_every_network_is_in_the_table_once(family: Family) -> None:
    for name in family.parts:
        rows = family.rows(name, family.configs[name])
        assert sorted(row.diffusers for row in rows) == sorted(full_size.tensors(family, name))


def test_the_originals_have_as_many_tensors_as_the_published_files(
    originals: dict[str, dict[str, Tensor]],
) -> None:
    # Besides position_ids (SD 1.x and SDXL), SD 2's unused last layer, projection and scale, the
    # scale of SDXL, and what a training left behind (schedules, EMA).
    assert len(originals["sd1"]) == 1131 - 1
    assert len(originals["sd2"]) == 686 + 248 + 23 * 12 + 4
    assert len(originals["sdxl"]) == 2515 - 2


@pytest.mark.parametrize(
    ("family", "weights"),
    [
        (SD1, {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        (SD2, {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}),
        (
            SDXL,
            {
                "unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480,
                "text_encoder_2": 694_659_840,
            },
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_our_configurations_are_of_the_published_sizes(
    family: Family, weights: dict[str, int]
) -> None:
    found = {name: full_size.tensors(family, name).values() for name in family.parts}
    assert {name: sum(map(Tensor.numel, all_)) for name, all_ in found.items()} == weights


def test_known_names_are_where_the_original_code_has_them(
    originals: dict[str, dict[str, Tensor]],
) -> None:
    for family, key, shape in (
        (
            "sd1",
            "model.diffusion_model.output_blocks.11.0.skip_connection.weight",
            (320, 640, 1, 1),
        ),
        ("sd1", "model.diffusion_model.output_blocks.8.2.conv.weight", (640, 640, 3, 3)),
        ("sd1", "model.diffusion_model.output_blocks.2.1.conv.weight", (1280, 1280, 3, 3)),
        ("sd1", "model.diffusion_model.input_blocks.1.1.proj_in.weight", (320, 320, 1, 1)),
        ("sd2", "model.diffusion_model.input_blocks.1.1.proj_in.weight", (320, 320)),
        ("sd1", "first_stage_model.decoder.mid.attn_1.q.weight", (512, 512, 1, 1)),
        ("sd1", "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight", (256, 128, 1, 1)),
        ("sd1", "first_stage_model.decoder.up.3.upsample.conv.weight", (512, 512, 3, 3)),
        (
            "sd2",
            "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight",
            (3072, 1024),
        ),
        ("sdxl", "conditioner.embedders.1.model.text_projection", (1280, 1280)),
        ("sdxl", "conditioner.embedders.1.model.positional_embedding", (77, 1280)),
        ("sdxl", "model.diffusion_model.label_emb.0.0.weight", (1280, 2816)),
        ("sdxl", "model.diffusion_model.output_blocks.5.2.conv.weight", (640, 640, 3, 3)),
        (
            "sdxl",
            "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight",
            (1280, 2048),
        ),
    ):
        assert originals[family][key].shape == shape, key


@pytest.mark.parametrize("family", IN_ONE_FILE, ids=lambda family: family.name)
def test_diffusers_converter_makes_the_same_of_it(
    family: Family, originals: dict[str, dict[str, Tensor]]
) -> None:
    whole = originals[family.name]
    unet_made = theirs.convert_ldm_unet_checkpoint(whole, family.configs["unet"])
    vae_made = theirs.convert_ldm_vae_checkpoint(whole, family.configs["vae"])
    assert _shapes(unet_made) == _shapes(full_size.tensors(family, "unet"))
    assert _shapes(vae_made) == _shapes(full_size.tensors(family, "vae"))
    if family is SD1 or family is SDXL:
        made = theirs.convert_ldm_clip_checkpoint(whole)
        assert _shapes(made) == _shapes(full_size.tensors(family, "text_encoder"))
    for family_, name in ((SD2, "text_encoder"), (SDXL, "text_encoder_2")):
        if family is family_:
            prefix = family.parts[name].prefix  # type: ignore[index]
            model = full_size.network(family, name)  # type: ignore[arg-type]
            made = theirs.convert_open_clip_checkpoint(model, whole, prefix=prefix)
            assert _shapes(made) == _shapes(full_size.tensors(family, name))  # type: ignore[arg-type]


def test_another_depth_of_each_block_is_followed() -> None:
    config = {
        "block_out_channels": [8, 16],
        "layers_per_block": [1, 2],
        "transformer_layers_per_block": [1, 3],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    }
    names = {row.original for row in unet(config)}
    assert "input_blocks.4.1.transformer_blocks.2.norm1.weight" in names
    assert "output_blocks.2.2.conv.weight" in names and "input_blocks.2.0.op.bias" in names


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def originals() -> dict[str, dict[str, Tensor]]:
    return {family.name: full_size.original(family) for family in IN_ONE_FILE}
