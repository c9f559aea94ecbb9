"""What the devices are doing, once a second: NVML where there is a driver, else CPU and RAM.

Opens no CUDA context and never raises: what a device does not tell is None.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from lora_daemon.gpus import Gpu
from lora_daemon.service import Context, Daemon
from shared import wire
from shared.decimate import decimate

EVERY = 1.0  # seconds
FINE = 3600  # samples kept at one a second
COARSE_EVERY = 15  # of those that grow older, one in so many is kept
COARSE = 24 * 3600 // COARSE_EVERY


class WorkerUse(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's own account. Bytes."""

    pid: int = 0
    uuid: str = ""  # of its GPU
    allocated: int = 0
    cached: int = 0
    everything: bool = False  # what is used of the GPU counts as its own


class Probe(Protocol):
    """Reads devices. Blocking; called in a thread."""

    def read(self, workers: Sequence[WorkerUse]) -> list[wire.DeviceUse]: ...


class Telemetry:
    """Publishes DeviceUse each second and keeps it. Answers GetHistory."""

    def __init__(
        self, daemon: Daemon, workers: Callable[[], Sequence[WorkerUse]],
        probe: Probe | None = None,
    ) -> None:  # fmt: skip
        self._hub = daemon.hub
        self._workers = workers
        self._probe = probe or best_probe()
        self._fine: deque[wire.DeviceUse] = deque()
        self._coarse: deque[wire.DeviceUse] = deque(maxlen=COARSE)
        self._fallen = 0
        self._task: asyncio.Task[None] | None = None
        self.latest: list[wire.DeviceUse] = []

    async def start(self) -> None:
        await self.take()
        self._task = asyncio.create_task(self._run(), name="telemetry")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def take(self) -> None:
        """One reading: published and kept."""
        self.latest = await asyncio.to_thread(self._probe.read, self._workers())
        for use in self.latest:
            self._fine.append(use)
            self._hub.publish(use)
        while len(self._fine) > FINE * max(1, len(self.latest)):
            old = self._fine.popleft()
            self._fallen += 1
            if self._fallen % (COARSE_EVERY * max(1, len(self.latest))) < len(self.latest):
                self._coarse.append(old)

    async def history(self, context: Context, request: wire.GetHistory) -> wire.History:
        """Of each device the extremes of memory use, at most ``points`` in all."""
        since = time.time() - request.seconds
        kept = [use for use in (*self._coarse, *self._fine) if use.at >= since]
        devices = sorted({use.device for use in kept})
        limit = max(2, request.points // max(1, len(devices)))
        samples: list[wire.DeviceUse] = []
        for device in devices:
            of = [use for use in kept if use.device == device]
            samples += decimate(of, limit, lambda use: float(use.used))
        return wire.History(samples=sorted(samples, key=lambda use: use.at))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self.take()


def best_probe(gpus: Sequence[Gpu] = ()) -> Probe:
    """NVML with at least one GPU, else the machine itself. ``gpus``: those that are looked at;
    none, or one that NVML does not know yet: all."""
    nvml = Nvml.open()
    if nvml is None:
        return Machine()
    if all(gpu.uuid for gpu in gpus):
        nvml.look_at(gpus)
    return nvml


class Nvml:
    """GPUs through ``pynvml``. A metric that fails once is not asked again."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._unsupported: set[tuple[str, str]] = set()
        self._names: dict[str, str] = {}  # of GPUs, by UUID
        self._devices = [
            nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
        ]

    @classmethod
    def open(cls, module: Any = None) -> Nvml | None:
        """None without the module, the driver, or a GPU."""
        try:
            nvml = module or importlib.import_module("pynvml")
            nvml.nvmlInit()
            found = cls(nvml)
        except Exception:  # NVML's errors are its own types, and need the library to name them
            return None
        return found if found._devices else None

    def look_at(self, gpus: Sequence[Gpu]) -> None:
        """Read these alone, if there are any and NVML knows all of them; several have names."""
        try:
            handles = [self._nvml.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in gpus]
        except Exception:  # NVML's errors are its own types
            return
        self._devices = handles or self._devices
        self._names = {gpu.uuid: gpu.name for gpu in gpus} if len(gpus) > 1 else {}

    def read(self, workers: Sequence[WorkerUse]) -> list[wire.DeviceUse]:
        return [self._read(handle, index, workers) for index, handle in enumerate(self._devices)]

    def _read(self, handle: Any, index: int, workers: Sequence[WorkerUse]) -> wire.DeviceUse:
        nvml = self._nvml
        uuid = _text(self._ask("uuid", str(index), nvml.nvmlDeviceGetUUID, handle) or "")
        key = uuid or str(index)
        memory = self._ask("memory", key, nvml.nvmlDeviceGetMemoryInfo, handle)
        total, used = (int(memory.total), int(memory.used)) if memory else (0, 0)
        use = self._ask("utilisation", key, nvml.nvmlDeviceGetUtilizationRates, handle)
        power = self._ask("power", key, nvml.nvmlDeviceGetPowerUsage, handle)
        heat = self._ask("temperature", key, nvml.nvmlDeviceGetTemperature, handle, 0)
        name = _text(self._ask("name", key, nvml.nvmlDeviceGetName, handle) or f"GPU {index}")
        ours = next(
            (
                one
                for one in workers
                if (one.pid or one.everything) and _same(uuid, one.uuid, len(self._devices))
            ),
            WorkerUse(),
        )
        if ours.everything:
            ours = WorkerUse(allocated=used)
        claimed = self._of_process(handle, key, ours.pid)
        held = ours.allocated + ours.cached
        context = max(0, claimed - held) if claimed is not None and ours.pid else 0
        return wire.DeviceUse(
            device=uuid or f"cuda:{index}",
            kind="cuda",
            name=name,
            total=total,
            used=used,
            allocated=ours.allocated,
            cached=ours.cached,
            context=context,
            others=max(0, used - held - context),
            utilisation=float(use.gpu) if use else None,
            power=power / 1000 if power is not None else None,
            temperature=float(heat) if heat is not None else None,
            at=time.time(),
            gpu=self._names.get(uuid, ""),
        )

    def _of_process(self, handle: Any, key: str, pid: int) -> int | None:
        """Bytes that NVML counts for ``pid``; None where it does not tell. In a container it knows
        the host's pids and ours is not among them."""
        ask = self._nvml.nvmlDeviceGetComputeRunningProcesses
        for process in self._ask("processes", key, ask, handle) or []:
            if process.pid == pid and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        return None

    def _ask(self, metric: str, device: str, question: Callable[..., Any], *values: Any) -> Any:
        if (metric, device) in self._unsupported:
            return None
        try:
            return question(*values)
        except Exception:
            self._unsupported.add((metric, device))
            return None


class Machine:
    """Without a GPU: the CPU's load, the machine's memory (or its container's), the worker's."""

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._cgroup = cgroup
        self._name = self._processor()
        self._ticks = self._busy_and_all()

    def read(self, workers: Sequence[WorkerUse]) -> list[wire.DeviceUse]:
        total, used = self._memory()
        resident = sum(self._resident(pid) for pid in {one.pid for one in workers if one.pid})
        return [
            wire.DeviceUse(
                device="cpu",
                kind="cpu",
                name=self._name,
                total=total,
                used=used,
                allocated=resident,
                cached=0,
                context=0,
                others=max(0, used - resident),
                utilisation=self._load(),
                power=None,
                temperature=None,
                at=time.time(),
            )
        ]

    def _memory(self) -> tuple[int, int]:
        table = dict(line.split(":", 1) for line in _lines(self._proc / "meminfo") if ":" in line)
        kibibytes = {key: int(value.split()[0]) * 1024 for key, value in table.items()}
        total = kibibytes.get("MemTotal", 0)
        used = max(0, total - kibibytes.get("MemAvailable", 0))
        limit = _number(self._cgroup / "memory.max")
        current = _number(self._cgroup / "memory.current")
        if limit is not None and current is not None and 0 < limit < total:
            cache = next(
                (int(line.split()[1]) for line in _lines(self._cgroup / "memory.stat")
                 if line.startswith("inactive_file ")), 0,
            )  # fmt: skip
            return limit, max(0, current - cache)
        return total, used

    def _resident(self, pid: int) -> int:
        fields = " ".join(_lines(self._proc / str(pid) / "statm")).split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0

    def _load(self) -> float | None:
        before, self._ticks = self._ticks, self._busy_and_all()
        spent = self._ticks[1] - before[1]
        return 100 * (self._ticks[0] - before[0]) / spent if spent > 0 else None

    def _busy_and_all(self) -> tuple[int, int]:
        first = next(iter(_lines(self._proc / "stat")), "cpu")
        ticks = [int(field) for field in first.split()[1:9]]
        if len(ticks) < 5:
            return (0, 0)
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)

    def _processor(self) -> str:
        for line in _lines(self._proc / "cpuinfo"):
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} × {os.cpu_count()}"
        return f"CPU × {os.cpu_count()}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def _same(uuid: str, other: str, devices: int) -> bool:
    if not other:
        return devices == 1
    return uuid.removeprefix("GPU-") == other.removeprefix("GPU-")


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
