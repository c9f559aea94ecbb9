"""Bytes a second that the Runs screen sends to a terminal of 120 × 40 while a run trains.

    python -m bench.runs_screen [--seconds 30] [--rate 20]; target: 15 kB/s

The app runs in a pseudo-terminal on a stand-in daemon that tells ``--rate`` steps a second, so that
the figure does not hang on what this machine can train; everything above the socket is the real
thing. Samples are left out: a picture is sent once, not every second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import pty
import random
import select
import signal
import sys
import time

from bench import summary


def app(rate: float) -> None:
    """In the terminal: the app on a run that goes on."""
    from msgspec.structs import replace

    from lora_tui.app import LoraApp
    from shared import wire
    from tests.tui import standin

    daemon = standin.Daemon([standin.item(n) for n in range(40)])
    daemon.state = replace(
        daemon.state,
        runs=[standin.run_of(1, step=0, steps=8330, epoch=1), standin.run_of(2, state="queued")],
    )
    chance = random.Random(1)

    def point(step: int) -> wire.LivePoint:
        loss = 0.09 + 0.2 * math.exp(-step / 400) + chance.random() * 0.12
        return wire.LivePoint(step, loss, 1e-4, 0.5, time.time())

    async def tell() -> None:
        step, last = 0, 0
        began = time.monotonic()
        while True:
            await asyncio.sleep(0.5)
            step = int((time.monotonic() - began) * rate)
            points = [point(number) for number in range(last + 1, step + 1)]
            last = step
            daemon.live(
                wire.RunProgress(
                    run="r0001", phase="training", done=step, total=8330, step=step,
                    epoch=1 + step // 833, speed=rate + chance.random(), eta=(8330 - step) / rate,
                    loss=0.1, points=points,
                ),
                replace(
                    standin.device(),
                    used=int((5 + chance.random() / 4) * 2**30),
                    utilisation=80 + 20 * chance.random(),
                ),
            )  # fmt: skip

    tasks = []

    async def connect() -> standin.Client:
        tasks.append(asyncio.create_task(tell()))
        return standin.Client(daemon)

    LoraApp(connect, where="box", open_at="r0001").run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, default=20, help="steps a second")
    parser.add_argument("--app", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.app:
        app(options.rate)
        return
    os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    os.environ |= {"COLUMNS": "120", "LINES": "40"}
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "bench.runs_screen", "--app", "--rate", str(options.rate)]
        os.execv(sys.executable, command)
    try:
        count(terminal, 6.0)  # start, first paint, first points
        each = [count(terminal, 1.0) for _ in range(int(options.seconds))]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    result = {
        "bytes_per_s": summary(each),
        "mean_bytes_per_s": round(sum(each) / len(each)),
        "steps_per_s": options.rate,
    }
    print(json.dumps(result))


def count(terminal: int, seconds: float) -> int:
    """Bytes that come within ``seconds``."""
    total, end = 0, time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            total += len(os.read(terminal, 65536))
    return total


if __name__ == "__main__":
    main()
