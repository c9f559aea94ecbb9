"""A whole installation on a GPU box: the daemon takes the card, names it, and gives it back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.command_line import CommandLine
from tests.daemon.process import DaemonProcess, pictures

pytestmark = pytest.mark.gpu
IDLE = 3  # seconds after which a worker gives the memory back
WITHIN = 120.0


@pytest.fixture(scope="module")
def box(
    device: torch.device, base_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandLine]:
    """A workspace with a base and a dataset, its daemon ended afterwards."""
    home = tmp_path_factory.mktemp("box") / "home"
    # What else is on the card while tests run on it is not to be waited for.
    cli = CommandLine(home, LORA_TUI_WORKER_IDLE=str(IDLE), LORA_TUI_TAKEN_GPU="share")
    try:
        cli.ok("model", "add", str(base_path), "--name", "tiny")
        cli.ok("dataset", "import", str(pictures(home.parent / "dragons")))
        yield cli
    finally:
        DaemonProcess(home).end()


def train(*more: str) -> tuple[str, ...]:
    return (
        "train", "demo", "--base", "tiny", "--dataset", "dragons",
        "--set", "schedule.warmup_steps=0", "--set", "training.batch_size=1", *more,
    )  # fmt: skip


def until(what: Callable[[], Any]) -> Any:
    """What is found once it is true of the daemon."""
    limit = time.monotonic() + WITHIN
    while not (found := what()):
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.1)
    return found


def card(box: CommandLine) -> dict[str, Any]:
    """The device that the daemon tells of."""
    (found,) = box.data("status")["devices"]
    return dict(found)


def test_doctor_says_that_the_engine_uses_the_card(box: CommandLine, device: torch.device) -> None:
    done = box("doctor", "--json")
    assert done.stdout, done.stderr
    text = done.stdout.splitlines()[-1]
    assert '"about":"engine","level":"ok"' in text.replace(" ", ""), text
    assert '"about":"gpu","level":"ok"' in text.replace(" ", ""), text
    if device.type == "cuda":
        assert torch.cuda.get_device_name(device) in text


def test_a_run_ends_with_a_lora_and_the_status_names_the_card(
    box: CommandLine, device: torch.device
) -> None:
    done = box(*train("--set", "training.epochs=4", "--set", "output.name=short"))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "finished" in line and Path(line.partition(": ")[2]).is_file()
    status = box.data("status")
    (seen,) = status["devices"]
    worker = status["worker"]
    assert not [one for one in status["warnings"] if "cannot be used" in one], status["warnings"]
    print(seen, worker)
    if device.type == "cuda":
        assert (seen["kind"], seen["name"]) == ("cuda", torch.cuda.get_device_name(device))
        assert seen["device"].startswith("GPU-")
        total = torch.cuda.get_device_properties(device).total_memory
        assert abs(seen["total"] - total) < 0.05 * total and seen["used"] > 0
        if worker["state"] != "absent":
            assert worker["device"] == "cuda:0" and worker["precision"] == "bf16"
    assert seen["total"] > 0


def test_a_worker_that_is_killed_costs_no_run_and_the_memory_comes_back(
    box: CommandLine, device: torch.device
) -> None:
    until(lambda: box.data("status")["worker"]["state"] == "absent")
    before = card(box)
    run = box.data(
        *train("--set", "training.epochs=100000", "--set", "save.resume_seconds=0.5"),
        "--name", "long", "--detach",
    )["id"]  # fmt: skip

    def now() -> dict[str, Any]:
        return next(one for one in box.data("run", "list")["runs"] if one["id"] == run)

    until(lambda: now()["step"] > 20)
    status = box.data("status")
    worker = status["worker"]
    if device.type == "cuda":
        (seen,) = status["devices"]
        assert seen["allocated"] > 0, seen
        assert seen["used"] - before["used"] > 100 * 2**20, (before, seen)
    time.sleep(1.0)  # for a resume state
    step = now()["step"]
    os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: box.data("status")["worker"]["pid"] not in (0, worker["pid"]))
    until(lambda: now()["step"] > step)
    box.ok("run", "stop", run)
    assert box.data("run", "watch", run)["state"] == "stopped"
    assert box.data("run", "show", run)["checkpoints"]
    until(lambda: box.data("status")["worker"]["state"] == "absent")
    if device.type == "cuda":
        until(lambda: card(box)["used"] < before["used"] + 64 * 2**20)
