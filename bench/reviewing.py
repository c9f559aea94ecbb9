"""Reviewing a large dataset as a person does, through a real pseudo-terminal and a real daemon.

    python -m bench.reviewing [--pictures 100000] [--folder FOLDER] [--keys 200] [--off | --slow]
                              [--link KB]

Targets at 100 000 pictures: first paint 2 s; from a key to the next caption on the screen 50 ms
(p95) and 100 ms (p99); at ten keys a second each caption is painted before its key is sent and none
is lost; daemon 400 MB, client 250 MB; import 1 500 pictures/s. FOLDER: one that ``bench.pictures``
has filled, else one is made (3.5 GB); its files were just written or read, so the cache is warm.
The client's processor time for each key tells what an idle machine would need at most. With
``--link`` no more than so many kilobytes a second come through, and a person looks at each picture
for a second; the times are then those of the link as well.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.pictures import write
from bench.terminal_bytes import Terminal

SIZE = (80, 27)  # columns, rows
PACE = 0.1  # seconds between two keys of the script
WITHIN = 60.0  # seconds until something is taken for lost
TICKS = os.sysconf("SC_CLK_TCK")
_PARTS = re.compile(r"\x1b\[(\d+);(\d+)H|\x1b\[[0-9;?<>=]*[A-Za-z]|\x1b[^\[]|\r|\n|([^\x1b\r\n]+)")


class Screen:
    """What stands on the terminal: enough of one for what Textual sends."""

    def __init__(self, terminal: Terminal, link: float = 0) -> None:
        """``link``: bytes a second that come through; 0: all."""
        self._terminal = terminal
        self._link = link
        self.bytes = 0  # that came
        self._lines = [[" "] * SIZE[0] for _ in range(SIZE[1])]
        self._at = (0, 0)
        self._rest = b""

    def take(self, seconds: float) -> bool:
        """Paint what comes within ``seconds``; whether anything did."""
        if not select.select([self._terminal.descriptor], [], [], max(seconds, 0))[0]:
            return False
        came = os.read(self._terminal.descriptor, 1024 if self._link else 1 << 20)
        self.bytes += len(came)
        if self._link:
            time.sleep(len(came) / self._link)
        said = self._rest + came
        cut = said.rfind(b"\x1b", max(len(said) - 32, 0))  # it may go on in what comes next
        whole, self._rest = (said[:cut], said[cut:]) if cut > 0 else (said, b"")
        for part in _PARTS.finditer(whole.decode(errors="replace")):
            self._paint(part)
        return True

    def _paint(self, part: re.Match[str]) -> None:
        row, column = self._at
        if part[1]:
            self._at = (int(part[1]) - 1, int(part[2]) - 1)
        elif part[3]:
            for character in part[3]:
                if row < SIZE[1] and column < SIZE[0]:
                    self._lines[row][column] = character
                column += 1
            self._at = (row, column)
        elif part[0] == "\n":
            self._at = (row + 1, 0)

    def shows(self, text: str) -> bool:
        return any(text in "".join(line) for line in self._lines)

    def until(self, text: str, within: float = WITHIN) -> float:
        """Seconds until ``text`` is on the screen. Raises SystemExit if it never is."""
        began = time.perf_counter()
        while not self.shows(text):
            if time.perf_counter() - began > within:
                shown = "\n".join("".join(line) for line in self._lines)
                raise SystemExit(f"{text!r} was not painted within {within} s:\n{shown}")
            self.take(0.5)
        return time.perf_counter() - began

    def rest(self, seconds: float) -> None:
        while self.take(seconds):
            pass


def used(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def megabytes(pid: int) -> int:
    """The most memory that a process has had."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) // 1000


def rank(values: list[float], share: float) -> float:
    return round(sorted(values)[min(int(len(values) * share), len(values) - 1)] * 1000, 1)


def reviewed(screen: Screen, press: Terminal, numbers: range, moment: float = 0.05) -> list[float]:
    """Accept these, each when it has been there for a moment; seconds until the next is there."""
    took = []
    for number in numbers:
        screen.rest(moment)
        press.press(" ")
        took.append(screen.until(name(number + 1)))
    return took


