"""The README's first command, from an empty workspace to pictures with and without the LoRA."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_daemon.starter import base_dir
from tests.cli.command_line import CommandLine
from tests.daemon.process import DaemonProcess

SHORT = (
    "demo", "--set", "training.max_steps=40", "--set", "training.batch_size=1",
    "--set", "schedule.warmup_steps=0", "--count", "4",
)  # fmt: skip

pytestmark = pytest.mark.skipif(not base_dir().is_dir(), reason="the starter's base is not made")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    home = tmp_path / "home"
    yield CommandLine(home)
    DaemonProcess(home).end()


def test_the_demo_trains_paints_counts_and_does_nothing_twice(cli: CommandLine) -> None:
    done = cli(*SHORT)
    assert done.returncode == 0, done.stderr
    assert "creatures seen with the LoRA" in done.stdout
    assert "creatures seen without the LoRA" in done.stdout
    assert "40/40" in done.stderr or "40 steps" in done.stderr
    first = cli.data(*SHORT)
    assert (first["state"], first["steps"]) == ("finished", 40)
    assert first["with_it"]["number"] == first["without"]["number"] == 4
    assert Path(first["lora"]).is_file()
    assert Path(first["sheet"]).read_bytes().startswith(b"\x89PNG")
    assert first["run"] == "r0001"
    assert len(first["shown"]) == 15
    mixed = cli.data("mix", "show")["spec"]
    assert [lora["weight"] for lora in mixed["loras"]] == [0.8]
    datasets = {one["name"]: one for one in cli.data("dataset", "list")["datasets"]}
    assert set(datasets) == {"creatures", "pencil"}
    pictures = list((cli.home / "outputs").glob("*.png"))
    assert cli.data(*SHORT) == first
    assert list((cli.home / "outputs").glob("*.png")) == pictures


def test_two_demos_at_once_follow_one_run(cli: CommandLine) -> None:
    both = [cli.popen(*SHORT, "--json") for _ in range(2)]
    followed = []
    for process in both:
        assert process.stdout is not None
        followed.append(next(t["run"] for t in map(json.loads, process.stdout) if "phase" in t))
    for process in both:
        process.kill()
        process.communicate()
    assert followed == ["r0001", "r0001"]
    assert [run["id"] for run in cli.data("run", "list")["runs"]] == ["r0001"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_demo_that_is_interrupted_anywhere_goes_on(cli: CommandLine) -> None:
    """Killed as it imports, as it trains (with its daemon), and as it paints."""
    arguments = ("demo", "--set", "training.max_steps=150", "--count", "4", "--json")
    for killed_at in ("import", "training", "pictures"):
        process = cli.popen(*arguments)
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if killed_at == "import" and "message" in told:
                break
            if killed_at == "training" and told.get("phase") == "training" and told["step"]:
                os.kill(DaemonProcess(cli.home).pid, signal.SIGKILL)
                break
            if killed_at == "pictures" and told.get("stage") == "pictures":
                break
        process.kill()
        process.communicate()
    result = cli.data(*arguments[:-1])
    assert (result["run"], result["steps"]) == ("r0001", 150)
    assert Path(result["sheet"]).is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_again_trains_anew_and_keeps_what_was_there(cli: CommandLine) -> None:
    first = cli.data(*SHORT)
    second = cli.data(*SHORT, "--again")
    assert (first["run"], second["run"]) == ("r0001", "r0002")
    assert Path(first["lora"]).is_file()
    assert Path(first["sheet"]).is_file()


def test_the_demo_runs_where_the_daemon_is(cli: CommandLine) -> None:
    _, error = cli.refused("demo", "--endpoint", "ipc:///tmp/elsewhere.sock")
    assert "where the daemon is" in error["message"]


def test_with_a_terminal_the_demo_opens_the_run_and_ends_in_text(cli: CommandLine) -> None:
    screen, inside = pty.openpty()
    process = subprocess.Popen(
        cli.command(*SHORT), env=cli.environment | {"TERM": "xterm-256color"},
        stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    seen = b""
    asked = False
    end = time.monotonic() + 240
    while time.monotonic() < end:
        if select.select([screen], [], [], 1.0)[0]:
            try:
                seen += os.read(screen, 65536)
            except OSError:  # the other side has closed
                break
        if not asked and b"\x1b[?1049h" in seen and b"r0001" in seen.partition(b"\x1b[?1049h")[2]:
            os.write(screen, b"q")
            asked = True
    os.close(screen)
    assert process.wait(timeout=60) == 0
    assert asked, "the terminal UI did not show the run"
    told = seen.rpartition(b"\x1b[?1049l")[2]
    assert b"creatures seen with the LoRA" in told
    assert "▀".encode() in told, "the contact sheet was not shown"
    assert b"a red creature" in told


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_demo_teaches_the_creature(cli: CommandLine) -> None:
    process = cli.popen("demo", "--json")
    said, _ = process.communicate(timeout=3000)
    result = json.loads(said.splitlines()[-1])
    assert result["with_it"]["hits"] >= 70
    assert result["without"]["hits"] <= 10
    assert result["seconds"] <= 180


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_trainers_are_compared_one_difference_at_a_time(cli: CommandLine) -> None:
    short = (
        "demo", "--trainers", "--set", "training.max_steps=4", "--set", "schedule.warmup_steps=0",
        "--count", "4",
    )  # fmt: skip
    told = cli.data(*short)
    names = [one["name"] for one in told["trained"]]
    assert (names[0], names[-1]) == ("lesson", "lesson-kohya")
    assert "lesson + kohya's [network]" in names
    assert all(one["steps"] == 4 and one["norm"] > 0 for one in told["trained"])
    assert told["differences"]["network.rank"] == ["4", "32"]
    assert Path(told["sheet"]).read_bytes().startswith(b"\x89PNG")
    again = cli.data(*short)
    assert [one["run"] for one in again["trained"]] == [one["run"] for one in told["trained"]]
