"""Several GPUs: which may be used, a run for each that is free, and where pictures go meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_daemon import gpus, pipe, seats, supervisor, taken
from lora_daemon.gpus import Card, Gpu, cards
from lora_daemon.telemetry import Nvml, WorkerUse
from shared import wire
from shared.errors import Code, LoraError
from shared.pictures import PictureSpec
from tests.daemon.house import House, opened, with_fake_worker
from tests.daemon.test_telemetry import GIB, FakeNvml

RECIPE = '[base]\nname = "base"\n[dataset]\nname = "set"\n'
OF_TWO = RECIPE + "[training]\nnum_processes = 2\n"
TWO = [Card("GPU-aaaa", "H100"), Card("GPU-bbbb", "H100")]
UNLIKE = [Card("GPU-aaaa", "T4"), Card("GPU-bbbb", "H100")]
MIG = "MIG-1234"


# ── which may be used ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("there", "environment", "found"),
    [
        ([], {}, []),
        (TWO[:1], {}, []),  # nothing to choose
        (TWO, {}, ["0 GPU-aaaa GPU-aaaa", "1 GPU-bbbb GPU-bbbb"]),
        (TWO, {"CUDA_VISIBLE_DEVICES": "1,0"}, ["1 1 GPU-bbbb", "0 0 GPU-aaaa"]),
        (TWO, {"CUDA_VISIBLE_DEVICES": ""}, []),
        (TWO, {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, ["0 0 GPU-aaaa"]),  # as CUDA reads it
        (TWO, {"CUDA_VISIBLE_DEVICES": "1,1"}, ["1 1 GPU-bbbb"]),
        (TWO, {"CUDA_VISIBLE_DEVICES": "GPU-b"}, ["1 GPU-b GPU-bbbb"]),
        (TWO, {"CUDA_VISIBLE_DEVICES": "GPU-"}, []),  # whose?
        (TWO, {"CUDA_VISIBLE_DEVICES": MIG}, [f"{MIG} {MIG} {MIG}"]),
        (UNLIKE, {"CUDA_VISIBLE_DEVICES": "0"}, ["0 0 "]),  # the fastest, whichever that is
        (
            UNLIKE,
            {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            ["0 0 GPU-aaaa"],
        ),
        (TWO, {"LORA_TUI_GPUS": "1"}, ["1 GPU-bbbb GPU-bbbb"]),
        (TWO, {"LORA_TUI_GPUS": " GPU-b, 0,0"}, ["1 GPU-bbbb GPU-bbbb", "0 GPU-aaaa GPU-aaaa"]),
        (TWO, {"LORA_TUI_GPUS": MIG}, [f"{MIG} {MIG} {MIG}"]),
        (TWO, {"LORA_TUI_GPUS": "0", "CUDA_VISIBLE_DEVICES": "1,0"}, ["0 0 GPU-aaaa"]),
        ([], {"LORA_TUI_GPUS": "1"}, ["1 1 "]),  # NVML does not answer, CUDA may
    ],
)
def test_which_gpus_may_be_used(
    there: list[Card], environment: dict[str, str], found: list[str]
) -> None:
    assert [f"{g.name} {g.visible} {g.uuid}" for g in gpus.usable(there, environment)] == found


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"LORA_TUI_GPUS": "0,2"}, r"names GPU 2, .* \(0, 1\)"),
        ({"LORA_TUI_GPUS": "0", "CUDA_VISIBLE_DEVICES": "1"}, "CUDA_VISIBLE_DEVICES limits"),
        ({"LORA_TUI_GPUS": MIG, "CUDA_VISIBLE_DEVICES": ""}, r"\(none\)"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused(environment: dict[str, str], told: str) -> None:
    with pytest.raises(LoraError, match=told) as caught:
        gpus.usable(TWO, environment)
    assert caught.value.code is Code.BAD_REQUEST


class TwoGpus(FakeNvml):
    """Two GPUs of 80 GiB, 10 GiB of each in use."""

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return TWO[handle].uuid

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return [card.uuid for card in TWO].index(uuid)

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetComputeRunningProcesses(self, _: int) -> list[Any]:
        return [SimpleNamespace(pid=1, usedGpuMemory=GIB)]


def test_the_driver_is_asked_which_there_are() -> None:
    assert cards(TwoGpus()) == TWO
    assert cards(TwoGpus({"driver"})) == []


def test_each_worker_counts_on_its_own_gpu_and_all_of_one_that_is_lent() -> None:
    nvml = Nvml.open(TwoGpus())
    assert nvml is not None
    uses = [WorkerUse(pid=7, uuid="GPU-aaaa", allocated=4 * GIB),
            WorkerUse(uuid="GPU-bbbb", everything=True)]  # fmt: skip
    nvml.look_at([])
    assert [(use.gpu, use.others) for use in nvml.read(uses)] == [("", 6 * GIB), ("", 0)]
    nvml.look_at([Gpu("1", "1", "GPU-bbbb"), Gpu("0", "0", "GPU-aaaa")])
    assert [(use.gpu, use.allocated) for use in nvml.read(uses)] == [
        ("1", 10 * GIB),
        ("0", 4 * GIB),
    ]
    nvml.look_at([Gpu("1", "1", "GPU-bbbb")])
    assert [use.device for use in nvml.read(uses)] == ["GPU-bbbb"]
    nvml.look_at([Gpu(MIG, MIG, MIG)])  # which NVML does not know: as before
    assert [use.device for use in nvml.read(uses)] == ["GPU-bbbb"]


def test_what_workers_compile_is_kept_in_the_workspace_unless_somebody_said_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert seats._kept(tmp_path) == {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}


# ── runs and pictures on them ───────────────────────────────────────────────────────────────────


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """On a machine with two GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with_fake_worker(monkeypatch, tmp_path)
    monkeypatch.setattr(gpus, "cards", lambda: TWO)
    monkeypatch.setattr(taken, "EVERY", 0.01)
    async with opened(tmp_path, pictures=2, base=True) as house:
        yield house


