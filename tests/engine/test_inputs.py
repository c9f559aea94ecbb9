"""What modules are given, seen through LoRAs: against the second moment itself, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_daemon.engine import inputs, moments
from lora_daemon.engine.bases import Base
from lora_daemon.engine.conflict import compare
from lora_daemon.engine.effects import along
from lora_daemon.engine.generate import conditioning
from lora_daemon.engine.lora_file import places
from lora_daemon.engine.moments import CHANCE
from shared.conflicts import Compared, ConflictOrder
from shared.errors import Code, LoraError
from shared.pictures import LoraUse, PictureSpec

QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_up_blocks_0_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
DOTTED = {
    QUERY: "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    CONV: "unet.up_blocks.0.resnets.0.conv1",
    TEXT: "text_encoder.text_model.encoder.layers.0.mlp.fc1",
}
SPECS = [PictureSpec(prompt=p, steps=2, sampler="DDIM", cfg=c) for p, c in (("a", 3), ("b", 1))]


def random_lora(path: Path, base: Base, seed: int, names: list[str], rank: int = 3) -> Path:
    """A LoRA file of random numbers for these modules of the base."""
    draw, known = torch.Generator().manual_seed(seed), places(base)
    tensors = {}
    for name in names:
        network, place = known[name]
        high, *wide = getattr(base, network).get_submodule(place).weight.shape
        ones = [1 for _ in wide[1:]]
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *wide, generator=draw)
        tensors[f"{name}.lora_up.weight"] = torch.randn(high, rank, *ones, generator=draw)
    save_file(tensors, path)
    return path


def given(base: Base, name: str) -> Tensor:
    """Every input of a module while the specs are painted, (n, in · kernel), float64."""
    network, place = places(base)[name]
    target, seen = getattr(base, network).get_submodule(place), []

    def keep(_: torch.nn.Module, x: tuple[Tensor, ...]) -> None:
        if isinstance(target, torch.nn.Conv2d):
            patches = torch.nn.functional.unfold(
                x[0].double(), target.kernel_size, target.dilation, target.padding, target.stride
            )
            seen.append(patches.movedim(1, -1).flatten(0, 1))
        else:
            seen.append(x[0].double().flatten(0, -2))

    hook = target.register_forward_pre_hook(keep)
    with torch.no_grad():
        for spec in SPECS:
            text = conditioning(base, [spec], guided=spec.cfg > 1)
            assert len(list(along(base, spec, text, lambda: None))) == spec.steps
    hook.remove()
    return torch.cat(seen).cpu()


def test_the_overlap_is_that_of_the_outputs(base: Base, tmp_path: Path) -> None:
    """Weighed by C, ⟨ΔW₁, ΔW₂⟩ is E[(ΔW₁x)·(ΔW₂x)], for linear layers, convolutions and text."""
    names = [QUERY, CONV, TEXT]
    files = [
        random_lora(tmp_path / "one.safetensors", base, 1, names),
        random_lora(tmp_path / "two.safetensors", base, 2, names, rank=5),
    ]
    found = inputs.measure(base, files, SPECS, lambda: None)
    moments.save(tmp_path / "inputs.safetensors", found)
    assert found.modules.keys() == set(DOTTED.values()) and not found.left_out
    uses = [LoraUse(lora=str(files[n]), weight=weight) for n, weight in enumerate((0.7, -1.3))]
    told = compare(
        ConflictOrder(
            loras=[Compared(path=use.lora, use=use) for use in uses], modules=True,
            inputs=str(tmp_path / "inputs.safetensors"), order=[0, 1],
        )
    )  # fmt: skip
    assert told.measured
    for name, dotted in DOTTED.items():
        x = given(base, name)
        place = next(one for one in told.modules if one.module == dotted)
        outs, reads = [], []
        for file, use in zip(files, uses, strict=True):
            up, down = _matrices(file, name)
            outs.append(use.weight * x @ down.t() @ up.t())
            reads.append(x @ down.t())
        inner = [[float((a * b).sum() / len(x)) for b in outs] for a in outs]
        assert place.energy == pytest.approx([inner[0][0], inner[1][1]], rel=1e-4)
        assert place.overlap[0][1] == pytest.approx(inner[0][1] / inner[0][0], rel=1e-3, abs=1e-5)
        # What of the outputs follows from the other's reading, by least squares, less chance.
        fitted = reads[1] @ torch.linalg.lstsq(reads[1], outs[0]).solution
        noise = x @ inputs.chance(dotted, _wide(base, name)).flatten(1).double().t()
        guess = reads[1] @ torch.linalg.lstsq(reads[1], noise).solution
        share = float(fitted.square().sum() / outs[0].square().sum())
        luck = float(guess.square().sum() / noise.square().sum())
        right = max(0.0, (share - luck) / (1 - luck))
        assert place.touched[0][1] == pytest.approx(right, abs=2e-3)


def _matrices(file: Path, name: str) -> tuple[Tensor, Tensor]:
    tensors = load_file(file)
    up, down = (
        tensors[f"{name}.lora_{side}.weight"].flatten(1).double() for side in ("up", "down")
    )
    return up, down


def _wide(base: Base, name: str) -> torch.Size:
    network, place = places(base)[name]
    return torch.Size(getattr(base, network).get_submodule(place).weight.shape[1:])


def test_what_is_measured_does_not_depend_on_who_is_first(base: Base, tmp_path: Path) -> None:
    files = [random_lora(tmp_path / f"{n}.safetensors", base, n, [QUERY], 2 + n) for n in range(2)]
    found = inputs.measure(base, files, SPECS[:1], lambda: None)
    moments.save(tmp_path / "inputs.safetensors", found)
    told = []
    for order in ([0, 1], [1, 0]):
        loras = [Compared(path=str(files[n]), use=LoraUse(lora=files[n].stem)) for n in order]
        told.append(
            compare(
                ConflictOrder(loras=loras, inputs=str(tmp_path / "inputs.safetensors"), order=order)
            )
        )
    assert told[0].whole.overlap[0][1] == pytest.approx(told[1].whole.overlap[1][0], rel=1e-9)
    assert len(next(iter(found.modules.values()))) == CHANCE + 2 + 3
    with pytest.raises(LoraError, match="does not fit"):
        compare(
            ConflictOrder(
                loras=[Compared(path=str(files[0]), use=LoraUse(lora="a"))] * 2,
                inputs=str(tmp_path / "inputs.safetensors"), order=[0, 0],
            )
        )  # fmt: skip


def test_a_change_of_mind_is_heard_at_the_next_step(base: Base, tmp_path: Path) -> None:
    file = random_lora(tmp_path / "one.safetensors", base, 1, [QUERY])
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise LoraError(Code.CANCELLED, "enough")

    with pytest.raises(LoraError, match="enough"):
        inputs.measure(base, [file], SPECS, check)
    assert asked == 2
    target = base.unet.get_submodule(DOTTED[QUERY].removeprefix("unet."))
    assert not target._forward_pre_hooks  # nothing stays on the base
