"""training.compile on a GPU: the kernels of Triton in CUDA graphs train what torch's own do.

Without a GPU the graphs are torch's own (the kernels that inductor makes for a CPU are tested where
training is). Compiled are small denoisers: a large one takes its minute for each shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from lora_daemon import pipe
from lora_daemon.engine import compiled
from tests.engine import tiny_base
from tests.engine import worker_process as work
from tests.engine.test_compiled import afresh, flux_path, notices, prepared, ran, weights
from tests.gpu.test_gpu_training import losses, near

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("afresh")]


@pytest.fixture(scope="module")
def unet_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base.build(tmp_path_factory.mktemp("starter") / "shape", "starter")


@pytest.fixture(autouse=True)
def kernels(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if device.type == "cpu":
        monkeypatch.setattr(compiled, "BACKEND", "eager")
    yield


CASES: dict[str, dict[str, Any]] = {
    "fp32, accumulated, a smaller last batch": {
        "training": {"precision": "fp32", "accumulation": 2, "max_steps": 6},
    },
    "auto, checkpointed": {"training": {"checkpointing": True}},
    "fp32, preserved": {
        "training": {"precision": "fp32", "batch_size": 4},
        "loss": {"preservation": 0.5, "class_caption": "a thing"},
    },
}  # fmt: skip


def both(
    folder: Path, base_path: Path, device: torch.device, **sections: Any
) -> list[tuple[pipe.Train, list[Any]]]:
    """The same run eagerly, and compiled."""
    found = []
    for compiling in (False, True):
        own = {name: dict(values) for name, values in sections.items()}
        order = prepared(folder / f"{compiling}", base_path, compiling=compiling, **own)
        found.append((order, ran(order, device=device)))
    (_, eager), (_, told) = found
    assert isinstance(told[-1], pipe.Finished), told[-1]
    assert not notices(told), notices(told)
    precise = device.type == "cpu" or sections.get("training", {}).get("precision") == "fp32"
    near(losses(told), losses(eager), 1e-3 if precise else 0.05)
    ours, theirs = weights(found[1][0]), weights(found[0][0])
    assert torch.dist(ours, theirs) < (0.1 if precise else 0.5) * theirs.norm()
    print(f"losses {losses(eager)} eager, {losses(told)} compiled")
    if device.type == "cuda":
        print(dict(counters["inductor"]))
        assert not counters["inductor"]["cudagraph_skips"]
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_transformer_compiled_trains_as_it_does_eagerly(
    name: str,
    device: torch.device,
    flux_path: Path,
    tmp_path: Path,
) -> None:
    both(tmp_path, flux_path, device, **CASES[name])


@pytest.mark.timeout(600)
def test_a_unet_compiled_trains_with_its_text_encoder_and_goes_on_when_killed(
    device: torch.device, unet_path: Path, tmp_path: Path
) -> None:
    """The second and the third time its kernels are there already."""
    sections: dict[str, Any] = {
        "training": {"batch_size": 2, "precision": "fp32"},
        "optimizer": {"text_encoder_rate": 5e-3},
        "network": {"targets": ["to_q", "to_k", "ff", "conv"], "rank": 4, "alpha": 2.0},
    }
    both(tmp_path, unet_path, device, **sections)
    if device.type == "cpu":
        return  # a worker of its own would make a CPU's kernels, which takes minutes
    sections["training"]["max_steps"] = 60
    often = {"every_steps": 0, "resume_seconds": 0.001}
    order = prepared(tmp_path / "broken", unet_path, compiling=True, save=often, **sections)
    with work.worker(fresh=True) as worker:
        worker.send(order)
        worker.until(pipe.StateSaved, lambda saved: saved.step > 2)
        worker.kill()
    with work.worker(fresh=True) as worker:
        worker.send(order)
        taken_up = worker.until(pipe.Resumed)
        worker.until(pipe.Finished)
    assert taken_up.step > 2 and "does not repeat bit for bit" in taken_up.why
    assert not [one for one in worker.of(pipe.Notice) if "compile" in one.message]
    points = [point for tick in worker.of(pipe.Tick) for point in tick.points]
    assert [point.step for point in points] == list(range(taken_up.step + 1, 61))
