"""Out of memory for real: what it costs, what is said, and that the worker does the next thing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_daemon import pipe
from lora_daemon.engine import samples
from lora_daemon.engine.device import free_cache
from lora_daemon.engine.studio import Studio
from lora_daemon.starter import blip_dir
from shared.errors import Code
from tests.engine import worker_process as work
from tests.engine.test_compiled import notices, prepared
from tests.engine.test_options_resume import LeaveAt
from tests.engine.test_options_resume import _run as run_of

pytestmark = pytest.mark.gpu
MIB = 2**20


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def studio(device: torch.device, told: list[Any]) -> Iterator[Studio]:
    yield Studio(device, told.append, lambda job: False)
    free_cache()


def exhaust(device: torch.device) -> None:
    """Ask for twice as much as there is; without a GPU, as if."""
    if device.type == "cpu":
        raise torch.OutOfMemoryError("CUDA out of memory.")
    total = torch.cuda.get_device_properties(device).total_memory
    torch.empty(2 * total, dtype=torch.uint8, device=device)


@contextlib.contextmanager
def room(device: torch.device, size: int) -> Iterator[None]:
    """torch has so many bytes of the device besides what it holds, for as long as it lasts."""
    free_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved(device) + size) / total, device
    )
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        free_cache()


def trained(order: pipe.Train, studio: Studio) -> list[Any]:
    from lora_daemon.engine.run import run

    reports: list[Any] = []
    run(order, studio, LeaveAt(reports, False), reports.append)
    return reports


def phases(reports: list[Any]) -> list[str]:
    return list(dict.fromkeys(one.phase for one in reports if isinstance(one, pipe.Phase)))


@pytest.mark.parametrize(("where", "size"), [("caching", 40), ("training", 700)])
def test_a_run_names_what_saves_most_and_the_next_is_trained(
    where: str, size: int, cuda: torch.device, studio: Studio, base_path: Path, tmp_path: Path
) -> None:
    assert cuda == studio.device
    large = prepared(
        tmp_path / "large", base_path, compiling=False,
        training={"precision": "fp32", "batch_size": 16},
        dataset={"resolution": 1024, "repeats": 4},
    )  # fmt: skip
    with room(studio.device, size * MIB):
        reports = trained(large, studio)
    failed = reports[-1]
    assert isinstance(failed, pipe.RunFailed), failed
    print(where, phases(reports), failed.failure.message)
    assert phases(reports)[-1] == where
    assert failed.failure.code is Code.OUT_OF_MEMORY
    sets = failed.failure.data["settings"]
    assert sets and failed.failure.data["needed_so"] < failed.failure.data["needed"]
    assert "lora-tui run fork r1 --set" in failed.failure.message
    run_of(prepared(tmp_path / "small", base_path, compiling=False), studio)


def test_a_sample_costs_that_sample_and_not_the_run(
    studio: Studio, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = samples.paint, 0

    def paint(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            exhaust(studio.device)
        return real(*given)

    monkeypatch.setattr(samples, "paint", paint)
    sample = {"prompts": ["one", "two"], "every_steps": 2, "every_epochs": 0, "steps": 2}
    sample["at_first"] = False
    reports = run_of(prepared(tmp_path / "run", base_path, compiling=False, sample=sample), studio)
    (notice,) = (one for one in notices(reports) if "sample" in one)
    assert "A sample of step 2 failed: The memory is not enough" in notice
    assert len([one for one in reports if isinstance(one, pipe.SampleSaved)]) == 2 * 3 - 1


def test_a_captioner_takes_fewer_at_once(
    studio: Studio, told: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_daemon.engine.vision_language import VisionLanguage

    real = VisionLanguage.__call__

    def call(self: Any, pictures: Any, prompts: Any = ()) -> Any:
        if len(pictures) > 2:
            exhaust(studio.device)
        return real(self, pictures, prompts)

    monkeypatch.setattr(VisionLanguage, "__call__", call)
    frozen = work.pictures(tmp_path, 5)
    pictures = [(one.item, one.path) for one in frozen]
    studio.describe(pipe.Describe(job="j", model=str(blip_dir()), pictures=pictures, more=False))
    assert all(isinstance(one, pipe.Described) for one in told), told
    assert sum(len(one.captions) + len(one.skipped) for one in told) == 5
    assert "enough for 2 pictures at once" in told[-1].notes[-1]


def test_what_was_loaded_is_given_back(cuda: torch.device, studio: Studio, base_path: Path) -> None:
    free_cache()
    before = torch.cuda.memory_allocated(cuda)
    studio.base(str(base_path))
    assert torch.cuda.memory_allocated(cuda) > before
    studio._resident = None
    free_cache()
    assert torch.cuda.memory_allocated(cuda) <= before
