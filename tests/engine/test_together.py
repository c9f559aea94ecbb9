"""Several processes train one run, and it comes out as by one with the larger batch."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lora_daemon import pipe
from lora_daemon.engine import together
from lora_daemon.engine.bases import Base
from lora_daemon.engine.together import Place, world_of
from shared.recipe import convert
from shared.safetensors_file import read_header, read_tensor
from tests.engine import worker_process as work
from tests.engine.test_train import fed

# The same sum in another order: of float32, over a hundred thousand products and eight steps.
ROUNDING = {"rtol": 2e-3, "atol": 2e-5}
SECTIONS = {
    "dataset": {"repeats": 3},
    "save": {"resume_seconds": 0.001},
    "optimizer": {"learning_rate": 1e-3, "text_encoder_rate": 1e-4},
}


def test_a_run_that_is_given_gpus_has_a_process_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, two = torch.device("cpu"), ["GPU-a", "GPU-b"]
    assert [world_of(4, cpu), world_of(4, cpu, two), world_of(1, cpu, two)] == [4, 2, 1]
    monkeypatch.setenv("LORA_TUI_PROCESSES", "1")
    assert world_of(4, cpu, two) == 1
    begun: list[dict[str, Any]] = []

    def begin(*_: Any, **how: Any) -> Any:
        begun.append(how["env"])
        return SimpleNamespace(stdin=io.BytesIO())

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")  # the leader's own
    monkeypatch.setattr(subprocess, "Popen", begin)
    for devices in (two, []):
        order = pipe.Train(run="r", run_dir="", cache_dir="", devices=devices)
        together._begin(Place(order=order, rank=1, world=2, meeting=""))
    assert [env["CUDA_VISIBLE_DEVICES"] for env in begun] == ["GPU-b", "GPU-a"]


def test_the_parts_of_a_step_are_the_step(base: Base, tmp_path: Path) -> None:
    halves = fed(base, tmp_path, convert({"training": {"num_processes": 2, "batch_size": 2}}))
    whole = fed(base, tmp_path, convert({"training": {"batch_size": 4}}))
    assert halves.steps_per_epoch == whole.steps_per_epoch == 2
    for step in range(4):  # an epoch's second step has one picture: its second part has none
        (expected,) = whole.batches(step)
        parts = [batch for part in range(2) for batch in halves.batches(step, part)]
        assert sum((batch.pictures for batch in parts), ()) == expected.pictures
        assert sum(batch.share for batch in parts) == pytest.approx(1.0)
        noises = np.concatenate([batch.noise.numpy() for batch in parts])
        assert np.array_equal(noises, expected.noise.numpy())


def test_two_processes_train_what_one_does_also_killed_and_taken_up_by_one(
    tmp_path: Path, base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = work.pictures(tmp_path / "pictures", 5)
    one = work.prepare(
        tmp_path / "one" / "run", base_path, frozen,
        training={"epochs": 2, "batch_size": 4}, **SECTIONS,
    )  # fmt: skip
    alone = work.train(one)

    together = {"epochs": 2, "batch_size": 2, "num_processes": 2}
    two = work.prepare(tmp_path / "two" / "run", base_path, frozen, training=together, **SECTIONS)
    with work.worker() as worker:
        worker.send(two)
        worker.until(pipe.StateSaved, lambda saved: saved.step >= 2)
        worker.steer("pause")
        worker.until(pipe.Phase, lambda phase: phase.phase == "paused")
        (peer,) = _children(worker.pid)
        worker.steer("resume")
        finished = worker.until(pipe.Finished)
        work.wait_for(lambda: not Path(f"/proc/{peer}").exists())
    assert finished.step == alone.of(pipe.Finished)[0].step == 8
    _same(one, two)
    assert np.allclose(_curve(worker), _curve(alone), rtol=1e-4)
    assert [row[:3] for row in _losses(two)] == [row[:3] for row in _losses(one)]
    assert np.allclose(_losses(two), _losses(one), rtol=1e-3)  # those of the peer among them

    broken = work.prepare(
        tmp_path / "broken" / "run", base_path, frozen, training=together, **SECTIONS
    )
    with work.worker() as worker:
        worker.send(broken)
        worker.until(pipe.StateSaved, lambda saved: saved.step >= 2)
        worker.steer("pause")
        worker.until(pipe.Phase, lambda phase: phase.phase == "paused")
        (peer,) = _children(worker.pid)
        os.kill(peer, signal.SIGKILL)
        with pytest.raises(EOFError):
            worker.until(pipe.Finished)
    monkeypatch.setenv("LORA_TUI_PROCESSES", "1")
    resumed = work.train(broken, fresh=True)
    told = resumed.of(pipe.Resumed)[0]
    assert told.step >= 2 and not told.identical and "processes: 2 → 1" in told.why
    assert any("2 processes" in notice.message for notice in resumed.of(pipe.Notice))
    _same(one, broken)


@pytest.mark.slow
def test_a_run_of_two_killed_at_either_ends_with_the_bytes_of_an_unbroken_one(
    tmp_path: Path, base_path: Path
) -> None:
    frozen = work.pictures(tmp_path / "pictures", 5)
    training = {"epochs": 2, "batch_size": 2, "num_processes": 2, "ema": 0.9}
    sections = {**SECTIONS, "training": training, "network": {"rank": 4, "dropout": 0.1}}
    unbroken, broken = (
        work.prepare(tmp_path / name / "run", base_path, frozen, **sections)
        for name in ("unbroken", "broken")
    )
    work.train(unbroken)
    for step, leader in ((2, False), (4, True)):
        with work.worker() as worker:
            worker.send(broken)
            worker.until(pipe.StateSaved, lambda saved, least=step: saved.step >= least)  # type: ignore[misc]
            (peer,) = _children(worker.pid)
            os.kill(worker.pid if leader else peer, signal.SIGKILL)
            with pytest.raises(EOFError):
                worker.until(pipe.Finished)
            work.wait_for(lambda pid=peer: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
    resumed = work.train(broken).of(pipe.Resumed)[0]
    assert resumed.step >= 4 and resumed.identical
    assert work.content(broken) == work.content(unbroken)


@pytest.mark.slow
def test_torchrun_trains_a_run_that_the_worker_then_finds_done(
    tmp_path: Path, base_path: Path
) -> None:
    frozen = work.pictures(tmp_path / "pictures", 5)
    one = work.prepare(
        tmp_path / "one" / "run", base_path, frozen,
        training={"epochs": 1, "batch_size": 4}, **SECTIONS,
    )  # fmt: skip
    work.train(one)
    together = {"epochs": 1, "batch_size": 2, "num_processes": 2}
    two = work.prepare(tmp_path / "two" / "run", base_path, frozen, training=together, **SECTIONS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    node = ["-m", "lora_daemon.engine.node", two.run_dir, "--cache", two.cache_dir]
    done = subprocess.run(
        [*torchrun, "2", *node], cwd=work.REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "finished at step 4" in done.stdout
    _same(one, two)
    resumed = work.train(two)  # as `run resume` has it
    assert resumed.of(pipe.Resumed)[0].step == resumed.of(pipe.Finished)[0].step == 4
    too_many = subprocess.run(
        [*torchrun, "3", *node], cwd=work.REPOSITORY, capture_output=True, text=True, check=False
    )
    assert too_many.returncode
    assert "torchrun began 3 processes" in too_many.stderr


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in text.split()]


def _curve(worker: work.Worker) -> list[float]:
    return [point.loss for tick in worker.of(pipe.Tick) for point in tick.points]


def _losses(order: pipe.Train) -> list[list[float]]:
    """Step, picture, timestep and loss."""
    rows = (Path(order.run_dir) / "losses.csv").read_text().splitlines()[1:]
    return [[float(value) for value in row.split(",")] for row in rows]


def _same(expected: pipe.Train, found: pipe.Train) -> None:
    ours, theirs = _weights(expected), _weights(found)
    assert ours.keys() == theirs.keys()
    assert any(float(np.abs(one).max()) > 1e-3 for name, one in ours.items() if "up" in name)
    for name, one in ours.items():
        assert np.allclose(theirs[name], one, **ROUNDING), name


def _weights(order: pipe.Train) -> dict[str, np.ndarray]:
    path = Path(order.run_dir) / "lora" / "things.safetensors"
    header = read_header(path)
    with path.open("rb") as file:
        return {
            name: np.frombuffer(read_tensor(file, header, name), "<f4").copy()
            for name, tensor in header.tensors.items()
            if tensor.dtype == "F32"
        }
