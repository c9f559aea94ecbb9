"""Seconds from `lora-tui` to its first painted screen in a pseudo-terminal; target: 0.7 s.

    python -m bench.first_paint [--pairs 7] [--cold]

It takes turns with a bare interpreter, so that whatever else the machine does meets them alike.
The daemon is there already, as for somebody who attaches again; with --cold it is not. The
processor time tells what an idle machine would need.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import summary


def paint(home: Path, until: bytes, within: float = 60.0) -> tuple[float, float]:
    """Seconds until the terminal shows ``until``, and the processor's seconds in it."""
    environment = {
        **os.environ, "LORA_TUI_HOME": str(home), "TERM": "xterm-256color",
        "COLORTERM": "truecolor", "COLUMNS": "120", "LINES": "40",
    }  # fmt: skip
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "lora_tui"], environment)
    seen, took = b"", 0.0
    while not took and time.perf_counter() - began < within:
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 65536)
            if until in seen:
                took = time.perf_counter() - began
    os.kill(pid, signal.SIGKILL)
    usage = os.wait4(pid, 0)[2]
    os.close(terminal)
    if not took:
        raise SystemExit(f"{until!r} was not painted within {within} s")
    return took, usage.ru_utime + usage.ru_stime


def bare() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--cold", action="store_true", help="without a daemon")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        command = [sys.executable, "-m", "lora_tui", "--home", str(home), "daemon"]
        if not options.cold:
            subprocess.run([*command, "start"], check=True, stdout=subprocess.DEVNULL)
        paints, processor, empties = [], [], []
        try:
            for _ in range(options.pairs):
                took, busy = paint(home, b"Datasets")
                paints.append(took)
                processor.append(busy)
                empties.append(bare())
                if options.cold:
                    subprocess.run([*command, "stop"], check=False, capture_output=True)
                    shutil.rmtree(home, ignore_errors=True)
        finally:
            subprocess.run([*command, "stop"], check=False, capture_output=True)
    result = {
        "first_paint_s": summary(paints),
        "processor_s": summary(processor),
        "bare_s": summary(empties),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