async def start(house: House, *recipes: str, **more: Any) -> None:
    for recipe in recipes:
        await house.call(wire.StartRun(recipe=recipe, **more))


async def training(house: House, *runs: str) -> None:
    await house.until(lambda: all(house.run(run).state == "training" for run in runs))


def worker(house: House, gpu: str) -> wire.Worker:
    return next(one for one in house.domain.workers() if one.gpu == gpu)


def use(card: Card, others: int) -> wire.DeviceUse:
    return wire.DeviceUse(
        device=card.uuid, kind="cuda", name=card.name, total=80 * GIB, used=others, allocated=0,
        cached=0, context=0, others=others, utilisation=None, power=None, temperature=None, at=0.0,
        gpu=str(TWO.index(card)),
    )  # fmt: skip


async def test_three_runs_on_two_gpus_and_a_killed_worker_brings_back_its_own(house: House) -> None:
    assert [one.state for one in house.domain.workers()] == ["absent", "absent"]
    await start(house, RECIPE)
    await training(house, "r0001")
    assert worker(house, "1").state == "absent"  # none is begun before it is needed
    await start(house, RECIPE, RECIPE)
    await training(house, "r0001", "r0002")
    assert [house.run(f"r000{n}").gpus for n in (1, 2, 3)] == [["0"], ["1"], []]
    assert house.run("r0003").state == "queued"
    assert [(one.run, one.device_name) for one in house.domain.workers()] == [
        ("r0001", "GPU-aaaa"), ("r0002", "GPU-bbbb"),
    ]  # fmt: skip
    told = house.domain.live()
    assert {value.run for value in told if isinstance(value, wire.RunProgress)} == {
        "r0001", "r0002",
    }  # fmt: skip
    left, killed = worker(house, "0").pid, worker(house, "1").pid
    os.kill(killed, signal.SIGKILL)
    await house.until(lambda: house.run("r0002").restarts == 1)
    await training(house, "r0002")
    assert worker(house, "1").pid != killed and house.run("r0002").gpus == ["1"]
    assert worker(house, "0").pid == left and house.run("r0001").restarts == 0
    await house.call(wire.SteerRun(run="r0002", action="pause"))
    assert house.run("r0001").state == "training"
    await house.call(wire.SteerRun(run="r0001", action="stop"))
    await training(house, "r0003")
    assert house.run("r0003").gpus == ["0"] and house.run("r0001").gpus == []
    assert house.run("r0002").state == "paused" and worker(house, "0").pid == left
    assert "GPU 1" in "\n".join(house.domain.run_log("r0002", 9))


async def test_a_run_that_waits_for_another_waits_though_a_gpu_is_free(house: House) -> None:
    await start(house, RECIPE)
    await start(house, RECIPE, after=["r0001"])
    await start(house, RECIPE)
    await training(house, "r0001", "r0003")
    assert house.run("r0002").message == "Waits for r0001."


