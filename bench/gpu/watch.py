"""A worker watched from outside: when it began what, and what it holds of the device's memory."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lora_daemon import pipe

REPOSITORY = Path(__file__).parents[2]
SILENCE = 900.0  # seconds without a word after which a worker is given up
LOOKING = 0.01  # seconds between two looks at the device's memory


class Nvml:
    """What a process holds of one GPU, its context included, looked at all the time; the most of it
    by what went on. Where the driver does not tell processes apart: what is in use of the GPU, less
    what was before."""

    def __init__(self, process: Callable[[], int]) -> None:
        self.most: dict[str, int] = {}
        self.during = "starting"
        self.name = ""
        self._over = threading.Event()
        self._used: Any = None
        self.before = 0
        with contextlib.suppress(Exception):  # no library, no driver, no GPU
            import pynvml

            pynvml.nvmlInit()
            number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(number) if number.isdecimal() else 0)
            name = pynvml.nvmlDeviceGetName(handle)
            self.name = name.decode() if isinstance(name, bytes) else name

            def used() -> int:
                every = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
                own = [one.usedGpuMemory for one in every if one.pid == process()]
                if own and own[0] is not None:
                    return int(own[0])
                return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) - self.before

            self.before = used()
            self._used = used
            threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._over.wait(LOOKING):
            during, used = self.during, self._used()
            self.most[during] = max(self.most.get(during, 0), used)

    def close(self) -> None:
        self._over.set()


class Watched:
    """A fresh worker that trains one run, begun now. ``limit``: GiB of the device it may use."""

    def __init__(self, limit: float = 0.0, cache: Path | None = None) -> None:
        self.began = time.time()
        self.told: list[tuple[float, Any]] = []  # seconds since it began, and the report
        self._said = 0.0
        self.nvml = Nvml(lambda: self._process.pid)
        ours, theirs = socket.socketpair()
        kernels = {}
        if cache is not None:
            folders = {"TORCHINDUCTOR": cache.absolute(), "TRITON": cache.absolute() / "triton"}
            kernels = {f"{tool}_CACHE_DIR": str(folder) for tool, folder in folders.items()}
        self._folder = tempfile.TemporaryDirectory()
        self._account = Path(self._folder.name) / "account.json"
        with theirs:
            arguments = ["--limit", str(limit), "--account", str(self._account)]
            arguments += ["--fd", str(theirs.fileno())]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.gpu.worker", *arguments],
                pass_fds=[theirs.fileno()], cwd=REPOSITORY, env={**os.environ, **kernels},
            )  # fmt: skip
        self._socket = ours
        self._socket.settimeout(SILENCE)

    def train(self, order: pipe.Train) -> None:
        """To its end. Raises SystemExit: why it failed."""
        self._socket.sendall(pipe.frame(order))
        for report in self._reports():
            self._progress(report)
            if isinstance(report, pipe.Phase):
                self.nvml.during = report.phase
            if isinstance(report, pipe.Notice):
                print(f"notice: {report.message}", file=sys.stderr, flush=True)
            if isinstance(report, pipe.RunFailed):
                raise SystemExit(f"The run failed: {report.failure.message}")
            if isinstance(report, pipe.Finished):
                return

    def _progress(self, report: Any) -> None:
        """So that one that is killed has said how far it came."""
        at = time.time() - self.began
        if isinstance(report, pipe.Phase) and report.phase != self.nvml.during:
            print(f"{at:.1f} s: {report.phase}", file=sys.stderr, flush=True)
        elif isinstance(report, pipe.Tick) and report.points and at > self._said + 5:
            self._said = at
            said = f"step {report.points[-1].step}, {self.speed():.2f} steps/s"
            print(f"{at:.1f} s: {said}", file=sys.stderr, flush=True)

    def _reports(self) -> Iterator[Any]:
        while True:
            try:
                body = pipe.received(self._socket)
            except (EOFError, OSError) as error:
                raise SystemExit(f"The worker has ended: {error!r}") from None
            report = pipe.report_decoder.decode(body)
            self.told.append((time.time() - self.began, report))
            yield report

    def close(self) -> None:
        """It ends when its pipe closes."""
        self.nvml.close()
        self._socket.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._folder.cleanup()

    def of(self, kind: Any) -> list[tuple[float, Any]]:
        return [(at, one) for at, one in self.told if isinstance(one, kind)]

    def phases(self) -> dict[str, float]:
        """Seconds of each phase, the first from the process's start to its first word."""
        spent: dict[str, float] = {}
        name, since = "starting", 0.0
        for at, one in self.of(pipe.Ready | pipe.Phase | pipe.Finished):
            spent[name] = spent.get(name, 0.0) + at - since
            since = at
            name = one.phase if isinstance(one, pipe.Phase) else "ordered"
        return {name: round(seconds, 2) for name, seconds in spent.items()}

    def speed(self) -> float:
        """Steps a second over the middle half of the training."""
        times: list[float] = [point.time for _, tick in self.of(pipe.Tick) for point in tick.points]
        if len(times) < 8:
            return 0.0
        first, last = len(times) // 4, 3 * len(times) // 4
        return (last - first) / max(1e-9, times[last] - times[first])

    def memory(self) -> dict[str, Any]:
        """MiB: the worker's own account, and NVML's of the device less what was in use before."""
        mib = 2**20
        own = {"reserved": 0, "beyond": 0, "allocated": 0}
        with contextlib.suppress(OSError, ValueError):  # none on a CPU
            own = json.loads(self._account.read_text())
        return {
            **{f"{name}_mib": value // mib for name, value in own.items()},
            "own_most_mib": (own["reserved"] + own["beyond"]) // mib,
            "nvml_mib": {name: most // mib for name, most in self.nvml.most.items()},
            "nvml_before_mib": self.nvml.before // mib,
        }


@contextlib.contextmanager
def watched(limit: float = 0.0, cache: Path | None = None) -> Iterator[Watched]:
    one = Watched(limit, cache)
    try:
        yield one
    finally:
        one.close()
