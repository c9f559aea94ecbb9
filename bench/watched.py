"""Steps per second of a run that a TUI watches, against our loop with its surroundings removed.

    python -m bench.watched [--pairs 9] [--seconds 10]; target: 0.95

A real daemon trains, a real TUI shows its Runs screen in a pseudo-terminal of 120 × 40 that is
drained here. The two arms take turns: while the bare loop runs, the worker is stopped (SIGSTOP).
Samples are left out. The watched speed comes from the times in the run's ``metrics.csv``.
"""

from __future__ import annotations

import lora_daemon.engine  # noqa: F401  first: it settles how OpenMP's threads wait

# isort: split
import argparse
import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from bench import summary
from bench.steps import WARM_UP, Alone, freeze_of, prepared
from bench.wire import RECIPE
from lora_daemon.engine.train import train
from lora_daemon.runs import read_series
from lora_daemon.starter import base_dir
from shared import launch, paths, wire
from shared.client import Client

SETTLE = 1.0  # seconds after the worker goes on that are not counted


async def measure(folder: Path, pairs: int, seconds: float) -> dict[str, object]:
    home = folder / "home"
    freeze = freeze_of(base_dir(), folder)
    for picture in freeze.pictures:
        Path(picture.path).with_suffix(".txt").write_text(picture.caption)
    bare = prepared(freeze, folder / "alone")[:5]
    bare_speed(bare, WARM_UP)
    async with await Client.connect(home=home, name="bench") as client:
        pid = (await client.call(wire.GetStatus())).pid
        await client.call(wire.ImportDataset(path=str(folder / "pictures"), name="bench"))
        run = await client.call(wire.StartRun(recipe=RECIPE.format(base="starter")))
        await until(lambda: trains(client, run.id))
        worker = (await client.call(wire.GetStatus())).worker.pid
        tui = Watcher(home)
        try:
            await until(lambda: tui.shows(b"Datasets"))
            tui.press(b"gr")
            await until(lambda: tui.shows(b"it/s"))
            os.kill(worker, signal.SIGSTOP)
            steps = round(bare_speed(bare, 20) * seconds)
            began, before = time.monotonic(), tui.size
            alone, windows, busy = [], [], []
            for _ in range(pairs):
                os.kill(worker, signal.SIGSTOP)
                try:
                    alone.append(bare_speed(bare, steps))
                finally:
                    os.kill(worker, signal.SIGCONT)
                await asyncio.sleep(SETTLE)
                start, used = time.time(), [cpu_seconds(one) for one in (tui.pid, pid)]
                await asyncio.sleep(seconds)
                windows.append((start, time.time()))
                spent = [cpu_seconds(one) for one in (tui.pid, pid)]
                busy.append([(b - a) / seconds for a, b in zip(used, spent, strict=True)])
            sent = (tui.size - before) / (time.monotonic() - began)
        finally:
            tui.close()
            await client.call(wire.Stop(now=False))
    await launch.wait_gone(pid, 60)
    series = read_series(paths.Workspace(home).runs / run.id / "metrics.csv", 0, sys.maxsize)
    watched = [speed([p.time for p in series if start <= p.time <= end]) for start, end in windows]
    return {
        "watched_steps_per_s": summary(watched),
        "alone_steps_per_s": summary(alone),
        "watched/alone": summary([w / a for w, a in zip(watched, alone, strict=True)]),
        "tui_cores": summary([tui for tui, _ in busy]),
        "daemon_cores": summary([daemon for _, daemon in busy]),
        "terminal_bytes_per_s": round(sent),
    }


async def trains(client: Client, run: str) -> bool:
    return (await client.call(wire.GetRun(run=run))).run.phase == "training"


async def until(there: Callable[[], Awaitable[bool]], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not await there():  # noqa: ASYNC110  it is elsewhere that it happens
            await asyncio.sleep(0.1)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def bare_speed(bare: tuple[Any, ...], steps: int) -> float:
    began = time.perf_counter()
    train(*bare, Alone(steps))  # type: ignore[arg-type]
    return steps / (time.perf_counter() - began)


def speed(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0])


class Watcher:
    """A TUI on its Runs screen in a pseudo-terminal that is drained by a thread."""

    def __init__(self, home: Path) -> None:
        environment = {
            **os.environ, "LORA_TUI_HOME": str(home), "TERM": "xterm-256color",
            "COLORTERM": "truecolor", "COLUMNS": "120", "LINES": "40",
        }  # fmt: skip
        self.drained = b""
        self.size = 0
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "lora_tui"], environment)
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            while piece := os.read(self._terminal, 65536):
                self.size += len(piece)
                self.drained = (self.drained + piece)[-65536:]

    async def shows(self, text: bytes) -> bool:
        return text in self.drained

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=10, help="of each arm's turn")
    chosen = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(asyncio.run(measure(Path(directory), chosen.pairs, chosen.seconds))))


if __name__ == "__main__":
    main()
