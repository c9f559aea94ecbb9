"""Runs killed at any moment end with the bytes of an unbroken run."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from lora_daemon import pipe
from tests.engine import worker_process as work

MOMENTS = ("caching", "step", "state", "checkpoint", "sample")
RECIPE = {
    "training": {"epochs": 8, "batch_size": 2},
    "dataset": {"repeats": 3},
    "save": {"resume_seconds": 0.001, "every_steps": 2},
    "sample": {"prompts": ["a thing"], "steps": 3, "every_epochs": 2},
}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> list[pipe.FrozenPicture]:
    return work.pictures(tmp_path_factory.mktemp("pictures"), count=5)


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> pipe.Train:
    order = work.prepare(tmp_path_factory.mktemp("unbroken") / "run", base_path, frozen, **RECIPE)
    work.train(order)
    return order


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_once_in_each_kind_of_moment_ends_with_the_same_bytes(
    moment: str, tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture],
    unbroken: pipe.Train,
) -> None:  # fmt: skip
    order = work.prepare(tmp_path / "run", base_path, frozen, **RECIPE)
    _kill(order, moment, random.Random(moment))
    _go_on_and_compare(order, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_run_killed_five_times_ends_with_the_same_bytes(
    seed: int, tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture],
    unbroken: pipe.Train,
) -> None:  # fmt: skip
    order = work.prepare(tmp_path / "run", base_path, frozen, **RECIPE)
    dice = random.Random(seed)
    _kill(order, "caching", dice)
    for moment in dice.sample(MOMENTS[1:], 4):
        _kill(order, moment, dice)
    _go_on_and_compare(order, unbroken)


def test_a_damaged_newest_state_falls_back_to_the_one_before(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture], unbroken: pipe.Train
) -> None:
    order = work.prepare(tmp_path / "run", base_path, frozen, **RECIPE)
    with work.worker() as one:
        one.send(order)
        one.until(pipe.StateSaved, lambda saved: saved.step >= 3)
        one.kill()
    *_, older, newest = sorted((Path(order.run_dir) / "state").glob("step*"))
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    with work.worker() as one:
        one.send(order)
        assert one.until(pipe.Resumed).step == int(older.stem.removeprefix("step"))
        assert newest.name in one.of(pipe.Notice)[0].message
        one.until(pipe.Finished)
    assert work.content(order) == work.content(unbroken)


def _go_on_and_compare(order: pipe.Train, unbroken: pipe.Train) -> None:
    done = work.train(order)
    assert all(report.identical for report in done.of(pipe.Resumed))
    assert work.content(order) == work.content(unbroken)
    kept = sorted(path.name for path in (Path(order.run_dir) / "lora").iterdir())
    assert kept == sorted(path.name for path in (Path(unbroken.run_dir) / "lora").iterdir())
    rows, theirs = _series(order), _series(unbroken)
    assert rows == theirs  # the loss series was cut back, and went on as if unbroken
    assert not list(Path(order.run_dir).rglob(".*.*.*"))  # nothing half-written stays


def _series(order: pipe.Train) -> list[str]:
    """metrics.csv less the time of day."""
    text = (Path(order.run_dir) / "metrics.csv").read_text()
    return [line.rpartition(",")[0] for line in text.splitlines()]


def _kill(order: pipe.Train, moment: str, dice: random.Random) -> None:
    """Kill a worker at this run in this kind of moment, trying again until it was one."""
    for _ in range(30):
        with work.worker() as one:
            one.send(order)
            match moment:
                case "caching":
                    one.until(pipe.Phase, lambda told: told.phase == "caching")
                    done = dice.randrange(4)
                    work.wait_for(lambda at=done: len(_cached(order)) >= at)
                case "sample":
                    one.until(pipe.Phase, lambda told: told.phase == "sampling")
                case "step":
                    for _ in range(dice.randrange(1, 6)):
                        one.until(pipe.StateSaved)
                    time.sleep(dice.random() * 0.02)  # anywhere in the step
                case _:
                    one.until(pipe.StateSaved)
                    folder = {"state": "state", "checkpoint": "lora"}[moment]
                    _wait_for_half_written(Path(order.run_dir) / folder)
            one.kill()
            if _caught(order, moment):
                return
    pytest.fail(f"no kill met a {moment}")


def _wait_for_half_written(folder: Path) -> None:
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        if folder.exists() and any(folder.glob(".*.*.*")):
            return


def _caught(order: pipe.Train, moment: str) -> bool:
    """Whether the dead worker was in the middle of it: it left something half done."""
    run_dir = Path(order.run_dir)
    match moment:
        case "step":
            return True
        case "sample":
            return any(run_dir.glob("samples/.step*"))
        case "caching":
            if not (run_dir / "pictures.json").exists():
                return True
            for left in (*_cached(order), *run_dir.glob("state/*"), run_dir / "pictures.json"):
                left.unlink()  # too late: from the beginning
            return False
    return any((run_dir / {"state": "state", "checkpoint": "lora"}[moment]).glob(".*.*.*"))


def _cached(order: pipe.Train) -> list[Path]:
    return list(Path(order.cache_dir).rglob("*.safetensors"))
