"""Bytes to the terminal for each picture accepted in Review, through a real pseudo-terminal.

    python -m bench.terminal_bytes [--pictures 24] [--size 80x27]

Targets: 30 kB with a half-block picture of 40 × 20 cells or more, 3 kB with pictures off. The
pictures are as noisy as photographs, so that no two cells are alike; each is waited for, as a
person does who looks at it.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from PIL import Image

MODES = {"half-blocks": [], "slow": ["--slow-link"], "off": ["--no-pictures"]}
QUIET = 0.7  # seconds without a byte after which everything is painted


def pictures(folder: Path, count: int) -> None:
    """Clouds of colour with grain, 512 px."""
    folder.mkdir()
    for number in range(count):
        channels = []
        for _ in range(3):
            channel = Image.effect_noise((5, 5), 120).resize((512, 512), Image.Resampling.BICUBIC)
            for grain, share in ((24, 0.3), (120, 0.2)):
                fine = Image.effect_noise((grain, grain), 110).resize((512, 512))
                channel = Image.blend(channel, fine, share)
            channels.append(channel)
        out = io.BytesIO()
        Image.merge("RGB", channels).save(out, "JPEG", quality=88)
        (folder / f"{number:04}.jpg").write_bytes(out.getvalue())
        (folder / f"{number:04}.txt").write_text(f"clouds of colour, number {number}")


class Terminal:
    """The app in a pseudo-terminal."""

    def __init__(self, home: Path, size: tuple[int, int], options: list[str]) -> None:
        environment = {
            **os.environ, "LORA_TUI_HOME": str(home), "TERM": "xterm-256color",
            "COLORTERM": "truecolor", "XDG_CONFIG_HOME": str(home / "config"),
            "LORA_TUI_PICTURES": "half-blocks",
        }  # fmt: skip
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            time.sleep(0.2)  # until the size is set
            os.execve(sys.executable, [sys.executable, "-m", "lora_tui", *options], environment)
        fcntl.ioctl(
            self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0)
        )

    def read(self, until: bytes = b"", within: float = 60.0) -> bytes:
        """All that comes: up to ``until`` and then until it is quiet."""
        said, end, seen = b"", time.monotonic() + within, not until
        while time.monotonic() < end:
            if select.select([self.descriptor], [], [], QUIET)[0]:
                said += os.read(self.descriptor, 1 << 20)
                seen = seen or until in said
            elif seen:
                return said
        raise SystemExit(f"{until!r} was not painted within {within} s")

    def press(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.descriptor)


def cells(painted: bytes) -> tuple[int, int]:
    """Columns and rows of the half-blocks in what was painted."""
    rows: dict[str, int] = {}
    row = "0"
    for place, text in re.findall(r"\x1b\[(\d+);\d+H|([▀ ]+)", painted.decode(errors="replace")):
        row = place or row
        rows[row] = rows.get(row, 0) + text.count("▀")
    full = [count for count in rows.values() if count > 10]
    return max(full, default=0), len(full)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--size", default="80x27")
    arguments = parser.parse_args()
    columns, rows = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as directory:
        home, folder = Path(directory) / "home", Path(directory) / "clouds"
        pictures(folder, arguments.pictures * len(MODES) + 2)
        command = [sys.executable, "-m", "lora_tui", "--home", str(home)]
        subprocess.run(
            [*command, "dataset", "import", str(folder)], check=True, capture_output=True
        )
        try:
            for mode, options in MODES.items():
                terminal = Terminal(home, (columns, rows), options)
                terminal.read(b"clouds")
                terminal.press("gv")
                shown = cells(terminal.read(b"caption of"))
                terminal.press("N")
                terminal.read()
                sent = []
                for _ in range(arguments.pictures):
                    terminal.press(" ")
                    painted = terminal.read(b"caption of")
                    shown = max(shown, cells(painted))
                    sent.append(len(painted))
                terminal.end()
                print(
                    json.dumps(
                        {
                            "pictures": mode,
                            "terminal": arguments.size,
                            "cells": shown,
                            "median_bytes": sorted(sent)[len(sent) // 2],
                            "max_bytes": max(sent),
                        }
                    ),
                    flush=True,
                )
        finally:
            subprocess.run([*command, "daemon", "stop"], check=False, capture_output=True)


if __name__ == "__main__":
    main()
