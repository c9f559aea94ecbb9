"""The LoRA file: what other tools will find in it, and what of theirs we take."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_daemon import pipe
from lora_daemon.engine import lora_file
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.mix import applied
from lora_daemon.engine.parts import LowRank
from lora_daemon.names import ATTENTION, targeted, text_names, unet_names
from shared.errors import Code, LoraError
from shared.lora_info import inspect
from shared.recipe import Network
from tests.engine import worker_process as work

COMMITTED = Path(__file__).with_name("sd15_modules.txt").read_text().splitlines()[1:]


@pytest.fixture
def adapter(base: Base) -> Iterator[Adapter]:
    """An adapter of rank 4, alpha 2, with every weight set to something."""
    one = Adapter(base, Network(rank=4, alpha=2.0), seed=1)
    one.vector.data.copy_(torch.randn(len(one.vector), generator=torch.Generator().manual_seed(1)))
    yield one
    one.remove()


@pytest.fixture
def saved(adapter: Adapter, tmp_path: Path) -> Path:
    path = tmp_path / "things.safetensors"
    lora_file.save(path, _modules(adapter), 2.0, {"ss_steps": "7"})
    return path


def _modules(adapter: Adapter) -> list[tuple[str, Tensor, Tensor]]:
    return [(module.name, module.down, module.up) for module in adapter.modules]


# ── names ───────────────────────────────────────────────────────────────────────────────────────


def test_the_names_for_sd15_are_the_committed_ones() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    every = unet_names(unet.config)
    names = {path: name for path, name in every.items() if ".attentions." in path}
    ours = [*names.values(), *text_names(12, "").values()]
    assert len(names) == 192 and len(ours) == 192 + 72
    assert sorted(ours) == [line.split()[0] for line in COMMITTED]
    assert all(unet.get_submodule(path) is not None for path in names)
    # Everything trainable that kohya's LoCon trains beside the transformers, and nothing else.
    others = {
        f"{path}.{inner}"
        for path, block in unet.named_modules()
        if isinstance(block, ResnetBlock2D | Downsample2D | Upsample2D)
        for inner, module in block.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert others == every.keys() - names.keys() and len(others) == 86
    assert every["up_blocks.0.upsamplers.0.conv"] == "lora_unet_up_blocks_0_upsamplers_0_conv"


def test_keys_and_shapes_of_a_whole_sd15_lora_are_the_committed_ones(base: Base) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    names = unet_names(unet.config)
    shaped = dataclasses.replace(base, denoiser=unet, unet_names=names)
    adapter = Adapter(shaped, Network(rank=8, targets=list(ATTENTION)), seed=0)
    tensors = lora_file.kohya_tensors(_modules(adapter), 8.0)
    expected = {}
    for line in COMMITTED:
        name, wide, high = line.split()
        if name.endswith(("to_q", "to_k", "to_v", "to_out_0")) and "lora_unet" in name:
            expected[f"{name}.lora_down.weight"] = (8, int(wide))
            expected[f"{name}.lora_up.weight"] = (int(high), 8)
            expected[f"{name}.alpha"] = ()
    assert len(expected) == 3 * 128
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected


def test_only_the_targets_are_adapted(base: Base) -> None:
    rows = targeted(base.unet_names, ["to_q", "to_out.0"])
    assert rows and all(path.endswith(("to_q", "to_out.0")) for path in rows)


# ── written ─────────────────────────────────────────────────────────────────────────────────────


def test_a_parser_of_its_own_reads_back_what_the_peft_model_computes(
    base: Base, adapter: Adapter, saved: Path
) -> None:
    parsed = _parse(saved)
    for module in adapter.modules:
        layer: Any = base.unet.get_submodule(module.path)
        down = parsed[f"{module.name}.lora_down.weight"]
        up = parsed[f"{module.name}.lora_up.weight"]
        read = float(parsed[f"{module.name}.alpha"]) / down.shape[0] * (up @ down)
        delta = layer.get_delta_weight("lora").detach().numpy()
        np.testing.assert_allclose(read, delta, rtol=1e-5, atol=1e-6)
    assert len(parsed) == 3 * len(adapter.modules)


def _parse(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Reads a safetensors file by the format's description alone."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    return {
        name: np.frombuffer(
            content[8 + length :][entry["data_offsets"][0] : entry["data_offsets"][1]], "<f4"
        ).reshape(entry["shape"])
        for name, entry in header.items()
    }


def test_saving_twice_gives_the_same_bytes(adapter: Adapter, saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    lora_file.save(again, _modules(adapter)[::-1], 2.0, {"ss_steps": "7"})
    assert again.read_bytes() == saved.read_bytes()


def test_a_trained_file_tells_what_other_tools_ask(tmp_path: Path, base_path: Path) -> None:
    order = work.prepare(
        tmp_path / "run", base_path, work.pictures(tmp_path / "pictures", 3),
        training={"epochs": 2}, output={"trigger": "zwx"}, dataset={"repeats": 2},
    )  # fmt: skip
    work.train(order)
    path = tmp_path / "run" / "lora" / "things.safetensors"
    metadata = inspect(path).metadata
    assert (
        metadata
        | {
            "ss_output_name": "things",
            "ss_sd_model_name": "tiny",
            "ss_base_model_version": "sd_v1",
            "ss_v2": "False",
            "ss_network_module": "networks.lora",
            "ss_network_dim": "4",
            "ss_network_alpha": "2.0",
            "ss_training_started_at": "1700000000.000000",
            "ss_num_train_images": "6",
            "ss_epoch": "2",
            "ss_steps": "12",
            "ss_learning_rate": "0.0001",
            "ss_resolution": "(64, 64)",
            "ss_dataset_dirs": '{"things": {"n_repeats": 2, "img_count": 3}}',
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.title": "things",
            "modelspec.resolution": "64x64",
            "modelspec.prediction_type": "epsilon",
            "modelspec.trigger_phrase": "zwx",
        }
        == metadata
    )
    tags = json.loads(metadata["ss_tag_frequency"])
    assert tags == {"things": {f"a drawing of thing {n}": 1 for n in range(3)}}
    content = path.read_bytes()
    behind = content[8 + struct.unpack("<Q", content[:8])[0] :]
    digest = hashlib.sha256(behind).hexdigest()
    assert metadata["sshs_model_hash"] == digest
    assert metadata["modelspec.hash_sha256"] == f"0x{digest}"
    assert len(metadata["sshs_legacy_hash"]) == 8


def test_inspect_says_what_a_file_is(saved: Path) -> None:
    info = inspect(saved)
    assert (info.dialect, info.rank, info.alpha, info.dtype) == ("kohya", 4, 2.0, "F32")
    assert info.modules == {"unet": 32}
    assert info.steps == 7 and info.epochs is None
    assert info.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert info.size == saved.stat().st_size


# ── read ────────────────────────────────────────────────────────────────────────────────────────


def test_our_file_loaded_gives_the_trained_predictions(
    base: Base, adapter: Adapter, saved: Path
) -> None:
    trained = _predict(base)
    with adapter.set_aside():
        plain = _predict(base)
        with applied(base, [(lora_file.load(saved, base).modules, 1.0)]):
            loaded = _predict(base)
        assert torch.equal(_predict(base), plain)
    assert torch.allclose(loaded, trained, atol=1e-5) and not torch.allclose(plain, trained)


@pytest.mark.parametrize("dialect", ["diffusers", "diffusers-peft", "processor", "peft"])
def test_other_dialects_mean_the_same(
    dialect: str, base: Base, adapter: Adapter, saved: Path, tmp_path: Path
) -> None:
    """The same LoRA in each dialect; those without alpha have it folded in."""
    tensors, metadata = {}, {}
    for module in adapter.modules:
        down, up, path = module.down.clone(), module.up.clone(), module.path
        match dialect:
            case "diffusers":
                tensors[f"unet.{path}.lora.down.weight"] = down
                tensors[f"unet.{path}.lora.up.weight"] = up * 0.5
            case "processor":
                attention, _, leaf = path.removesuffix(".0").rpartition(".")
                start = f"unet.{attention}.processor.{leaf}_lora"
                tensors[f"{start}.down.weight"] = down
                tensors[f"{start}.up.weight"] = up * 0.5
            case "diffusers-peft":
                tensors[f"unet.{path}.lora_A.weight"] = down
                tensors[f"unet.{path}.lora_B.weight"] = up
                metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2.0})}
            case "peft":
                tensors[f"base_model.model.{path}.lora_A.weight"] = down
                tensors[f"base_model.model.{path}.lora_B.weight"] = up
                config = {"lora_alpha": 2.0, "r": 4}
                (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    path = tmp_path / "other.safetensors"
    save_file(tensors, path, metadata)
    other, ours = lora_file.load(path, base), lora_file.load(saved, base)
    assert not other.unplaced
    assert _deltas(other).keys() == _deltas(ours).keys()
    for place, delta in _deltas(ours).items():
        assert torch.allclose(_deltas(other)[place], delta, atol=1e-6), place


def test_each_module_keeps_its_own_alpha(base: Base, saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved)
    first = min(name for name in tensors if name.endswith(".alpha"))
    tensors[first] = torch.tensor(8)  # a whole number, as kohya's scripts may write it
    save_file(tensors, tmp_path / "mixed.safetensors")
    scales = {
        module.scale for module in lora_file.load(tmp_path / "mixed.safetensors", base).modules
    }
    assert scales == {0.5, 2.0}


def test_text_encoder_modules_are_placed_and_unknown_ones_named(
    base: Base, saved: Path, tmp_path: Path
) -> None:
    tensors = load_file(saved)
    for name in (
        "lora_te_text_model_encoder_layers_1_mlp_fc1",
        "lora_te_text_model_encoder_layers_9_mlp_fc1",
    ):
        tensors[f"{name}.lora_down.weight"] = torch.ones(2, 32)
        tensors[f"{name}.lora_up.weight"] = torch.ones(128, 2)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "both.safetensors")
    weights = lora_file.load(tmp_path / "both.safetensors", base)
    assert weights.unplaced == ["lora_te_text_model_encoder_layers_9_mlp_fc1"]
    plain = base.encode_text("a thing")
    with applied(base, [(weights.modules, 1.0)]):
        assert not torch.allclose(base.encode_text("a thing"), plain)
    assert torch.equal(base.encode_text("a thing"), plain)


def test_a_mix_is_exactly_the_sum_of_its_parts(base: Base, saved: Path) -> None:
    modules = lora_file.load(saved, base).modules
    place = modules[0]
    one = place.part
    assert isinstance(one, LowRank)
    other = LowRank(one.down[:2] * 3, one.up[:, :2])
    target = base.unet.get_submodule(place.path)
    x = torch.randn(5, one.down.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = target(x)
        with applied(base, [([place], 0.7), ([replace(place, part=other, scale=0.25)], -1.5)]):
            mixed = target(x)
    by_hand = (
        plain + x @ (0.7 * place.scale * one.up @ one.down - 1.5 * 0.25 * other.up @ other.down).T
    )
    assert torch.allclose(mixed, by_hand, atol=1e-5)


def test_weight_zero_is_no_lora(base: Base, saved: Path) -> None:
    plain = _predict(base)
    with applied(base, [(lora_file.load(saved, base).modules, 0.0)]):
        assert torch.equal(_predict(base), plain)


def test_one_by_one_convolutions_are_taken_in_either_form(base: Base, tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    outputs = []
    for form in ((4, 32), (4, 32, 1, 1)):
        save_file(
            {
                f"{name}.lora_down.weight": torch.full((4, 32), 0.1).reshape(form),
                f"{name}.lora_up.weight": torch.full((32, 4), 0.1).reshape(32, 4, *form[2:]),
            },
            tmp_path / "conv.safetensors",
        )
        with applied(base, [(lora_file.load(tmp_path / "conv.safetensors", base).modules, 1.0)]):
            outputs.append(_predict(base))
    assert torch.equal(*outputs) and not torch.equal(outputs[0], _predict(base))


# ── refused ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("nan", "not finite"),
        ("foreign", "does not belong on this base"),
        ("wide", "made for another base"),
        ("half", "has no"),
        ("loha", "is not complete"),
        ("dora", "does not fit"),
        ("oft", "is an OFT"),
        ("glora", "is a GLoRA"),
        ("ia3", "is an IA³"),
        ("norm", "an adapter with trained norms"),
        ("norm's difference", "an adapter with trained norms"),
        ("part", "a part of an adapter that lora-tui does not know"),
        ("two", "mixes two kinds"),
        ("rank", "lora_down.weight has rank 0"),
        ("alpha", "every alpha in it is 0"),
        ("alphas", "is not one number"),
        ("eight bits", "as F8_E4M3, which lora-tui does not read"),
        ("loha ranks", "do not multiply"),
        ("nothing", "is not a LoRA"),
        ("torn", "cut short"),
        ("ranks", "do not multiply"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(  # noqa: PLR0912
    change: str, words: str, base: Base, saved: Path, tmp_path: Path
) -> None:
    tensors = load_file(saved)
    down = min(name for name in tensors if name.endswith("lora_down.weight"))
    module = down.removesuffix(".lora_down.weight")
    path = tmp_path / "bad.safetensors"
    match change:
        case "nan":
            tensors[down][0, 0] = float("nan")
        case "foreign":
            tensors = {
                name.replace("lora_unet_", "lora_unet_input_blocks_"): value
                for name, value in tensors.items()
            }
        case "wide":
            tensors[down] = torch.ones(4, 320)
        case "half":
            del tensors[f"{module}.lora_up.weight"]
        case "loha":
            tensors = {f"{module}.hada_w1_a": torch.ones(4, 4)}
        case "dora":
            tensors[f"{module}.dora_scale"] = torch.ones(31, 1)
        case "oft":
            tensors[f"{module}.oft_blocks"] = torch.ones(4, 8, 8)
        case "glora":
            tensors[f"{module}.a1.weight"] = torch.ones(4, 8)
        case "ia3":
            tensors[f"{module}.on_input"] = torch.ones(1)
        case "norm":
            tensors["lora_unet_conv_norm_out.w_norm"] = torch.ones(32)
        case "norm's difference":
            tensors["lora_unet_conv_norm_out.diff"] = torch.ones(32)
        case "part":
            tensors[f"{module}.scalar"] = torch.ones(1)
        case "two":
            tensors[f"{module}.diff"] = torch.ones(32, 32)
        case "rank":
            tensors[down], tensors[f"{module}.lora_up.weight"] = (
                torch.ones(0, 32),
                torch.ones(32, 0),
            )
        case "alpha":
            tensors |= {name: torch.tensor(0.0) for name in tensors if name.endswith(".alpha")}
        case "alphas":
            tensors[f"{module}.alpha"] = torch.ones(2)
        case "eight bits":
            tensors[down] = tensors[down].to(torch.float8_e4m3fn)
        case "loha ranks":
            tensors = {f"{module}.hada_w{side}": torch.ones(3, 5)
                       for side in ("1_a", "1_b", "2_a", "2_b")}  # fmt: skip
        case "nothing":
            tensors = {"weight": torch.ones(3)}
        case "ranks":
            tensors[down] = torch.ones(5, 32)
    save_file(tensors, path)
    if change == "torn":
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(LoraError) as refused:
        lora_file.load(path, base)
    assert refused.value.code is Code.INVALID_FILE
    assert words in refused.value.message and str(path) in refused.value.message


def test_a_picture_with_an_unusable_lora_fails_and_the_worker_lives(
    tmp_path: Path, base_path: Path
) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04junk")
    spec = pipe.PictureSpec(prompt="a thing", steps=1)
    lora = pipe.LoraFile(path=str(tmp_path / "bad.safetensors"), weight=1.0, name="bad")
    with work.worker() as one:
        one.send(
            pipe.Paint(
                job="j", spec=spec, base_path=str(base_path), loras=[lora], out=f"{tmp_path}/a.png"
            )
        )
        assert "pickle" in one.until(pipe.PaintFailed).failure.message
        one.send(
            pipe.Paint(
                job="k", spec=spec, base_path=str(base_path), loras=[], out=f"{tmp_path}/a.png"
            )
        )
        one.until(pipe.Painted)


def _deltas(weights: lora_file.Weights) -> dict[str, Tensor]:
    return {
        module.path: module.scale * module.part.dense().flatten(1) for module in weights.modules
    }


@torch.no_grad()
def _predict(base: Base) -> Tensor:
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return base.denoise(noisy, torch.tensor([500]), base.encode_text("a thing"))
