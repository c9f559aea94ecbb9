"""How long `lora-tui status --json` takes over a bare interpreter; target: 0.3 s.

    python -m bench.cli [--pairs 15]

The two take turns, so that whatever else the machine does meets them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import summary


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Wall-clock seconds of a command that must succeed."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"LORA_TUI_HOME": str(Path(folder) / "home")}
        tui = [sys.executable, "-m", "lora_tui"]
        subprocess.run([*tui, "daemon", "start"], env=environment, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            bare, status = [], []
            for _ in range(pairs):
                bare.append(seconds([sys.executable, "-c", "pass"], environment))
                status.append(seconds([*tui, "status", "--json"], environment))
        finally:
            subprocess.run([*tui, "daemon", "stop", "--json"], env=environment, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
    over = [s - b for s, b in zip(status, bare, strict=True)]
    result = {
        "bare_s": summary(bare),
        "status_s": summary(status),
        "status_over_bare_s": summary(over),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
