"""Bases are checked part by part, and say what is wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_daemon.engine import bases
from lora_daemon.engine.bases import Base
from shared.errors import Code, LoraError

CPU = torch.device("cpu")


@pytest.fixture
def copied(tmp_path: Path, base_path: Path) -> Path:
    shutil.copytree(base_path, tmp_path / "base")
    return tmp_path / "base"


def test_a_loaded_base_is_frozen_and_channels_last(base: Base) -> None:
    assert not any(p.requires_grad for p in base.unet.parameters())
    assert base.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert (base.resolution, base.pixels_per_latent, base.objective) == (64, 8, "epsilon")
    assert base.encode_text("a thing").shape == (1, 77, 32)


@pytest.mark.parametrize(
    "part",
    [
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ],
)
def test_a_missing_part_is_named(part: str, copied: Path) -> None:
    (copied / part).unlink()
    with pytest.raises(LoraError) as refused:
        bases.load(copied, CPU)
    assert refused.value.code is Code.INVALID_FILE
    assert part in refused.value.message


def test_a_torn_weights_file_is_named(copied: Path) -> None:
    weights = copied / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LoraError, match=r"vae/diffusion_pytorch_model\.safetensors was cut short"):
        bases.load(copied, CPU)


@pytest.mark.parametrize(
    ("part", "file"), [("unet", "diffusion_pytorch_model"), ("text_encoder", "model")]
)
def test_a_missing_weight_is_not_made_up(part: str, file: str, copied: Path) -> None:
    path = copied / part / f"{file}.safetensors"
    tensors = load_file(path)
    gone = min(tensors)
    del tensors[gone]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(LoraError) as refused:
        bases.load(copied, CPU)
    assert refused.value.code is Code.INVALID_FILE and gone in refused.value.message


def test_a_pickle_in_place_of_weights_is_refused(copied: Path) -> None:
    (copied / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (copied / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(LoraError, match="pickle"):
        bases.load(copied, CPU)


@pytest.mark.parametrize(
    "change",
    [{"addition_embed_type": "text_time"}, {"in_channels": 9}],
)
def test_another_family_is_refused(change: dict[str, object], copied: Path) -> None:
    config = copied / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(LoraError, match="family"):
        bases.load(copied, CPU)


def test_weights_that_are_not_as_the_configuration_says_are_refused(copied: Path) -> None:
    config = copied / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_linear_projection": True}))
    with pytest.raises(LoraError, match="unet cannot be used"):
        bases.load(copied, CPU)


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(LoraError) as refused:
        bases.load(tmp_path / "nothing", CPU)
    assert refused.value.code is Code.NOT_FOUND


def test_a_half_precision_variant_is_loaded(copied: Path) -> None:
    for part in ("unet", "vae"):
        whole = copied / part / "diffusion_pytorch_model.safetensors"
        whole.rename(whole.with_suffix("").with_suffix(".fp16.safetensors"))
    assert bases.load(copied, CPU).unet.dtype is torch.float32


def test_long_texts_are_known(base: Base) -> None:
    assert base.fits("x" * 75) and not base.fits("x" * 76)


def test_a_picture_that_does_not_fit_the_memory_is_decoded_in_tiles(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 40, 32, generator=draw)
    whole = base.decode_latents(latents)
    decoder, sizes = base.vae.decoder.forward, []

    def of_little_memory(sample: torch.Tensor, *more: object) -> torch.Tensor:
        sizes.append(tuple(sample.shape[2:]))
        if sample.shape[2] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decoder(sample, *more)

    monkeypatch.setattr(base.vae.decoder, "forward", of_little_memory)
    tiles = base.decode_latents(latents)
    assert tiles.shape == whole.shape and sizes[0] == (40, 32) and len(sizes) > 4
    assert (tiles - whole).abs().mean() < 0.2 * whole.abs().mean()  # norms are a tile's
    assert not base.vae.use_tiling

    monkeypatch.setattr(
        base.vae.decoder, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("broken"))
    )
    with pytest.raises(RuntimeError, match="broken"):
        base.decode_latents(latents)