def raced(screen: Screen, press: Terminal, numbers: range) -> int:
    """Accept these at a steady pace, whatever is painted; how many were not there when their key
    was sent."""
    unseen, began = 0, time.perf_counter()
    for place, number in enumerate(numbers):
        while (left := began + place * PACE - time.perf_counter()) > 0:
            screen.take(left)
        screen.take(0)
        unseen += not screen.shows(name(number))
        press.press(" ")
    screen.until(name(numbers.stop))
    return unseen


def name(number: int) -> str:
    """How the title calls the picture at a place of the list: they are in order of their names."""
    return f"caption of {ORDER[number]}"


ORDER: list[str] = []


def resting(pid: int, within: float = 240.0) -> None:
    """Wait until the daemon has counted tokens and looked through the folder."""
    end, calm = time.monotonic() + within, 0
    while time.monotonic() < end and calm < 3:
        before = used(pid)
        time.sleep(1)
        calm = calm + 1 if used(pid) - before < 0.1 else 0


def measure(
    folder: Path, home: Path, keys: int, options: list[str], link: float
) -> dict[str, object]:
    ORDER[:] = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
    command = [sys.executable, "-m", "lora_tui", "--home", str(home)]

    def told(*arguments: str) -> dict[str, object]:
        done = subprocess.run([*command, *arguments, "--json"], check=True, capture_output=True)
        said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return said

    began = time.perf_counter()
    told("dataset", "import", str(folder), "--name", "bench")
    importing = time.perf_counter() - began
    daemon = int(str(told("status")["pid"]))
    row: dict[str, object] = {
        "pictures": len(ORDER),
        "import_per_s": round(len(ORDER) / importing),
        "import_cpu_ms_each": round(used(daemon) / len(ORDER) * 1000, 2),
    }
    resting(daemon)
    began = time.perf_counter()
    terminal = Terminal(home, SIZE, options)
    try:
        screen = Screen(terminal, link)
        screen.until("Datasets")
        row["first_paint_s"] = round(time.perf_counter() - began - 0.2, 2)  # Terminal waits so long
        screen.until(ORDER[0])
        row["pictures_listed_s"] = round(time.perf_counter() - began - 0.2, 2)
        terminal.press("gv")
        screen.until(name(0))
        reviewed(screen, terminal, range(5))
        cpu, before = used(terminal.pid), screen.bytes
        took = reviewed(screen, terminal, range(5, 5 + keys), 1.0 if link else 0.05)
        row["kB_each"] = round((screen.bytes - before) / keys / 1000, 1)
        row["key_to_paint_ms"] = {"p50": rank(took, 0.5), "p95": rank(took, 0.95),
                                  "p99": rank(took, 0.99), "most": rank(took, 1)}  # fmt: skip
        row["client_cpu_ms_each"] = round((used(terminal.pid) - cpu) / keys * 1000, 1)
        screen.rest(1)
        row["ten_a_second_unseen"] = raced(screen, terminal, range(5 + keys, 5 + 2 * keys))
        screen.rest(1)
        row |= {"client_MB": megabytes(terminal.pid), "daemon_MB": megabytes(daemon)}
    finally:
        terminal.end()
    datasets = told("dataset", "show", "bench")["dataset"]
    assert isinstance(datasets, dict)
    row["lost"] = 5 + 2 * keys - datasets["counts"]["accepted"]
    row["load"] = os.getloadavg()[0]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="filled by bench.pictures")
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--off", action="store_true", help="without pictures")
    parser.add_argument("--slow", action="store_true", help="with the small ones for slow links")
    parser.add_argument("--link", type=float, default=0, metavar="KB", help="kilobytes a second")
    options = parser.parse_args()
    shown = ["--no-pictures"] * options.off + ["--slow-link"] * options.slow
    with tempfile.TemporaryDirectory() as directory:
        folder, home = options.folder or Path(directory) / "pictures", Path(directory) / "home"
        if options.folder is None:
            write(folder, options.pictures)
        try:
            row = measure(folder, home, options.keys, shown, options.link * 1000)
        finally:
            subprocess.run(
                [sys.executable, "-m", "lora_tui", "--home", str(home), "daemon", "stop"],
                check=False, capture_output=True,
            )  # fmt: skip
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