async def test_a_run_of_two_processes_has_both_gpus_and_is_not_overtaken(
    house: House, tmp_path: Path
) -> None:
    await start(house, RECIPE)
    await training(house, "r0001")
    await house.call(wire.Generate(spec=PictureSpec(base="base", prompt="a dragon")))
    assert worker(house, "1").pid  # an idle worker, with a base in the memory that is wanted
    await start(house, OF_TWO, RECIPE)
    assert "until 2 GPUs are free at once; now it is 1" in house.run("r0002").message
    assert house.run("r0003").state == "queued"
    await house.call(wire.SteerRun(run="r0001", action="stop"))
    await training(house, "r0002")
    lead, lent = house.run("r0002").gpus
    assert "trains r0002 on GPU-" in (tmp_path / "log").read_text()
    assert (worker(house, lent).state, worker(house, lent).run) == ("training", "r0002")
    assert not worker(house, lent).pid and worker(house, lead).pid
    await house.call(wire.Generate(spec=PictureSpec(base="base", prompt="a dragon")))
    assert not worker(house, lent).pid  # pictures are made beside the run, by its worker
    os.kill(worker(house, lead).pid, signal.SIGKILL)
    await house.until(lambda: house.run("r0002").restarts == 1)
    await training(house, "r0002")
    assert house.run("r0002").gpus == [lead, lent] and house.run("r0003").state == "queued"
    await house.call(wire.SteerRun(run="r0002", action="stop"))
    await training(house, "r0003")


async def test_pictures_have_a_gpu_of_their_own_beside_a_run_and_one_base_stays_in_one_place(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(house, RECIPE)
    await training(house, "r0001")
    spec = PictureSpec(base="base", prompt="a dragon")
    for _ in range(2):
        await house.call(wire.Generate(spec=spec))
        assert worker(house, "1").state == "idle"
    monkeypatch.setattr(supervisor, "IDLE", 0.0)
    await house.call(wire.Generate(spec=spec))
    await house.until(lambda: worker(house, "1").state == "absent")  # it holds nothing then
    assert worker(house, "0").state == "training"
    await start(house, RECIPE)
    await training(house, "r0002")
    await house.call(wire.Generate(spec=spec))  # no GPU is without a run
    assert {house.run("r0001").state, house.run("r0002").state} == {"training"}


async def test_what_goes_on_in_one_folder_is_asked_of_one_worker(house: House) -> None:
    slow = [(0, PictureSpec(base="base", prompt="slow"))]  # which is never answered

    def lesson(job: str, folder: str) -> asyncio.Task[Any]:
        order = pipe.Zip(
            job=job, base_path="", loras=[], pictures=slow,
            folder=str(house.workspace.root / folder), out="", steps=1,
            rate=0.0, penalty=0.0, seed=0, about={},
        )  # fmt: skip
        return asyncio.create_task(house.domain._orders.ask(order, ""))

    tasks = [lesson("one", "a"), lesson("other", "b"), lesson("the same", "a")]
    seats = house.domain._seats
    await house.until(lambda: all(seat.supervisor.ready for seat in seats))
    assert [seat.orders for seat in seats] == [{"one", "the same"}, {"other"}]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [seat.orders for seat in seats] == [set(), set()]


async def test_a_gpu_of_others_is_left_alone_where_there_is_another(house: House) -> None:
    devices = [use(TWO[0], 60 * GIB), use(TWO[1], 0)]
    house.domain._seats.devices = lambda: devices
    await start(house, RECIPE, RECIPE)
    await training(house, "r0001")
    assert house.run("r0001").gpus == ["1"]
    assert "Others hold 60.0 of the 80.0 GiB of H100 (GPU 0): waits" in house.run("r0002").message
    await house.call(wire.Generate(spec=PictureSpec(base="base", prompt="a dragon")))
    assert worker(house, "0").state == "absent"
    devices[0] = use(TWO[0], 0)
    await training(house, "r0002")
    assert house.run("r0002").gpus == ["0"]


async def test_what_cannot_begin_but_by_sharing_is_refused_as_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_TAKEN_GPU", "refuse")
    house.domain._seats.devices = lambda: [use(TWO[0], 60 * GIB), use(TWO[1], 0)]
    await start(house, OF_TWO, RECIPE, RECIPE)
    await training(house, "r0002")
    assert house.run("r0001").state == "failed" and "GPU 0" in house.run("r0001").message
    assert house.run("r0003").state == "queued"  # it has a GPU when r0002 is done


async def test_closing_suspends_every_run_and_the_next_daemon_goes_on_with_all(
    house: House, tmp_path: Path
) -> None:
    await start(house, RECIPE, RECIPE)
    await training(house, "r0001", "r0002")
    await house.domain.close(now=False)
    assert [(run.state, run.gpus) for run in house.domain.state().runs] == [("interrupted", [])] * 2
    again = House(tmp_path / "home")
    await again.domain.start()
    try:
        await training(again, "r0001", "r0002")
    finally:
        await again.close()
