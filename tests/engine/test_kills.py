"""Runs killed at any moment end with the bytes of an unbroken run."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from lora_daemon import pipe
from tests.engine import worker_process as work

MOMENTS = ("caching", "step", "state", "checkpoint", "sample")
RECIPE = {
    "training": {"epochs": 4, "batch_size": 2},
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


def test_a_run_killed_among_versions_ends_with_the_same_bytes(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    dataset = {"random_crop": True, "color_jitter": 0.2, "versions": 3, "repeats": 2}
    recipe = RECIPE | {"dataset": dataset, "sample": {}}
    unbroken = work.prepare(tmp_path / "unbroken" / "run", base_path, frozen, **recipe)
    work.train(unbroken)
    order = work.prepare(tmp_path / "broken" / "run", base_path, frozen, **recipe)
    dice = random.Random(3)
    for moment in ("caching", "step"):
        _kill(order, moment, dice)
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
    """Kill a worker in the middle of such a moment of this run, and see that it was the middle."""
    for _ in range(30):
        with work.worker() as one:
            one.send(order)
            one.until(pipe.Phase, lambda told: told.phase == "caching")
            if moment == "step":
                for _ in range(dice.randrange(1, 6)):
                    one.until(pipe.StateSaved)
                time.sleep(dice.random() * 0.02)  # anywhere in the step
            else:
                _stop_in(one, order, moment, dice)
            one.kill()
        if _in_the_middle(order, moment):
            return
        _begin_anew(order)
    pytest.fail(f"no kill met a {moment}")


def _stop_in(one: work.Worker, order: pipe.Train, moment: str, dice: random.Random) -> None:
    """Stop the worker again and again, until it stands in such a moment or the run is over."""
    done = Path(order.run_dir) / "lora" / "things.safetensors"
    at_least = dice.randrange(1, 5)  # pictures cached, where that is the moment
    while not done.exists():
        one.signal(signal.SIGSTOP)
        if _in_the_middle(order, moment, at_least):
            return
        one.signal(signal.SIGCONT)
        time.sleep(0.001 + dice.random() * 0.004)


def _in_the_middle(order: pipe.Train, moment: str, at_least: int = 0) -> bool:
    """Whether something is half done on the disk."""
    run_dir = Path(order.run_dir)
    match moment:
        case "caching":
            cached = len(list(Path(order.cache_dir).rglob("*.safetensors")))
            return cached >= at_least and not (run_dir / "pictures.json").exists()
        case "state":
            return any((run_dir / "state").glob(".*.*.*"))
        case "checkpoint":
            return any((run_dir / "lora").glob(".*.*.*"))
        case "sample":
            return any((run_dir / "samples").glob(".step*"))
    return not (run_dir / "lora" / "things.safetensors").exists()


def _begin_anew(order: pipe.Train) -> None:
    """The run went by without such a moment: take back all that it did."""
    for folder in ("state", "lora", "samples", "../cache"):
        shutil.rmtree(Path(order.run_dir) / folder, ignore_errors=True)
    for name in ("pictures.json", "metrics.csv"):
        (Path(order.run_dir) / name).unlink(missing_ok=True)
