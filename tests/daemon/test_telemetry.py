"""Device use: NVML as it is in the field (absent, partial, contained), and the plain machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_daemon import telemetry
from lora_daemon.service import Context, Daemon
from lora_daemon.telemetry import Machine, Nvml, Telemetry, WorkerUse
from shared import wire

GIB = 1024**3


class FakeNvml:
    """One GPU; ``broken`` names what it does not support."""

    def __init__(self, broken: set[str] = frozenset(), pid: int = 7) -> None:  # type: ignore[assignment]
        self.broken, self.pid = broken, pid
        self.asked: list[str] = []

    def nvmlInit(self) -> None:
        if "driver" in self.broken:
            raise RuntimeError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def _answer(self, metric: str, value: Any) -> Any:
        self.asked.append(metric)
        if metric in self.broken:
            raise RuntimeError("Not Supported")
        return value

    def nvmlDeviceGetUUID(self, _: int) -> str:
        return "GPU-abc"

    def nvmlDeviceGetName(self, _: int) -> bytes:
        return b"H100"

    def nvmlDeviceGetMemoryInfo(self, _: int) -> Any:
        return self._answer("memory", SimpleNamespace(total=80 * GIB, used=10 * GIB))

    def nvmlDeviceGetUtilizationRates(self, _: int) -> Any:
        return self._answer("utilisation", SimpleNamespace(gpu=97))

    def nvmlDeviceGetPowerUsage(self, _: int) -> int:
        return int(self._answer("power", 350_000))

    def nvmlDeviceGetTemperature(self, _: int, __: int) -> int:
        return int(self._answer("temperature", 71))

    def nvmlDeviceGetComputeRunningProcesses(self, _: int) -> list[Any]:
        mine = SimpleNamespace(pid=self.pid, usedGpuMemory=8 * GIB)
        return list(self._answer("processes", [mine]))


WORKER = WorkerUse(pid=7, uuid="abc", allocated=5 * GIB, cached=2 * GIB)


def test_memory_is_split_among_who_holds_it() -> None:
    nvml = Nvml.open(FakeNvml())
    assert nvml is not None
    (use,) = nvml.read([WORKER])
    assert (use.device, use.kind, use.name, use.total) == ("GPU-abc", "cuda", "H100", 80 * GIB)
    assert (use.allocated, use.cached, use.context) == (5 * GIB, 2 * GIB, GIB)
    assert use.others == 2 * GIB
    assert (use.utilisation, use.power, use.temperature) == (97.0, 350.0, 71.0)


def test_in_a_container_the_workers_own_numbers_are_shown() -> None:
    nvml = Nvml.open(FakeNvml(pid=4711))  # a pid of the host
    assert nvml is not None
    (use,) = nvml.read([WORKER])
    assert (use.allocated, use.cached, use.context) == (5 * GIB, 2 * GIB, 0)


def test_what_is_not_supported_is_none_and_asked_once() -> None:
    fake = FakeNvml({"power", "utilisation", "processes"})
    nvml = Nvml.open(fake)
    assert nvml is not None
    for _ in range(3):
        (use,) = nvml.read([WORKER])
    assert (use.power, use.utilisation, use.temperature) == (None, None, 71.0)
    assert fake.asked.count("power") == 1
    assert fake.asked.count("temperature") == 3


def test_another_cards_worker_is_not_counted_here() -> None:
    nvml = Nvml.open(FakeNvml())
    assert nvml is not None
    (use,) = nvml.read([WorkerUse(pid=7, uuid="GPU-other", allocated=GIB, cached=GIB)])
    assert (use.allocated, use.cached) == (0, 0)


def test_without_a_driver_the_machine_itself_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Nvml.open(FakeNvml({"driver"})) is None
    monkeypatch.setattr(telemetry.Nvml, "open", lambda: None)
    assert isinstance(telemetry.best_probe(), Machine)


def test_the_machine_tells_the_truth_about_ram(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "7").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")
    (proc / "7" / "statm").write_text("900 10 5 1 0 800 0\n")
    (proc / "stat").write_text("cpu 100 0 100 800 0 0 0 0 0 0\n")
    (proc / "cpuinfo").write_text("model name\t: Example 9000\n")
    machine = Machine(proc, tmp_path / "cgroup")
    (proc / "stat").write_text("cpu 150 0 150 900 0 0 0 0 0 0\n")
    (use,) = machine.read([WorkerUse(pid=7)])
    assert (use.total, use.used, use.allocated) == (1000 * 1024, 600 * 1024, 10 * 4096)
    assert use.utilisation == 50.0
    assert use.name.startswith("Example 9000")


def test_in_a_container_its_own_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    (tmp_path / "memory.max").write_text("500000\n")
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("inactive_file 100000\n")
    (use,) = Machine(tmp_path, tmp_path).read([WorkerUse()])
    assert (use.total, use.used) == (500_000, 200_000)


class Counted:
    """A probe whose memory is the number of the reading."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, _: Sequence[WorkerUse]) -> list[wire.DeviceUse]:
        self.count += 1
        return [
            wire.DeviceUse(
                device="cpu", kind="cpu", name="", total=0, used=self.count, allocated=0, cached=0,
                context=0, others=0, utilisation=None, power=None, temperature=None,
                at=time.time(),
            )
        ]  # fmt: skip


class Heard:
    def __init__(self) -> None:
        self.values: list[wire.AnyLive] = []

    def publish(self, value: wire.AnyLive) -> None:
        self.values.append(value)


async def test_history_is_kept_thinned_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FINE", 100)
    heard = Heard()
    watch = Telemetry(Daemon(None, None, heard), list, Counted())  # type: ignore[arg-type]
    for _ in range(250):
        await watch.take()
    assert len(heard.values) == 250
    assert len(watch._fine) == 100
    assert len(watch._coarse) == 10  # one in fifteen of those that grew old
    context = Context(by="", key="", progress=lambda *_: None)
    history = await watch.history(context, wire.GetHistory(points=20))
    assert len(history.samples) <= 20
    assert history.samples[-1].used == 250
    assert history.samples == sorted(history.samples, key=lambda use: use.at)
