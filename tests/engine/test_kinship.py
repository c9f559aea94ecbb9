"""How near bases are to one another, and LoRAs to bases, by their weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_daemon.engine import single_file
from lora_daemon.engine.kinship import alignment, distance
from tests.engine import tiny_base

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def kin(base_path: Path, tmp_path: Path) -> Path:
    """The tiny base with its weights moved a little."""
    kin = shutil.copytree(base_path, tmp_path / "kin")
    tensors = load_file(kin / WEIGHTS)
    draw = torch.Generator().manual_seed(2)
    for one in tensors.values():
        if one.dim() > 1:
            one.add_(0.1 * one.std() * torch.randn(one.shape, generator=draw))
    save_file(tensors, kin / WEIGHTS)
    return kin


def test_distances_are_those_of_the_weights(base_path: Path, kin: Path) -> None:
    found = distance(base_path, kin)
    one, other = (
        load_file(path / WEIGHTS)[f"{QUERY}.weight"].double() for path in (base_path, kin)
    )
    wanted = [one.square().sum(), other.square().sum(), (one * other).sum()]
    assert found.modules[f"unet.{QUERY}"] == pytest.approx([float(n) for n in wanted], rel=1e-5)
    assert len(found.modules) > 40


def test_a_base_is_itself_in_another_layout(base_path: Path, tmp_path: Path) -> None:
    single_file.pack(base_path, tmp_path / "one.safetensors")
    found = distance(base_path, tmp_path / "one.safetensors").modules
    assert f"unet.{QUERY}" in found
    assert all(a == b == c for a, b, c in found.values())


def test_another_family_has_nothing_to_compare(base_path: Path, tmp_path: Path) -> None:
    foreign = tiny_base.build(tmp_path / "xl", seed=3, family="sdxl")
    found = distance(base_path, foreign).modules
    assert f"unet.{QUERY}" not in found


def test_a_lora_lies_along_the_base_that_it_follows(base_path: Path, tmp_path: Path) -> None:
    """Against the dense formula; one along the weights' first directions, one at random."""
    weight = load_file(base_path / WEIGHTS)[f"{QUERY}.weight"].double()
    u, s, v = torch.linalg.svd(weight)
    draw = torch.Generator().manual_seed(4)
    high, wide = weight.shape
    pairs = {
        "follows": (u[:, :2] * s[:2], v[:2]),
        "random": (torch.randn(high, 24, generator=draw), torch.randn(24, wide, generator=draw)),
    }
    scores = {}
    for name, (up, down) in pairs.items():
        module = f"lora_unet_{QUERY.replace('.', '_')}"
        tensors = {f"{module}.lora_up.weight": up.float().contiguous(),
                   f"{module}.lora_down.weight": down.float().contiguous(),
                   "lora_unet_conv_in.lora_up.weight": torch.ones(3, 2),
                   "lora_unet_conv_in.lora_down.weight": torch.ones(2, 3)}  # fmt: skip
        save_file(tensors, tmp_path / f"{name}.safetensors")
        found = alignment(tmp_path / f"{name}.safetensors", base_path).modules
        delta = up.double() @ down.double()
        size = weight.norm() ** 2 * delta.norm() ** 2
        wanted = [high * (weight.t() @ delta).norm() ** 2 / size,
                  wide * (delta @ weight.t()).norm() ** 2 / size]  # fmt: skip
        assert found == {f"unet.{QUERY}": pytest.approx([float(n) for n in wanted], rel=1e-4)}
        scores[name] = found[f"unet.{QUERY}"]
    assert min(scores["follows"]) > 1.5 and max(map(abs, (n - 1 for n in scores["random"]))) < 0.4
