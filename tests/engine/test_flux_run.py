"""A run on a tiny FLUX, broken off and taken up, ends with the same bytes; its file is used."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lora_daemon import pipe
from lora_daemon.engine import lora_file
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from shared.lora_info import inspect
from shared.recipe import Network
from shared.safetensors_file import write
from tests.engine import tiny_base
from tests.engine import worker_process as work
from tests.engine.test_options_resume import LeaveAt


@pytest.fixture(scope="module")
def flux_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base.build_flux(tmp_path_factory.mktemp("flux") / "dev", blocks=1)


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    torch.set_num_threads(1)
    yield Studio(torch.device("cpu"), lambda report: None, lambda job: False)


def _order(folder: Path, base: Path) -> pipe.Train:
    return work.prepare(
        folder, base, work.pictures(folder.parent / "pictures", 4),
        network={"rank": 4, "alpha": 2.0, "targets": ["to_q", "to_v", "to_out.0", "ff", "mod"],
                 "ranks": ["S*=2/1"]},
        optimizer={"learning_rate": 5e-3},
        noise={"density": "logit_normal", "shift": 0.0, "min_timestep": 100},
        training={"max_steps": 6, "batch_size": 2, "guidance": 2.0, "ema": 0.9,
                  "checkpointing": True},
        dataset={"caption_dropout": 0.3},
        save={"every_steps": 3},
        sample={"prompts": ["a thing"], "every_steps": 3, "every_epochs": 0,
                "steps": 2, "cfg": 3.5},
    )  # fmt: skip


def _run(order: pipe.Train, studio: Studio, *, leave: bool = False) -> list[pipe.Report]:
    told: list[pipe.Report] = []
    run(order, studio, LeaveAt(told, leave), told.append)
    assert isinstance(told[-1], pipe.Finished), told[-1]
    return told


def test_a_run_on_flux_is_taken_up_bit_for_bit_and_its_file_says_what_it_is(
    flux_path: Path, studio: Studio, tmp_path: Path
) -> None:
    unbroken, broken = (_order(tmp_path / name, flux_path) for name in ("unbroken", "broken"))
    _run(unbroken, studio)
    _run(broken, studio, leave=True)
    resumed = _run(broken, studio)
    (taken_up,) = (one for one in resumed if isinstance(one, pipe.Resumed))
    assert (taken_up.step, taken_up.identical) == (3, True)
    assert work.content(broken) == work.content(unbroken)
    rows = list(csv.DictReader((Path(unbroken.run_dir) / "losses.csv").open()))
    assert len(rows) == 12 and all(100 <= int(row["timestep"]) < 1000 for row in rows)
    for order in (unbroken, broken):
        made = sorted(path.stem for path in (Path(order.run_dir) / "samples").glob("*.png"))
        assert made == ["step000000_00", "step000003_00", "step000006_00"]

    file = Path(unbroken.run_dir) / "lora" / "things.safetensors"
    found = inspect(file)
    assert found.modules == {"transformer": 13} and found.dialect == "kohya"
    said = found.metadata
    assert said["ss_base_model_version"] == "flux1"
    assert said["ss_network_module"] == "networks.lora_flux"
    assert said["modelspec.architecture"] == "flux-1-dev/lora"
    assert "modelspec.prediction_type" not in said
    assert (said["ss_guidance_scale"], said["ss_timestep_sampling"]) == ("2.0", "flux_shift")


def test_what_was_trained_is_what_is_read_again(
    flux_path: Path, studio: Studio, tmp_path: Path
) -> None:
    base = studio.base(str(flux_path), "fp32")
    adapter = Adapter(base, Network(rank=2, alpha=1.0, ranks=["*to_k=4/8"]), seed=1)
    torch.manual_seed(0)
    try:
        for module in adapter.modules:
            module.up.normal_()
        wanted = {
            one.path: one.alpha / one.rank * one.up @ one.down for one in adapter.modules
        }  # fmt: skip
        file = tmp_path / "one.safetensors"
        write(file, lora_file.tensors_of(adapter.modules), {})
    finally:
        adapter.remove()
    loaded = lora_file.load(file, base)
    assert {one.path for one in loaded.modules} == wanted.keys()
    for one in loaded.modules:
        delta = one.scale * one.part.dense()
        assert torch.allclose(delta, wanted[one.path], atol=1e-5), one.path
    again = Adapter(base, Network(rank=4, alpha=4.0), seed=2)
    try:
        again.begin_from(loaded.modules, str(file))
        for module in again.modules:
            delta = module.alpha / module.rank * module.up @ module.down
            assert torch.allclose(delta, wanted[module.path], atol=1e-5), module.path
    finally:
        again.remove()
