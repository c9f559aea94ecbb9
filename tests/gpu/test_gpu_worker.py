"""The worker process on a GPU: killed, and with a device that is beyond use: the run goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lora_daemon import pipe, supervisor
from lora_daemon.engine import worker as worker_module
from shared import wire
from tests.daemon import house as houses
from tests.daemon.conftest import one_worker
from tests.engine import worker_process as work
from tests.engine.test_compiled import prepared, ran
from tests.gpu.test_gpu_training import losses, near

pytestmark = pytest.mark.gpu


def test_a_worker_is_ready_on_the_device_and_a_killed_one_is_taken_up(
    device: torch.device, base_path: Path, tmp_path: Path
) -> None:
    unbroken, order = (
        prepared(
            tmp_path / name, base_path, compiling=False, training={"max_steps": 100},
            optimizer={"learning_rate": 1e-3},
            save={"every_steps": 0, "resume_seconds": 0.001 if name == "broken" else 30.0},
        )
        for name in ("unbroken", "broken")
    )  # fmt: skip
    whole = losses(ran(unbroken, device=device))
    with work.worker(fresh=True) as first:
        ready = first.until(pipe.Ready)
        assert ready.device == str(device)
        if device.type == "cuda":
            assert ready.precision == "bf16" and ready.device_uuid.startswith("GPU-"), ready
            assert ready.device_name == torch.cuda.get_device_name(device)
        first.send(order)
        first.until(pipe.StateSaved, lambda saved: saved.step > 4)
        first.kill()
    with work.worker(fresh=True) as second:
        second.send(order)
        taken_up = second.until(pipe.Resumed)
        second.until(pipe.Finished)
        memory = second.until(pipe.Memory)
    assert memory.allocated > 0 and (device.type == "cpu" or memory.peak > 0), memory
    assert 4 < taken_up.step < 100
    exact = device.type == "cpu"
    assert taken_up.identical == exact, taken_up
    near(losses(second.seen)[:20], whole[taken_up.step :][:20], 0.03)


async def test_where_the_device_asserts_the_run_goes_on_in_a_new_process(
    device: torch.device, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be done in a process whose CUDA context has failed: it ends, and says why."""
    mark = tmp_path / "happened"
    monkeypatch.setenv("POISON_MARK", str(mark))
    monkeypatch.setattr(houses, "WITHIN", 120.0)
    monkeypatch.setattr(
        supervisor, "_command", lambda: [sys.executable, "-m", "tests.gpu.poisoned"]
    )
    async with houses.opened(tmp_path, pictures=3) as house:
        await house.call(wire.AddBase(path=str(base_path), name="tiny"))
        recipe = (
            '[base]\nname = "tiny"\n[dataset]\nname = "set"\n[training]\nmax_steps = 40\n'
            "[network]\nrank = 4\n"
        )
        await house.call(wire.StartRun(recipe=recipe))
        await house.until(lambda: house.run().state in ("finished", "failed"))
        log = "\n".join(house.domain.run_log("r0001", 200))
        run = house.run()
    assert run.state == "finished", (run.message, log)
    assert mark.exists() and f"exit status {worker_module.POISONED}" in log, log
    assert "device-side assert" in log
    assert device.type in ("cpu", "cuda")
