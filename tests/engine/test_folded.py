"""What is folded into the weights is what is stacked on them, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_daemon.engine import folded, lora_file, pace
from lora_daemon.engine.bases import Base
from lora_daemon.engine.mix import Mix, Strength
from lora_daemon.engine.pace import Pace, Paces
from shared import regions
from tests.engine.test_mix import CONV, CONVOLVED, EXACT, KINDS, LINEAR, POINT, STRIDED, _predict
from tests.engine.test_mix import _file as written


def _mix(base: Base, folder: Path) -> Mix:
    """Every kind of adapter, a DoRA and a bias, on four modules of different kinds."""
    loras = []
    for where in (LINEAR, CONV, POINT, STRIDED):
        shape = tuple(base.unet.get_submodule(where).weight.shape)
        kinds = KINDS if where == LINEAR else KINDS | CONVOLVED
        for number, (kind, make) in enumerate(kinds.items()):
            draw = torch.Generator().manual_seed(number)
            tensors = {role: 0.1 * one for role, one in make(draw, shape)[0].items()}
            more = {}
            if kind in ("lora", "loha"):
                more["dora_scale"] = 1 + torch.rand(shape[0], *(1 for _ in shape[1:]))
            if kind == "full":
                more["diff_b"] = torch.randn(shape[0], generator=draw)
            name = f"{where}-{number}.safetensors"
            path = written(folder / name, tensors, where, **more)
            loras.append(lora_file.load(path, base).modules)
    return Mix(base, loras)


def test_every_kind_folded_is_what_it_is_stacked(base: Base, tmp_path: Path) -> None:
    plain, mix = _predict(base), _mix(base, tmp_path)
    draw = torch.Generator().manual_seed(3)
    weights = [Strength(float(one)) for one in torch.randn(mix.count, generator=draw)]
    mix.set(weights)
    with mix.on():
        stacked = _predict(base)
    with mix.on(fold=True):
        seen = _predict(base)
    assert (seen - stacked).norm() < EXACT * stacked.norm() < EXACT * 1e6
    assert (seen - plain).norm() > 0.01 * plain.norm()  # they do something
    assert torch.equal(_predict(base), plain)


def test_a_thousand_folded_changes_end_where_they_began(base: Base, tmp_path: Path) -> None:
    """The base's own tensors are not written to, and are the ones that are there afterwards."""
    own = {name: (one, one.data_ptr()) for name, one in base.unet.named_parameters()}
    plain, mix = _predict(base), _mix(base, tmp_path)
    weights = [Strength(0.1 * number) for number in range(mix.count)]
    mix.set(weights)
    draw = torch.Generator().manual_seed(0)
    with mix.on(fold=True):
        before = _predict(base)
        for number in range(1000):
            mix.set([Strength(w) for w in torch.randn(mix.count, generator=draw).tolist()])
            if number % 10 == 0:
                mix.fold()
        assert not torch.allclose(_predict(base), before)
        mix.set(weights)
        assert torch.equal(_predict(base), before)  # at the next step, without being asked
        mix.set([Strength(0.0)] * mix.count)
        assert torch.equal(_predict(base), plain)
        mix.set(weights)
    assert torch.equal(_predict(base), plain)
    for name, one in base.unet.named_parameters():
        assert own[name][0] is one and own[name][1] == one.data_ptr()


def test_regions_stay_stacked(base: Base, tmp_path: Path) -> None:
    mix = _mix(base, tmp_path)
    left = [Strength(0.5, region=regions.read("left"))] * mix.count
    mix.set(left)
    with mix.on():
        stacked = _predict(base)
    with mix.on(fold=True):
        mix.set([Strength(0.5)] * mix.count)
        everywhere = _predict(base)
        mix.set(left)
        assert torch.equal(_predict(base), stacked)
    assert not torch.allclose(everywhere, stacked)


def test_where_nothing_may_be_lost_or_no_room_is_there_it_is_not_folded(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = _mix(base, tmp_path)
    monkeypatch.setattr(folded, "_SHARE", 1e-12)
    assert not mix.folds
    monkeypatch.undo()
    assert mix.folds
    weight: Any = mix.sites[0].target.weight
    before = weight.data
    weight.data = before.bfloat16()
    assert not folded.fit(mix.sites)
    weight.data = before


def test_it_is_measured_once_and_pays_by_what_was_measured(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, mix = _predict(base), _mix(base, tmp_path)
    found = pace.measured(mix, 8, 8)
    assert min(found.stacked, found.folded, found.folding) > 0 and found.places == 64
    assert torch.equal(_predict(base), plain)
    quick = Pace(stacked=0.3, folded=0.2, folding=0.5, places=64)
    assert not quick.pays(4, 64) and quick.pays(6, 64)  # 4 × 0.1 < 0.5 < 6 × 0.1
    assert quick.pays(4, 128)  # guided, or a larger picture: each step gains twice
    assert not Pace(stacked=0.3, folded=0.295, folding=0.0, places=64).pays(1000, 64)
    asked: list[Mix] = []
    monkeypatch.setattr(pace, "measured", lambda mix, h, w: (asked.append(mix), quick)[1])
    paces = Paces()
    assert paces.pays(mix, 6, 8, 8, guided=False) and not paces.pays(mix, 2, 8, 8, guided=True)
    assert len(asked) == 1
