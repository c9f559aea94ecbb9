"""Each recipe that comes with lora-tui trains, on a tiny base of its family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_daemon import pipe
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from shared import recipe as recipes
from tests.engine import tiny_base
from tests.engine import worker_process as work
from tests.engine.test_extending import NoCommands

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


@pytest.fixture(scope="module")
def xl_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base.build(tmp_path_factory.mktemp("xl") / "xl", family="sdxl")


@pytest.fixture(scope="module")
def studio() -> Studio:
    torch.set_num_threads(1)
    return Studio(torch.device("cpu"), lambda report: None, lambda job: False)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_takes_a_step(
    path: Path, tmp_path: Path, base_path: Path, xl_path: Path, studio: Studio
) -> None:
    small = ["dataset.resolution=64", "dataset.repeats=1", "training.max_steps=1",
             "schedule.warmup_steps=0", "sample.prompts=[]", "dataset.name=things",
             "output.name="]  # fmt: skip
    recipe = recipes.load(path, small)
    base = xl_path if recipe.base.family == "sdxl" else base_path
    frozen = work.pictures(tmp_path / "pictures", 2)
    order = work.prepare(tmp_path / "run", base, frozen)
    (tmp_path / "run" / "recipe.toml").write_text(recipes.dump(recipe))
    told: list[pipe.Report] = []
    run(order, studio, NoCommands(), told.append)
    last = told[-1]
    assert isinstance(last, pipe.Finished) and last.step == 1, last
    content, metadata = work.content(order)
    assert content and metadata["ss_network_dim"] == str(recipe.network.rank)
