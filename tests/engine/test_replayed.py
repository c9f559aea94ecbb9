"""A batch's work recorded and replayed: the run is the one that it would be anyway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_daemon.engine import adapters, bases, fused
from lora_daemon.engine import feed as feed_module
from lora_daemon.engine import train as training
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.graphs import WARM_UP
from lora_daemon.engine.train import Errors
from tests.engine.test_bucketed import fed, recipe_of

Act = Callable[[], tuple[Tensor, Tensor]]


class Recorder:
    """What a GPU does, done by a CPU: run, not while it records, and then as often as told, into
    tensors that stay the same."""

    def __init__(self, able: bool = True) -> None:
        self.made = self.replayed = 0
        self.able = able

    def __call__(self, act: Act) -> Act | None:
        for _ in range(WARM_UP):
            given = [one.clone() for one in act()]
        if not self.able:
            return None
        self.made += 1

        def replay() -> tuple[Tensor, Tensor]:
            self.replayed += 1
            for there, one in zip(given, act(), strict=True):
                there.copy_(one)
            return given[0], given[1]

        return replay


def learnt(
    base: Base, tmp_path: Path, begin: float = 0.0, **sections: Any
) -> list[tuple[Tensor, ...]]:
    """Loss, errors and gradient of each of two epochs' steps, in order. ``begin``: is added to
    every weight."""
    recipe = recipe_of(**sections)
    feed, _ = fed(base, tmp_path, recipe)
    adapter = Adapter(base, recipe.network, 1)
    adapter.vector.data.add_(begin)
    together = training.Together(feed.parts)
    try:
        errors = Errors(recipe, base, adapter, None)
        found: list[tuple[Tensor, ...]] = []
        for step in range(2 * feed.steps_per_epoch):
            loss, seen = errors.of_step(feed, step, together)
            found.append((loss, seen, adapter.gradient.clone()))
            adapter.gradient.zero_()
        return found
    finally:
        adapter.remove()


RECIPES: list[dict[str, Any]] = [
    {"training": {"batch_size": 4, "accumulation": 2}, "dataset": {"repeats": 3}},
    {"noise": {"input_perturbation": 0.1}, "loss": {"kind": "huber", "weighting": "min_snr"}},
]


@pytest.mark.parametrize("sections", RECIPES)
def test_replayed_steps_are_those_that_are_taken_one_kernel_at_a_time(
    sections: dict[str, Any], base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = learnt(base, tmp_path, **sections)
    recorder = Recorder()
    monkeypatch.setattr(training, "recorder", lambda device: recorder)
    again = learnt(base, tmp_path, **sections)
    assert 1 < recorder.made < recorder.replayed
    for one, other in zip(plain, again, strict=True):
        assert all(map(torch.equal, one, other))


def test_where_it_cannot_be_recorded_the_steps_are_the_same(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = learnt(base, tmp_path)
    recorder = Recorder(able=False)
    monkeypatch.setattr(training, "recorder", lambda device: recorder)
    again = learnt(base, tmp_path)
    assert not recorder.replayed
    assert all(
        torch.equal(*two)
        for one in zip(plain, again, strict=True)
        for two in zip(*one, strict=True)
    )


@pytest.mark.parametrize(
    "sections",
    [
        {"network": {"rank_dropout": 0.5}},
        {"training": {"checkpointing": True}},
        {"loss": {"preservation": 0.5, "class_caption": "a thing"}},
        {"optimizer": {"text_encoder_rate": 1e-4}},
    ],
)
def test_what_is_not_the_same_each_time_is_not_recorded(
    sections: dict[str, Any], base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(training, "recorder", lambda device: recorder)
    learnt(base, tmp_path, **sections)
    assert not recorder.made


@pytest.mark.parametrize("rank", [4, 8])  # rows of 8 and of 16 bytes
def test_in_16_bits_the_fused_layer_learns_what_peft_s_own_does(
    rank: int, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = bases.load(base_path, torch.device("cpu"), "bf16")
    network = {"network": {"rank": rank, "alpha": 2.0}}
    ours = learnt(half, tmp_path, 0.01, **network)
    monkeypatch.setattr(adapters, "fuse", lambda layer, name, _: fused.in_16_bits(layer, name))
    read_by_compilers = learnt(half, tmp_path, 0.01, **network)
    monkeypatch.setattr(adapters, "fuse", lambda *_: None)
    peft_s = learnt(half, tmp_path, 0.01, **network)
    for one, other, expected in zip(ours, read_by_compilers, peft_s, strict=True):
        for found in (one[2], other[2]):
            assert expected[2].any()
            assert torch.dist(found, expected[2]) < 0.03 * expected[2].norm()


def test_captions_read_several_at_once_say_what_each_says_alone(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(dataset={"caption_dropout": 0.1})
    alone, _ = fed(base, tmp_path, recipe)
    monkeypatch.setattr(feed_module, "TEXTS_AT_ONCE", 3)
    several = replace(base, device=torch.device("meta"))  # where it is not one by one
    together = feed_module.Feed(recipe, several, alone.moments, alone.captions)
    assert len(alone._texts) == len(together._texts) == 8
    for text, rows in alone._texts.items():
        assert torch.allclose(together._texts[text], rows, atol=1e-5), text
