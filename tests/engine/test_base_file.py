"""A base as one file: recognised at full size, all of it accounted for, and never believed."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_daemon.base_file import open_file
from lora_daemon.carried import UNKNOWN
from lora_daemon.engine.lora_file import kohya_tensors
from lora_daemon.families import IN_ONE_FILE, SD1, SD2, SDXL, Family
from shared.errors import Code, LoraError
from shared.safetensors_file import write
from tests.engine.full_size import write_hollow

UNET = "model.diffusion_model."


@pytest.mark.parametrize(
    ("family", "more", "expected"),
    [
        (
            SD1,
            {
                "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
                "betas": (1000,), "alphas_cumprod": (1000,), "sqrt_alphas_cumprod": (1000,),
                "model_ema.diffusion_modelinput_blocks00weight": (320, 4, 3, 3),
                "model_ema.decay": (), "global_step": (),
            },
            {
                "EMA weights": 2, "leftovers of its training": 1, "noise schedule": 3,
                "position_ids": 1,
            },
        ),
        (
            SD2,
            {
                f"cond_stage_model.model.{name}": (2,)
                for name in (
                    "logit_scale", "text_projection", "transformer.resblocks.23.ln_1.weight",
                    "transformer.resblocks.23.attn.in_proj_weight",
                )
            },
            {
                "logit scale of the text encoder": 1,
                "unused last layer of the text encoder": 3,
            },
        ),
        (
            SDXL,
            {
                "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": (1, 77),
                "conditioner.embedders.1.model.logit_scale": (), "denoiser.sigmas": (1000,),
                "v_pred": (), "ztsnr": (), "something.else": (3,),
            },
            {
                "logit scale of the text encoder": 1, "marks of what it predicts": 2,
                "noise schedule": 1, "position_ids": 1, f"{UNKNOWN}something.else": 1,
            },
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_every_tensor_of_a_full_size_file_is_used_or_listed_as_carried(
    family: Family, more: dict[str, tuple[int, ...]], expected: dict[str, int], tmp_path: Path
) -> None:
    file = open_file(write_hollow(tmp_path / "base.safetensors", family, more))
    assert file.family is family and file.look.carried == expected
    used = {row.original for rows in file.keys.values() for row in rows}
    assert len(used) + sum(expected.values()) == len(file.header.tensors)
    assert file.look.precision == ["F16"]


def test_what_a_base_predicts_comes_from_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "noob.safetensors"
    plain = open_file(write_hollow(path, SDXL)).look
    assert (plain.objective, plain.guessed, plain.zero_snr) == ("epsilon", "", False)
    marked = open_file(write_hollow(path, SDXL, {"v_pred": (), "ztsnr": ()}))
    assert (marked.look.objective, marked.look.guessed) == ("v_prediction", "")
    assert marked.look.zero_snr and marked.configs["scheduler"]["rescale_betas_zero_snr"]
    assert marked.configs["scheduler"]["timestep_spacing"] == "trailing"
    said = {"modelspec.prediction_type": "v"}
    assert open_file(write_hollow(path, SDXL, metadata=said)).look.objective == "v_prediction"


def test_a_guess_is_told_and_whoever_knows_overrules_it(tmp_path: Path) -> None:
    named = write_hollow(tmp_path / "noobai-vpred-1.0.safetensors", SDXL)
    look = open_file(named).look
    assert look.objective == "v_prediction" and "name" in look.guessed
    told = open_file(named, "epsilon").look
    assert (told.objective, told.guessed) == ("epsilon", "")


def test_stable_diffusion_2_tells_by_the_spread_of_a_norm(tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "sd2.safetensors", SD2)
    flat = open_file(path)
    assert (flat.look.objective, flat.look.resolution) == ("epsilon", 512)
    assert "0.000" in flat.look.guessed
    name = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    with path.open("r+b") as opened:
        opened.seek(flat.header.data_start + flat.header.tensors[name].begin)
        opened.write(struct.pack("<320e", *([0.2, -0.2] * 160)))
    wide = open_file(path)
    assert (wide.look.objective, wide.look.resolution) == ("v_prediction", 768)
    assert "0.200" in wide.look.guessed and wide.configs["unet"]["sample_size"] == 96


@pytest.mark.parametrize("family", IN_ONE_FILE, ids=lambda family: family.name)
def test_a_missing_part_is_named(family: Family, tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    for part in family.parts.values():
        if part.title == "UNet":
            continue
        with pytest.raises(LoraError) as refused:
            open_file(write_hollow(path, family, without=part.prefix))
        assert refused.value.code is Code.INVALID_FILE
        assert f"its {part.title}" in refused.value.message and family.title in str(refused.value)
    with pytest.raises(LoraError, match=r"middle_block\.1\.proj_in\.bias and 1 more of its UNet"):
        open_file(write_hollow(path, family, without="middle_block.1.proj_in."))


def _others() -> Iterator[tuple[str, dict[str, tuple[int, ...]], str]]:
    yield "inpainting", {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}, "inpainting base"
    yield "editing", {f"{UNET}input_blocks.0.0.weight": (320, 8, 3, 3)}, "image-editing base"
    yield "flux", {"double_blocks.0.img_attn.qkv.weight": (9, 3)}, "is a FLUX"
    yield "sd3", {f"{UNET}joint_blocks.0.x": (2,)}, "Stable Diffusion 3"
    yield "refiner", {"conditioner.embedders.0.model.ln_final.bias": (2,)}, "refiner"
    yield "vae", {"decoder.conv_in.weight": (2,), "encoder.conv_in.weight": (2,)}, "VAE alone"
    yield "unet", {"down_blocks.0.resnets.0.conv1.bias": (2,)}, "Give the folder"
    yield "embedding", {"emb_params": (2, 768)}, "textual inversion"
    yield "nothing", {"a": (2,)}, "is not a base"
    yield "edm", {"edm_vpred.sigma_max": (), f"{UNET}x": (1,)}, "CosXL"


@pytest.mark.parametrize(("shapes", "what"), [pytest.param(s, w, id=n) for n, s, w in _others()])
def test_something_else_is_called_by_its_name(
    shapes: dict[str, tuple[int, ...]], what: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(LoraError, match=what) as refused:
        open_file(path)
    assert refused.value.code is Code.INVALID_FILE and str(path) in refused.value.message


def test_a_lora_given_as_a_base_is_told_apart(tmp_path: Path) -> None:
    pair = ("lora_unet_mid_block_attentions_0_proj_in", torch.zeros(2, 3), torch.zeros(4, 2))
    write(tmp_path / "l.safetensors", kohya_tensors([pair], 2.0), {})
    with pytest.raises(LoraError, match="is a LoRA, not a base"):
        open_file(tmp_path / "l.safetensors")


def test_a_pickle_a_web_page_a_pointer_and_a_torn_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"state_dict": {}}, protocol=protocol))
        with pytest.raises(LoraError, match=r"pickle.*Convert it to \.safetensors"):
            open_file(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(LoraError, match="pickle"):
        open_file(path)
    path.write_text("<!DOCTYPE html><html>Log in</html>")
    with pytest.raises(LoraError, match="web page"):
        open_file(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with pytest.raises(LoraError, match="Git LFS pointer"):
        open_file(path)
    write_hollow(path, SD1)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 5)
    with pytest.raises(LoraError, match="was cut short"):
        open_file(path)
