"""How the daemon begins, goes on whatever happens to its clients, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_daemon.lifecycle import check_endpoint
from shared import launch, paths, wire
from shared.client import Client
from shared.errors import Code, Exit, LoraError
from tests.daemon.process import WITHIN, DaemonProcess, script

FOREIGN = {"torch", "textual", "diffusers", "transformers", "peft"}


async def test_a_client_starts_the_daemon_and_leaves_it_running(daemon: DaemonProcess) -> None:
    async with await Client.connect(home=daemon.home) as client:
        status = await client.call(wire.GetStatus())
    assert status.pid == daemon.pid
    assert status.home == str(daemon.home)
    assert daemon.status["endpoint"] == status.endpoint == daemon.endpoint
    assert launch.listening(daemon.workspace.socket)


async def test_clients_at_once_start_exactly_one_daemon(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    spawn = launch._spawn

    async def counted(workspace: Path) -> bool:
        started.append(workspace)
        return await spawn(workspace)

    monkeypatch.setattr(launch, "_spawn", counted)
    clients = await asyncio.gather(*(Client.connect(home=daemon.home) for _ in range(4)))
    pids = {(await client.call(wire.GetStatus())).pid for client in clients}
    for client in clients:
        await client.close()
    assert pids == {daemon.pid}
    assert started == [daemon.home]


async def test_client_processes_at_once_start_exactly_one_daemon(daemon: DaemonProcess) -> None:
    text = (
        "import asyncio\n"
        "from shared.client import Client\n"
        "from shared import wire\n"
        "async def main():\n"
        "    async with await Client.connect() as client:\n"
        "        print((await client.call(wire.GetStatus())).pid)\n"
        "asyncio.run(main())\n"
    )
    clients = [script(text) for _ in range(2)]
    said = {process.communicate(timeout=WITHIN)[0].strip() for process in clients}
    assert said == {str(daemon.pid)}


def test_a_second_daemon_says_who_is_there_and_leaves(daemon: DaemonProcess) -> None:
    daemon.start()
    for arguments in ((), ("--detach",)):
        second = daemon.run(*arguments)
        assert second.returncode == Exit.CONFLICT
        assert f"pid {daemon.pid}" in second.stderr
        assert "Traceback" not in second.stderr
    assert launch.listening(daemon.workspace.socket)


async def test_the_lock_and_not_a_file_says_who_is_there(daemon: DaemonProcess) -> None:
    daemon.start()
    first = daemon.pid
    await daemon.kill(signal.SIGKILL)
    assert daemon.workspace.socket.exists() and daemon.workspace.status.exists()
    daemon.start()
    assert daemon.pid != first
    assert launch.listening(daemon.workspace.socket)


async def test_a_log_out_does_not_end_it(home: Path, daemon: DaemonProcess) -> None:
    shell = script("from lora_daemon.__main__ import main; main(['--detach'])")
    assert shell.wait(WITHIN) == 0
    assert os.getsid(daemon.pid) != shell.pid
    os.kill(daemon.pid, signal.SIGHUP)
    async with await Client.connect(home=home, start=False) as client:
        assert (await client.call(wire.GetStatus())).pid == daemon.pid


async def test_who_started_it_may_be_killed_before_it_is_ready(daemon: DaemonProcess) -> None:
    text = (
        "import os\n"
        "from lora_daemon import __main__, lifecycle\n"
        "os.waitpid = lambda child, _: os.kill(os.getpid(), 9)\n"
        "__main__.main(['--detach'])\n"
    )
    assert script(text).wait(WITHIN) == -signal.SIGKILL
    async with await Client.connect(home=daemon.home) as client:
        pid = (await client.call(wire.GetStatus())).pid
        async with asyncio.timeout(WITHIN):
            while "ready: pid" not in daemon.log:  # noqa: ASYNC110  it answers before that
                await asyncio.sleep(0.01)
    assert daemon.pid == pid and daemon.log.count("ready: pid") == 1


async def test_a_killed_client_does_not_end_it(daemon: DaemonProcess) -> None:
    text = (
        "import asyncio, os\n"
        "from shared.client import Client\n"
        "async def main():\n"
        "    await Client.connect(subscribe=True)\n"
        "    os.killpg(os.getpgid(0), 9)\n"
        "asyncio.run(main())\n"
    )
    doomed = script(text)
    assert doomed.wait(WITHIN) == -signal.SIGKILL
    async with await Client.connect(home=daemon.home, start=False) as client:
        assert (await client.call(wire.GetStatus())).pid == daemon.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(number: int, client: Client, daemon: DaemonProcess) -> None:
    notices = client.notices()
    await daemon.kill(number)
    async with asyncio.timeout(WITHIN):
        while not getattr(await anext(notices), "left", False):
            pass
    assert daemon.log.rstrip().endswith("gone")
    assert not daemon.workspace.socket.exists()
    assert not daemon.workspace.status.exists()


async def test_stop_ends_it(client: Client, daemon: DaemonProcess) -> None:
    pid = daemon.pid
    assert await client.call(wire.Stop()) == wire.Done()
    assert await launch.wait_gone(pid, WITHIN)


SLOW = """
import asyncio, sys
from pathlib import Path
from lora_daemon import lifecycle
from lora_daemon.domain import Domain
from shared import paths

class Slow(Domain):
    async def close(self, *, now):
        print("now" if now else "patient", flush=True)
        if not now:
            await asyncio.Event().wait()
        await super().close(now=now)

