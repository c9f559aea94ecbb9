"""LoRAs in regions, against a dense UNet in float64 that is given another weight at each place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lora_daemon.engine import regions
from lora_daemon.engine.bases import Base
from lora_daemon.engine.mix import Mix, Placed, Strength, whole_delta
from shared.errors import Code, LoraError
from shared.regions import Region
from tests.engine.test_mix import _error, _loras, _predict

LEFT, RIGHT = Region(right=0.5), Region(left=0.5)
SPOT = Region(left=0.25, top=0.1, right=0.8, bottom=0.7, feather=0.3)
SIDE = 8  # of the latents


def share(region: Region | None, row: float, column: float) -> float:
    """How much of a LoRA there is at a point of the picture."""
    if region is None:
        return 1.0
    found = 1.0
    for at, first, last in ((row, region.top, region.bottom), (column, region.left, region.right)):
        for inward, border in ((at - first, first == 0), (last - at, last == 1)):
            found *= 1.0 if border else min(max(inward / region.feather + 0.5, 0.0), 1.0)
    return found


def mask(region: Region | None, side: int, pixels: int) -> Tensor:
    """The mean over each place of a square layer, float64 (side, side)."""
    fine = pixels // side
    values = [
        [share(region, (y + 0.5) / pixels, (x + 0.5) / pixels) for x in range(pixels)]
        for y in range(pixels)
    ]
    blocks = torch.tensor(values, dtype=torch.float64).reshape(side, fine, side, fine)
    return blocks.mean((1, 3))


class Dense:
    """The UNet in float64 whose every module has W + Σ wᵢ mᵢ(p) ΔWᵢ at the place p."""

    def __init__(
        self, base: Base, loras: list[list[Placed]], strengths: list[tuple[float, Region | None]]
    ) -> None:
        self.unet: Any = copy.deepcopy(base.unet).double()
        self._strengths, self._pixels = strengths, SIDE * base.pixels_per_latent
        self._masks: dict[tuple[int, int], Tensor] = {}
        deltas: dict[str, list[tuple[int, Tensor]]] = {}
        for number, modules in enumerate(loras):
            for module in modules:
                if module.network == "unet":
                    weight: Any = base.unet.get_submodule(module.path).weight
                    found = whole_delta(module, weight.detach().cpu()).to(weight.device)
                    deltas.setdefault(module.path, []).append((number, found))
        for path, members in deltas.items():
            target = self.unet.get_submodule(path)
            if path.endswith(("attn2.to_k", "attn2.to_v")):
                target.members = members
            else:
                target.register_forward_hook(self._hook(members))
        for name, module in self.unet.named_modules():
            if name.endswith("attn2"):
                module.processor = self._place_by_place

    def at(self, number: int, side: int) -> Tensor:
        """The weight of a LoRA at each place."""
        key = (number, side)
        if key not in self._masks:
            weight, region = self._strengths[number]
            at = mask(region, side, self._pixels).to(self.unet.device)
            self._masks[key] = weight * at
        return self._masks[key]

    def _hook(self, members: list[tuple[int, Tensor]]) -> Any:
        def add(target: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for number, delta in members:
                if isinstance(target, nn.Conv2d):
                    more = F.conv2d(inputs[0], delta, None, target.stride, target.padding)
                    output = output + self.at(number, output.shape[-1]) * more
                elif output.dim() == 2:
                    mean = self.at(number, SIDE).mean()
                    output = output + mean * F.linear(inputs[0], delta)
                else:
                    side = round(output.shape[1] ** 0.5)
                    places = self.at(number, side).flatten()[:, None]
                    output = output + places * F.linear(inputs[0], delta)
            return output

        return add

    def _place_by_place(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any
    ) -> Tensor:
        queries = attn.to_q(hidden_states)
        side = round(queries.shape[1] ** 0.5)
        rows = []
        for place in range(queries.shape[1]):
            said = []
            for target in (attn.to_k, attn.to_v):
                weight = target.weight
                for number, delta in getattr(target, "members", []):
                    weight = weight + self.at(number, side).flatten()[place] * delta
                said.append(F.linear(encoder_hidden_states, weight, target.bias))
            query, key, value = (
                one.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for one in (queries[:, place : place + 1], *said)
            )
            logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
            rows.append((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return attn.to_out[0](torch.cat(rows, dim=1))


@torch.no_grad()
def test_every_place_has_its_own_weights(base: Base, tmp_path: Path) -> None:
    loras = _loras(base, tmp_path, 3)  # the last one has LoKr's Kronecker products
    strengths = [(0.7, LEFT), (-0.4, None), (0.5, SPOT)]
    noisy = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    noisy, late = noisy.to(base.device), torch.tensor([500], device=base.device)
    text = base.encode_text("a thing").expand(2, -1, -1)
    plain = base.denoise(noisy, late, text)
    mix = Mix(base, loras)
    mix.set([Strength(weight, region=region) for weight, region in strengths])
    with mix.on():
        ours = base.denoise(noisy, late, text)
    dense = Dense(base, loras, strengths)
    wanted = dense.unet(noisy.double(), late, text.double()).sample
    assert _error(ours, wanted) < 1e-5
    assert _error(plain, wanted) > 0.1  # they do something


@torch.no_grad()
def test_two_halves_are_the_whole(base: Base, tmp_path: Path) -> None:
    lora = _loras(base, tmp_path, 1)[0]
    found = []
    for loras, strengths in (
        ([lora], [Strength(0.6, 0.0)]),
        ([lora, lora], [Strength(0.6, region=LEFT), Strength(0.6, region=RIGHT)]),
    ):
        mix = Mix(base, loras)
        mix.set(strengths)
        with mix.on():
            found.append(_predict(base))
    assert _error(found[1], found[0].double()) < 1e-5


@torch.no_grad()
def test_without_regions_nothing_is_otherwise_also_after_some(base: Base, tmp_path: Path) -> None:
    def looks() -> list[object]:
        found: list[Any] = [base.unet.get_submodule(path) for path in paths]
        return [one.processor for one in found]

    paths = [name for name, _ in base.unet.named_modules() if name.endswith("attn2")]
    before = looks()
    mix = Mix(base, _loras(base, tmp_path, 2))
    with mix.on():
        first = _predict(base)
        assert looks() == before
        mix.set([Strength(region=LEFT), Strength()])
        regional = _predict(base)
        assert not torch.equal(regional, first)
        mix.set([Strength(), Strength()])
        assert torch.equal(_predict(base), first)
        mix.set([Strength(region=LEFT), Strength()])
        assert torch.equal(_predict(base), regional)
    assert looks() == before


@torch.no_grad()
def test_words_have_no_place(base: Base, tmp_path: Path) -> None:
    mix = Mix(base, _loras(base, tmp_path, 1))
    plain = base.encode_text("a thing")
    with mix.on():
        mix.set([Strength(region=LEFT)])
        assert torch.equal(base.encode_text("a thing"), plain)
        mix.set([Strength(text=0.5, region=LEFT)])
        given = base.encode_text("a thing")
        mix.set([Strength(text=0.5)])
        assert torch.equal(base.encode_text("a thing"), given)
    assert not torch.equal(given, plain)


def test_a_mask_picture_is_the_region_that_is_drawn_on_it(tmp_path: Path) -> None:
    picture = Image.new("L", (32, 16))
    picture.paste(255, (0, 0, 16, 16))
    picture.save(tmp_path / "left.png")
    drawn = regions.Field([None, Region(picture=str(tmp_path / "left.png"), feather=0)])
    hard = regions.Field([None, Region(right=0.5, feather=0)])
    for field in (drawn, hard):
        field.look((4, 8), 4)
    assert torch.equal(drawn.at((2, 4)), hard.at((2, 4)))
    assert drawn.at((2, 4)).tolist() == [[[1.0, 1.0, 0.0, 0.0]] * 2]
    soft = regions.drawn(
        Region(feather=0.5, picture="x"), (16, 32), Image.open(tmp_path / "left.png")
    )
    assert 0 < float(soft[8, 18]) < float(soft[8, 14]) < 1
    with pytest.raises(LoraError) as caught:
        regions.Field([Region(picture=str(tmp_path / "none.png"))])
    assert caught.value.code is Code.INVALID_FILE
