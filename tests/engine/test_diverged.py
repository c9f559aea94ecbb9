"""Why a run diverged: each cause is told from its evidence, with what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import Moments
from lora_daemon.engine.diverged import Evidence, Seen, gathered, likely, risen_from, told
from lora_daemon.pipe import Point
from shared import recipe as recipes
from shared.recipe import Network, convert
from tests.engine.test_train import fed

PATH = "/pictures/cat.png"
FINE = Seen(PATH, 500, 4.0, base_fails=False)


def points(losses: Sequence[float], rate: float = 1e-4) -> list[Point]:
    return [Point(n + 1, loss, rate, 0.1 * loss, 0.0) for n, loss in enumerate(losses)]


def evidence(recipe: dict[str, Any] | None = None, **fields: Any) -> Evidence:
    known: dict[str, Any] = {
        "recipe": convert(recipe or {}), "step": 101, "loss": float("nan"), "norm": float("nan"),
        "points": points([0.1] * 100), "precision": "fp32", "pictures": [FINE], "usual_latent": 4.0,
    }  # fmt: skip
    return Evidence(**{**known, **fields})


@pytest.mark.parametrize(
    ("known", "words", "settings"),
    [
        ({"pictures": [FINE, Seen("/x/bad.png", 3, 900.0, base_fails=True)]},
         "the latents of /x/bad.png reach 900, and the others' 4", []),
        ({"pictures": [Seen(PATH, 3, 4.0, base_fails=True)], "precision": "fp16", "better": "bf16"},
         "the base itself, without the LoRA, overflows in fp16 on /pictures/cat.png at timestep 3",
         ["training.precision=bf16"]),
        ({"pictures": [Seen(PATH, 3, 4.0, base_fails=True)]}, "makes no finite prediction", []),
        ({"precision": "fp16", "loss": 0.13}, "multiplied by 1024", ["training.precision=fp32"]),
        ({"recipe": {"loss": {"weighting": "debiased"}}, "weights": [1.0] * 999 + [1e4],
          "pictures": [Seen(PATH, 999, 4.0, base_fails=False)]},
         "lets timestep 999, where", ["loss.weighting=none"]),
        ({"recipe": {"optimizer": {"learning_rate": 0.01}}},
         "is 100 times what is usual for adamw (0.0001)", ["optimizer.learning_rate=0.0001"]),
        ({"recipe": {"optimizer": {"kind": "lion", "learning_rate": 0.001}}},
         "usual for lion (2e-05)", ["optimizer.learning_rate=2e-05"]),
        ({"recipe": {"optimizer": {"lora_plus": 100.0}}},
         "optimizer.lora_plus = 100 is 100 times", ["optimizer.lora_plus=1.0"]),
        ({"recipe": {"optimizer": {"kind": "prodigy", "learning_rate": 1.0}},
          "points": [*points([0.1] * 50, 1e-6), *points([0.1] * 50, 0.02)]},
         "Prodigy had raised its rate from 1e-06 to 0.02", ["optimizer.learning_rate=0.03"]),
        ({"recipe": {"network": {"rank": 4, "alpha": 256.0}, "optimizer": {"learning_rate": 0.5}}},
         "(0.0001); and network.alpha = 256",
         ["optimizer.learning_rate=0.0001", "network.alpha=4.0"]),
        ({"recipe": {"network": {"rank": 4, "alpha": 256.0}}}, "by 64;", ["network.alpha=4.0"]),
        ({"points": points([0.1] * 60 + [0.3 + 0.01 * n for n in range(40)])},
         "the loss had risen since step 5", ["optimizer.learning_rate=3e-05"]),
        ({"recipe": {"optimizer": {"max_grad_norm": 0.0}}}, "a single step go any distance",
         ["optimizer.max_grad_norm=1.0"]),
        ({}, "nothing led up to it", ["optimizer.learning_rate=3e-05"]),
    ],
)  # fmt: skip
def test_each_cause_is_known_by_its_evidence(
    known: dict[str, Any], words: str, settings: list[str]
) -> None:
    found = evidence(**known)
    cause = likely(found)
    assert words in cause.why and cause.settings == settings
    recipes.parse(recipes.dump(found.recipe), cause.settings)  # a recipe that is accepted
    assert cause.settings or cause.advice


def test_a_rate_that_the_starter_bears_is_no_cause_there() -> None:
    high = evidence({"optimizer": {"learning_rate": 0.002}}, small=True)
    assert "usual for" not in likely(high).why
    assert "usual for" in likely(evidence({"optimizer": {"learning_rate": 0.002}})).why


def test_a_rise_is_one_that_lasts_to_the_end() -> None:
    assert risen_from(points([0.1] * 50 + [0.9] * 20 + [0.1] * 30)) == 0
    assert 50 <= risen_from(points([0.1] * 60 + [0.5] * 40)) <= 61
    assert risen_from(points([0.1] * 5)) == 0


def test_the_way_on_is_a_command_with_the_settings() -> None:
    said = told(likely(evidence({"optimizer": {"learning_rate": 0.01}})), "r0007", 90)
    assert "`lora-tui run fork r0007 --at 90 --set optimizer.learning_rate=0.0001`" in said
    assert "goes on from step 90" in said
    assert "begins anew" in told(likely(evidence()), "r0007", 0)


def test_the_step_that_failed_is_looked_into_again(base: Base, tmp_path: Path) -> None:
    recipe = convert({"training": {"batch_size": 5}})
    feed = fed(base, tmp_path, recipe)
    (wild,) = feed.moments[3]
    loud = Moments(wild.mean * 1e4, wild.deviation, wild.mean * 1e4, wild.deviation)
    feed.moments = [*feed.moments[:3], [wild, loud], *feed.moments[4:]]  # in one of its versions
    (tmp_path / "metrics.csv").write_text(
        "step,loss,learning_rate,grad_norm,time\n1,0.5,1e-4,0.1,0\n"
    )
    adapter = Adapter(base, Network(rank=2), seed=0)
    try:
        adapter.vector.data.fill_(float("nan"))  # the base alone is asked, not the LoRA
        paths = [f"{n}.png" for n in range(5)]
        bad = Point(2, float("nan"), 1e-4, float("nan"), 0.0)
        found = gathered(recipe, base, adapter, feed, paths, tmp_path, bad)
    finally:
        adapter.remove()
    assert sorted(one.path for one in found.pictures) == paths
    assert not any(one.base_fails for one in found.pictures)
    assert [point.step for point in found.points] == [1] and found.small
    assert "3.png" in likely(found).why and "VAE" in likely(found).why


def test_a_base_that_overflows_is_found_by_asking_it(base: Base, tmp_path: Path) -> None:
    recipe = convert({})
    feed = fed(base, tmp_path, recipe)
    adapter = Adapter(base, Network(rank=2), seed=0)
    weight = base.unet.conv_out.weight
    kept = weight.detach().clone()
    try:
        weight.data.fill_(float("inf"))
        bad = Point(1, float("nan"), 1e-4, float("nan"), 0.0)
        found = gathered(recipe, base, adapter, feed, [str(n) for n in range(5)], tmp_path, bad)
    finally:
        weight.data.copy_(kept)
        adapter.remove()
    assert all(one.base_fails for one in found.pictures)
    assert torch.isfinite(weight).all()
    assert "the base itself" in likely(found).why
