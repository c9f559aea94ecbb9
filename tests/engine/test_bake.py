"""Baking: the folder paints what the mix paints; what no LoRA touches stays, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_daemon.engine import bases, lora_file, single_file
from lora_daemon.engine.bake import bake
from lora_daemon.engine.bases import Base
from lora_daemon.engine.mix import Strength, applied
from shared.errors import Code, LoraError
from shared.lora_orders import BakeOrder, Source
from tests.engine import tiny_base


@pytest.fixture
def loras(base: Base, tmp_path: Path) -> list[Path]:
    """A LoRA with a text encoder, a DoRA of columns, and a full one with its bias."""
    draw = torch.Generator().manual_seed(1)
    files = []
    for number in range(3):
        tensors: dict[str, Tensor] = {}
        for network, names in (("unet", base.unet_names), ("text_encoder", base.text_names)):
            for path, name in list(names.items())[:12]:
                high, *wide = getattr(base, network).get_submodule(path).weight.shape
                if number == 2 and network == "unet":
                    tensors[f"{name}.diff"] = torch.randn(high, *wide, generator=draw) * 0.01
                    continue
                tensors[f"{name}.lora_down.weight"] = torch.randn(3, *wide, generator=draw) * 0.1
                up = torch.randn(high, 3, *(1 for _ in wide[1:]), generator=draw)
                tensors[f"{name}.lora_up.weight"] = up * 0.1
                if number == 1 and network == "unet":
                    magnitude = torch.rand(1, wide[0], *(1 for _ in wide[1:]), generator=draw)
                    tensors[f"{name}.dora_scale"] = magnitude + 0.5
        if number == 2:
            tensors["lora_unet_conv_in.diff"] = torch.randn(32, 4, 3, 3, generator=draw) * 0.1
            tensors["lora_unet_conv_in.diff_b"] = torch.randn(32, generator=draw)
        files.append(tmp_path / f"{number}.safetensors")
        save_file(tensors, files[-1])
    return files


def _sources(loras: list[Path]) -> list[Source]:
    weights = ((0.8, -0.4), (0.5, None), (1.2, 0.0))
    return [
        Source(path=str(path), weight=weight, text_weight=text)
        for path, (weight, text) in zip(loras, weights, strict=True)
    ]


@torch.no_grad()
def _predict(base: Base) -> Tensor:
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return base.denoise(noisy, torch.tensor([500]), base.encode_text("a thing"))


def test_a_baked_base_is_the_mix_and_keeps_every_other_byte(
    base: Base, base_path: Path, loras: list[Path], tmp_path: Path
) -> None:
    sources = _sources(loras)
    out = tmp_path / "baked"
    baked = bake(BakeOrder(sources=sources, base=str(base_path), out=str(out)))
    assert not baked.notes and [path.name for path in tmp_path.glob(".*")] == []
    loaded = [lora_file.load(path, base).modules for path in loras]
    strengths = [Strength(one.weight, one.text_weight) for one in sources]
    with applied(base, list(zip(loaded, strengths, strict=True))):
        mixed = _predict(base)
    theirs = _predict(bases.load(out, torch.device("cpu")))
    assert float((theirs - mixed).norm() / mixed.norm()) < 1e-5
    assert float((theirs - _predict(base)).norm()) > 1e-2
    touched = {f"{module.path}.weight" for one in loaded for module in one} | {"conv_in.bias"}
    differing = 0
    for file in sorted(base_path.rglob("*")):
        other = out / file.relative_to(base_path)
        if file.suffix != ".safetensors":
            assert file.is_dir() or other.read_bytes() == file.read_bytes()
            continue
        assert other.stat().st_size == file.stat().st_size
        before, after = load_file(file), load_file(other)
        for name, one in before.items():
            if not torch.equal(one, after[name]):
                differing += 1
                assert any(name.endswith(path) for path in touched), name
    assert differing == baked.tensors == len(touched)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_one_file_is_baked_into_one_file(family: tiny_base.Kind, tmp_path: Path) -> None:
    """In OpenCLIP's layout q, k and v lie in one matrix, and each is hit where it is."""
    single_file.pack(tiny_base.build(tmp_path / "b", family=family), tmp_path / "b.safetensors")
    base = bases.load(tmp_path / "b.safetensors", torch.device("cpu"))
    tensors: dict[str, Tensor] = {}
    draw = torch.Generator().manual_seed(2)
    for network, names in [
        ("unet", base.unet_names),
        *((encoder.use.network, encoder.names) for encoder in base.encoders),
    ]:
        for path, name in [*names.items()][:6]:
            high, *wide = getattr(base, network).get_submodule(path).weight.shape
            tensors[f"{name}.lora_down.weight"] = torch.randn(3, *wide, generator=draw)
            up = torch.randn(high, 3, *(1 for _ in wide[1:]), generator=draw)
            tensors[f"{name}.lora_up.weight"] = up * 0.1
    save_file(tensors, tmp_path / "l.safetensors")
    sources = [Source(path=str(tmp_path / "l.safetensors"), weight=0.7, text_weight=None)]
    order = {"sources": sources, "base": str(tmp_path / "b.safetensors")}
    baked = bake(BakeOrder(**order, out=str(tmp_path / "o.safetensors")))
    assert baked.tensors == 6 * (1 + len(base.encoders)) and not baked.notes
    modules = lora_file.load(tmp_path / "l.safetensors", base).modules
    with applied(base, [(modules, 0.7)]):
        mixed = _predict(base)
    theirs = _predict(bases.load(tmp_path / "o.safetensors", torch.device("cpu")))
    assert float((theirs - mixed).norm() / mixed.norm()) < 1e-5
    assert float((theirs - _predict(base)).norm()) > 1e-2
    assert (tmp_path / "o.safetensors").stat().st_size == base.path.stat().st_size
    with pytest.raises(LoraError, match=r"the result: .*folder\.safetensors"):
        bake(BakeOrder(**order, out=str(tmp_path / "folder")))


@pytest.mark.parametrize("wrong", ["there", "lora", "huge"])
def test_what_cannot_be_baked_leaves_nothing_behind(
    wrong: str, base_path: Path, loras: list[Path], tmp_path: Path
) -> None:
    out, order = tmp_path / "baked", {"base": str(base_path), "out": f"{tmp_path}/baked"}
    sources: Any = _sources(loras)
    match wrong:
        case "there":
            out.mkdir()
        case "lora":
            loras[1].write_bytes(b"\x80\x04junk")
        case "huge":
            tensors = {"lora_unet_conv_in.diff": torch.full((32, 4, 3, 3), 3e38)}
            save_file(tensors, loras[2])
    with pytest.raises(LoraError) as refused:
        bake(BakeOrder(sources=sources, **order))
    assert refused.value.code in (Code.ALREADY_EXISTS, Code.INVALID_FILE)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} <= {"baked"}
    assert out.exists() == (wrong == "there")