options = lifecycle.Options(workspace=paths.Workspace(paths.home()))
lifecycle.run(options, ready=lambda: print("ready", flush=True), domain=Slow)
"""


async def test_the_second_signal_does_not_wait_for_the_step_boundary(
    daemon: DaemonProcess,
) -> None:
    process = script(SLOW)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "patient\n"
    async with await Client.connect(home=daemon.home, start=False) as client:
        assert (await client.call(wire.GetStatus())).pid == process.pid
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "now\n"
    assert process.wait(WITHIN) == 0
    assert daemon.log.rstrip().endswith("gone")


def test_a_fault_of_ours_at_the_start_is_told_and_logged(daemon: DaemonProcess) -> None:
    text = "from lora_daemon import __main__, admin\nadmin.Admin = None\n__main__.main({})"
    for arguments in ([], ["--detach"]):
        process = script(text.format(arguments), stderr=subprocess.PIPE)
        said = process.communicate(timeout=WITHIN)[1]
        assert "error of its own" in said and str(daemon.workspace.log) in said
        assert "Traceback" in daemon.log
    assert not launch.listening(daemon.workspace.socket)


def loaded(imports: str, modules: set[str]) -> set[str]:
    """Which of ``modules`` a process has after ``imports``."""
    said = script(f"{imports}; print(*({modules!r} & set(sys.modules)))").communicate(None, WITHIN)
    return set(said[0].split())


def test_it_never_imports_torch_or_textual(home: Path) -> None:
    imports = "import sys, lora_daemon.lifecycle, lora_daemon.__main__"
    assert loaded(imports, FOREIGN) == set()


def test_the_client_imports_neither_textual_nor_the_daemon(home: Path) -> None:
    foreign = FOREIGN | {"lora_daemon", "numpy", "PIL", "sqlite3"}
    assert loaded("import sys, shared.client", foreign) == set()


def test_its_socket_is_private(daemon: DaemonProcess) -> None:
    daemon.start()
    assert stat.S_IMODE(daemon.workspace.socket.stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.workspace.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.workspace.database.stat().st_mode) == 0o600


async def test_a_workspace_with_a_long_path_has_its_socket_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ("deep" * 20) / "home"
    daemon = DaemonProcess(home)
    assert home not in daemon.workspace.socket.parents
    try:
        async with await Client.connect(home=home) as client:
            assert (await client.call(wire.GetStatus())).home == str(home)
    finally:
        daemon.end()


def test_a_read_only_workspace_is_refused_in_words(
    mount: Callable[[str], None], home: Path, daemon: DaemonProcess
) -> None:
    mount("ro")
    with pytest.raises(OSError, match="Read-only"):
        (home / "probe").write_text("x")
    for arguments in ((), ("--detach",)):
        done = daemon.run(*arguments)
        assert done.returncode == Exit.STORAGE
        assert "read-only" in done.stderr and str(home) in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(LoraError, match="read-only") as caught:
        asyncio.run(Client.connect(home=home))
    assert caught.value.code is Code.STORAGE


def test_a_full_disk_is_refused_in_words(
    mount: Callable[[str], None], home: Path, daemon: DaemonProcess
) -> None:
    mount("size=64k")
    with pytest.raises(OSError, match="No space"):
        (home / "ballast").write_bytes(b"x" * 100_000)
    done = daemon.run("--detach")
    assert done.returncode == Exit.STORAGE
    assert "full" in done.stderr and str(home) in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_forwarded_endpoint_serves_the_same_daemon(
    tmp_path: Path, daemon: DaemonProcess
) -> None:
    forwarded = f"ipc://{tmp_path}/forwarded.sock"
    daemon.start("--endpoint", forwarded)
    async with await Client.connect(forwarded) as client:
        assert (await client.call(wire.GetStatus())).pid == daemon.pid


async def test_an_endpoint_takes_nothing_away(
    tmp_path: Path, daemon: DaemonProcess, home: Path
) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("captions")
    server = await asyncio.start_unix_server(lambda *_: None, tmp_path / "theirs.sock")
    for path in (precious, tmp_path / "theirs.sock"):
        done = await asyncio.to_thread(daemon.run, "--detach", "--endpoint", f"ipc://{path}")
        assert done.returncode == Exit.CONFLICT
        assert f"{path} is taken" in done.stderr
    assert precious.read_text() == "captions"
    assert launch.listening(tmp_path / "theirs.sock")
    server.close()


@pytest.mark.parametrize(
    "endpoint", ["tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://192.0.2.7:5555", "udp://127.0.0.1:1"]
)
def test_an_endpoint_for_strangers_is_refused(endpoint: str) -> None:
    with pytest.raises(LoraError, match="ssh -L") as caught:
        check_endpoint(endpoint)
    assert caught.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize("endpoint", ["", "ipc:///tmp/x", "tcp://127.0.0.1:5555", "tcp://[::1]:5"])
def test_an_endpoint_of_this_machine_is_allowed(endpoint: str) -> None:
    check_endpoint(endpoint)


async def test_a_daemon_that_cannot_start_tells_the_client_why(
    home: Path, daemon: DaemonProcess
) -> None:
    paths.private(home)
    daemon.workspace.database.write_bytes(b"no database at all" * 100)
    with pytest.raises(LoraError, match="damaged") as caught:
        await Client.connect(home=home)
    assert caught.value.code is Code.STORAGE
