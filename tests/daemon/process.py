"""A real daemon process on a workspace of its own, for tests; and pictures to give it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from shared import launch, paths, wire
from shared.client import Client

WITHIN = 30.0  # seconds a daemon may take to begin or to end on a busy machine


class DaemonProcess:
    """The daemon of ``home``, whoever started it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.workspace = paths.Workspace(home)
        self.endpoint = paths.endpoint(home)

    @property
    def status(self) -> dict[str, Any]:
        """What its status file says."""
        found: dict[str, Any] = json.loads(self.workspace.status.read_text())
        return found

    @property
    def pid(self) -> int:
        return int(self.status["pid"])

    @property
    def log(self) -> str:
        return self.workspace.log.read_text()

    def start(self, *arguments: str) -> None:
        """Start it detached; returns once it is ready."""
        done = self.run("--detach", *arguments)
        assert done.returncode == 0, done.stderr

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``lora-daemon`` with these arguments, to its end."""
        command = [sys.executable, "-m", "lora_daemon", "--home", str(self.home), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal that ends it, and wait for the end."""
        pid = self.pid
        os.kill(pid, number)
        assert await launch.wait_gone(pid, WITHIN), f"daemon {pid} did not end"

    def end(self) -> None:
        """Whatever the test left: end it at once."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.pid, signal.SIGKILL)
            handle = os.pidfd_open(self.pid)
            select.select([handle], [], [], WITHIN)
            os.close(handle)


def script(text: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process that runs ``text`` in a session of its own."""
    command = [sys.executable, "-c", text]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def pictures(folder: Path, count: int = 3) -> Path:
    """A folder of small pictures, each with a caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (64, 64), (number * 40 % 256, 90, 160)).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(f"picture {number}")
    return folder


async def imported(client: Client, folder: Path) -> list[wire.Item]:
    """Import ``folder`` and return its items."""
    done = await client.call(wire.ImportDataset(path=str(folder)))
    return (await client.call(wire.ListItems(dataset=done.dataset.id))).items


async def follow(client: Client, seq: int) -> None:
    """Wait until the client has seen event ``seq``."""
    async with asyncio.timeout(WITHIN):
        notices = client.notices()
        while client.seq < seq:
            await anext(notices)
