"""A GPU that others use: a run waits for it, is refused or shares it, as told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lora_daemon import taken
from lora_daemon.telemetry import Nvml, WorkerUse
from shared import wire
from tests.daemon.house import House, opened, with_fake_worker
from tests.daemon.test_telemetry import GIB, FakeNvml

RECIPE = '[base]\nname = "base"\n[dataset]\nname = "set"\n'


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """On a machine with an H100 of which others hold 10 of 80 GiB, and soon more."""
    with_fake_worker(monkeypatch, tmp_path)
    monkeypatch.setattr(taken, "EVERY", 0.01)
    async with opened(tmp_path, pictures=2, base=True) as house:
        yield house


def use(others: int, total: int = 80 * GIB) -> list[wire.DeviceUse]:
    return [
        wire.DeviceUse(
            device="GPU-abc", kind="cuda", name="H100", total=total, used=others, allocated=0,
            cached=0, context=0, others=others, utilisation=None, power=None, temperature=None,
            at=0.0,
        )
    ]  # fmt: skip


def test_what_nvml_tells_of_others_counts_and_a_desktop_does_not() -> None:
    nvml = Nvml.open(FakeNvml())
    assert nvml is not None
    (read,) = nvml.read([WorkerUse()])
    assert read.others == 10 * GIB and not taken.by_others([read])  # an eighth of it
    assert taken.by_others(use(20 * GIB)) == "Others hold 20.0 of the 80.0 GiB of H100"
    assert not taken.by_others(use(GIB, 4 * GIB)) and taken.by_others(use(3 * GIB, 4 * GIB))
    assert not taken.by_others([])


def test_the_workers_own_gpu_is_the_one_that_counts() -> None:
    both = [*use(70 * GIB), *(wire.msgspec.structs.replace(one, device="GPU-x") for one in use(0))]
    assert taken.by_others(both) and not taken.by_others(both, "GPU-x")


async def test_a_run_waits_for_the_gpu_and_says_so_until_it_is_free(house: House) -> None:
    others: list[Any] = use(60 * GIB)
    house.domain._seats.devices = lambda: others
    await house.call(wire.StartRun(recipe=RECIPE))
    assert house.run().state == "queued"
    assert "Others hold 60.0 of the 80.0 GiB of H100: waits" in house.run().message
    others[:] = use(0)
    await house.until(lambda: house.run().state == "training")
    assert not house.run().message


async def test_a_waiting_run_that_is_resumed_shares_the_gpu(house: House) -> None:
    house.domain._seats.devices = lambda: use(60 * GIB)
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.call(wire.SteerRun(run="r0001", action="resume"))
    await house.until(lambda: house.run().state == "training")


@pytest.mark.parametrize(("manner", "state"), [("refuse", "failed"), ("share", "training")])
async def test_refused_or_shared_as_told(
    manner: str, state: str, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_TAKEN_GPU", manner)
    house.domain._seats.devices = lambda: use(60 * GIB)
    await house.call(wire.StartRun(recipe=RECIPE))
    await house.until(lambda: house.run().state == state)
    assert ("Others hold 60.0" in house.run().message) == (manner == "refuse")


async def test_what_is_not_known_of_taken_gpus_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_TAKEN_GPU", "Shared")
    said = "LORA_TUI_TAKEN_GPU is 'shared', which is none of wait, refuse, share: runs wait."
    assert said in house.domain.status().warnings
    monkeypatch.setenv("LORA_TUI_TAKEN_GPU", "share")
    assert not any("TAKEN" in one for one in house.domain.status().warnings)
