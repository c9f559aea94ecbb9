"""A run that is extended, or forked with its state, goes on as if it had never ended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lora_daemon import pipe
from lora_daemon.continuing import lasting, states_of
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from shared import recipe as recipes
from tests.engine import worker_process as work


class NoCommands:
    def take(self, wait: float | None) -> pipe.Command | None:
        del wait
        return None

    def put_off(self, command: pipe.Command) -> None:
        raise AssertionError(command)

    def leaving(self, run: str) -> bool:
        del run
        return False


@pytest.fixture(scope="module")
def studio() -> Studio:
    torch.set_num_threads(1)
    return Studio(torch.device("cpu"), lambda report: None, lambda job: False)


def _trained(order: pipe.Train, studio: Studio) -> list[pipe.Report]:
    told: list[pipe.Report] = []
    run(order, studio, NoCommands(), told.append)
    assert isinstance(told[-1], pipe.Finished), told[-1]
    return told


def _order(folder: Path, base_path: Path, steps: int, **sections: object) -> pipe.Train:
    frozen = work.pictures(folder.parent / "pictures", 4)
    return work.prepare(
        folder, base_path, frozen, network={"rank": 4}, training={"max_steps": steps, "epochs": 9},
        **sections,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_extended_is_as_long_from_the_beginning_where_the_rate_is_constant(
    kind: str, tmp_path: Path, base_path: Path, studio: Studio
) -> None:
    schedule = {"kind": kind, "warmup_steps": 2 if kind == "constant" else 0}
    long = _order(tmp_path / "long", base_path, 7, schedule=schedule)
    _trained(long, studio)
    short = _order(tmp_path / "short", base_path, 4, schedule=schedule)
    _trained(short, studio)
    path = Path(short.run_dir) / "recipe.toml"
    path.write_text(recipes.dump(lasting(recipes.load(path), 7, 4)))
    resumed = next(r for r in _trained(short, studio) if isinstance(r, pipe.Resumed))
    assert (resumed.step, resumed.identical) == (4, True)
    same = work.content(short)[0] == work.content(long)[0]
    assert same == (kind == "constant")


def test_a_fork_with_another_rate_takes_that_rate_and_keeps_the_moments(
    tmp_path: Path, base_path: Path, studio: Studio
) -> None:
    parent = _order(tmp_path / "parent", base_path, 4)
    _trained(parent, studio)
    last = {}
    for name, rate in (("same", 1e-4), ("faster", 1e-2)):
        fork = _order(tmp_path / name, base_path, 6, optimizer={"learning_rate": rate})
        (Path(fork.run_dir) / "state").mkdir(exist_ok=True)
        for state in states_of(Path(parent.run_dir)).values():
            shutil.copy(state, Path(fork.run_dir) / "state")
        for series in ("pictures.json", "metrics.csv", "losses.csv"):
            shutil.copy(Path(parent.run_dir) / series, Path(fork.run_dir))
        _trained(fork, studio)
        rows = (Path(fork.run_dir) / "metrics.csv").read_text().splitlines()[1:]
        assert [float(row.split(",")[2]) for row in rows][4:] == [rate, rate]
        last[name] = work.content(fork)[0]
    unbroken = _order(tmp_path / "unbroken", base_path, 6)
    _trained(unbroken, studio)
    assert last["same"] == work.content(unbroken)[0]
    assert last["faster"] != last["same"]
