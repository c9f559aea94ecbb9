"""A workspace nobody else uses, a daemon process on it, a client of that daemon."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from lora_daemon import gpus
from shared.client import Client
from tests.daemon.house import House, opened
from tests.daemon.process import DaemonProcess
from tests.daemon.served import Served


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons in this process have one worker, whatever the machine has."""
    monkeypatch.setattr(gpus, "cards", list)
    monkeypatch.delenv("LORA_TUI_GPUS", raising=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LORA_TUI_HOME, not yet made."""
    workspace = tmp_path / "home"
    monkeypatch.setenv("LORA_TUI_HOME", str(workspace))
    monkeypatch.setenv("LORA_TUI_NAME", "tester")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("LORA_TUI_ENDPOINT", raising=False)
    return workspace


@pytest.fixture
def mount(home: Path) -> Iterator[Callable[[str], None]]:
    """Make the workspace a file system of its own, with these options: "size=3m", "ro"."""
    mounted = False

    def mount_with(options: str) -> None:
        nonlocal mounted
        home.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(home)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a file system")
        mounted = True

    yield mount_with
    if mounted:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


@pytest.fixture
def daemon(home: Path) -> Iterator[DaemonProcess]:
    """The workspace's daemon: not running until a client or the test starts it, ended after."""
    process = DaemonProcess(home)
    yield process
    process.end()


@pytest.fixture
async def client(daemon: DaemonProcess) -> AsyncIterator[Client]:
    """A subscribed client; its connecting starts the daemon."""
    async with await Client.connect(home=daemon.home, subscribe=True) as connected:
        yield connected


@pytest.fixture
async def served(home: Path) -> AsyncIterator[Served]:
    """A server in this process."""
    server = Served(home)
    yield server
    await server.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A domain in this process, at work."""
    async with opened(tmp_path) as house:
        yield house
