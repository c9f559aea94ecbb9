"""Dialects: there and back, bit for bit, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Code, LoraError
from shared.lora_convert import convert
from shared.lora_info import inspect
from shared.lora_keys import Dialect
from shared.safetensors_file import Tensor, read_header, read_tensor, write

SD1 = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0": (4, 8),
    "lora_unet_down_blocks_0_resnets_0_conv_shortcut": (2, 8),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (4, 8),
}
SDXL = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (4, 2048),
    "lora_unet_middle_block_0_in_layers_2": (4, 8),
    "lora_unet_output_blocks_5_2_conv": (4, 8),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": (4, 8),
    "lora_te2_text_model_encoder_layers_31_mlp_fc2": (2, 8),
}


def _bytes(name: str, count: int, size: int) -> bytes:
    return (name.encode() * (count * size))[: count * size]


def _kohya(
    path: Path, modules: dict[str, tuple[int, int]], dtype: str = "F16", **more: Any
) -> Path:
    """Bytes that no float conversion would leave as they are, and a different alpha for each."""
    size = {"F16": 2, "F32": 4, "BF16": 2}[dtype]
    alphas = {"F16": b"\x00\x3c", "F32": b"\x00\x00\x80\x3f", "BF16": b"\x80\x3f"}
    tensors = {}
    for number, (name, (rank, wide)) in enumerate(modules.items()):
        kernel = (1, 1) if "conv" in name else ()
        tensors[f"{name}.lora_down.weight"] = Tensor(
            dtype, (rank, wide, *kernel), _bytes(name, rank * wide, size)
        )
        tensors[f"{name}.lora_up.weight"] = Tensor(
            dtype, (6, rank, *kernel), _bytes(name[::-1], rank * 6, size)
        )
        alpha = alphas[dtype] if number else b"\x00" * (size - 1) + b"\x40"  # 1.0, else 2.0
        tensors[f"{name}.alpha"] = Tensor(dtype, (), alpha)
    write(path, tensors, {"ss_output_name": "things", "own": "kept", **more})
    return path


def _tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    header = read_header(path)
    with path.open("rb") as file:
        return {
            name: (info.dtype, info.shape, read_tensor(file, header, name))
            for name, info in header.tensors.items()
        }


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("modules", [SD1, SDXL], ids=["SD 1", "SDXL"])
def test_to_diffusers_and_back_bit_for_bit(
    modules: dict[str, tuple[int, int]], dtype: str, tmp_path: Path
) -> None:
    kohya = _kohya(tmp_path / "a.safetensors", modules, dtype)
    convert(kohya, "diffusers", tmp_path / "b.safetensors")
    assert inspect(tmp_path / "b.safetensors").dialect == "peft"  # as diffusers saves it today
    convert(tmp_path / "b.safetensors", "kohya", tmp_path / "c.safetensors")
    assert _tensors(tmp_path / "c.safetensors") == _tensors(kohya)
    assert inspect(tmp_path / "c.safetensors").model_hash == inspect(kohya).model_hash
    metadata = inspect(tmp_path / "c.safetensors").metadata
    assert metadata["own"] == "kept" and metadata["ss_output_name"] == "things"
    made = json.loads(metadata["lora_tui.made"])
    assert made["how"] == "converted to kohya" and made["from"][0]["name"] == "b.safetensors"


def test_alphas_in_whole_numbers_are_read_and_come_back(tmp_path: Path) -> None:
    kohya = _kohya(tmp_path / "a.safetensors", SD1, "F32")
    whole = {
        name: Tensor("I64", (), b"\x08" + b"\0" * 7) if name.endswith(".alpha") else Tensor(*one)
        for name, one in _tensors(kohya).items()
    }
    write(kohya, whole, {})
    assert inspect(kohya).alpha == 8
    convert(kohya, "diffusers", tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", "kohya", tmp_path / "c.safetensors")
    assert _tensors(tmp_path / "c.safetensors") == _tensors(kohya)


def test_to_peft_and_back_bit_for_bit(tmp_path: Path) -> None:
    name = next(iter(SD1))
    kohya = _kohya(tmp_path / "a.safetensors", {name: SD1[name]})
    converted = convert(kohya, "peft", tmp_path / "peft")
    assert converted.files == [
        f"{tmp_path}/peft/adapter_model.safetensors", f"{tmp_path}/peft/adapter_config.json"
    ]  # fmt: skip
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_bytes())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 2.0, "LORA")
    convert(tmp_path / "peft" / "adapter_model.safetensors", "kohya", tmp_path / "c.safetensors")
    assert _tensors(tmp_path / "c.safetensors") == _tensors(kohya)


def test_peft_has_a_folder_for_each_network(tmp_path: Path) -> None:
    kohya = _kohya(tmp_path / "a.safetensors", SD1)
    convert(kohya, "peft", tmp_path / "peft")
    unet = json.loads((tmp_path / "peft" / "unet" / "adapter_config.json").read_bytes())
    assert unet["rank_pattern"] == {"down_blocks.0.resnets.0.conv_shortcut": 2}
    text = read_header(tmp_path / "peft" / "text_encoder" / "adapter_model.safetensors")
    assert min(text.tensors).startswith("base_model.model.text_model.encoder.layers.0.self_attn")
    back = tmp_path / "back.safetensors"
    convert(tmp_path / "peft" / "text_encoder" / "adapter_model.safetensors", "kohya", back)
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    whole = _tensors(kohya)
    assert _tensors(back) == {key: whole[key] for key in whole if key.startswith(name)}


def test_diffusers_names_are_those_of_diffusers(tmp_path: Path) -> None:
    convert(_kohya(tmp_path / "a.safetensors", SDXL), "diffusers", tmp_path / "b.safetensors")
    header = read_header(tmp_path / "b.safetensors")
    assert {name.rsplit(".lora_", 1)[0] for name in header.tensors} == {
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "unet.mid_block.resnets.0.conv1",
        "unet.up_blocks.1.upsamplers.0.conv",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        "text_encoder_2.text_model.encoder.layers.31.mlp.fc2",
    }
    config = json.loads(header.metadata["lora_adapter_metadata"])
    assert config["unet.r"] == 4 and config["text_encoder_2.r"] == 2


def test_a_dora_of_rows_is_pefts_own(tmp_path: Path) -> None:
    path = _kohya(tmp_path / "a.safetensors", SD1)
    tensors = {key: Tensor(*one) for key, one in _tensors(path).items()}
    for name in SD1:
        shape = (6, 1, 1, 1) if "conv" in name else (6, 1)
        tensors[f"{name}.dora_scale"] = Tensor("F16", shape, _bytes(name, 6, 2))
    write(path, tensors, {})
    there, back = tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    convert(path, "diffusers", there)
    shapes = {
        name.partition(".lora_m")[0]: one.shape
        for name, one in read_header(there).tensors.items()
        if name.endswith(".lora_magnitude_vector")
    }
    assert sorted(shapes.values()) == [(1, 6, 1, 1), (6,), (6,)]
    assert shapes["unet.down_blocks.0.resnets.0.conv_shortcut"] == (1, 6, 1, 1)
    config = json.loads(read_header(there).metadata["lora_adapter_metadata"])
    assert config["unet.use_dora"] and config["text_encoder.use_dora"]
    convert(there, "kohya", back)
    assert _tensors(back) == _tensors(path)


@pytest.mark.parametrize(
    ("more", "to", "words"),
    [
        ("dora_scale", "peft", "is a DoRA"),
        ("dora_scale", "kohya", "is a DoRA"),
        ("lora_mid.weight", "diffusers", "more than plain pairs"),
        ("foreign", "diffusers", "for which the other dialects have no name"),
        ("half", "peft", "has no"),
    ],
)
def test_what_the_other_dialect_cannot_say_is_refused(
    more: str, to: Dialect, words: str, tmp_path: Path
) -> None:
    (name, _), *_ = SD1.items()
    path = _kohya(tmp_path / "a.safetensors", SD1)
    tensors = {key: Tensor(*one) for key, one in _tensors(path).items()}
    match more:
        case "foreign":
            tensors = {key.replace("attn1", "attn7"): one for key, one in tensors.items()}
        case "half":
            del tensors[f"{name}.lora_up.weight"]
        case _:
            tensors[f"{name}.{more}"] = Tensor("F16", (4, 4, 1, 1), bytes(32))
    write(path, tensors, {})
    with pytest.raises(LoraError) as refused:
        convert(path, to, tmp_path / "b")
    assert refused.value.code is Code.INVALID_FILE and words in refused.value.message
    assert not (tmp_path / "b").exists()
