"""Start the daemon on demand: connect, else lock, look again, spawn, and wait for its word."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

from shared import paths
from shared.errors import Code, Exit, LoraError


def listening(socket_file: Path) -> bool:
    """Whether a process listens on this Unix socket (a killed one leaves its file behind)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(socket_file))
        except BlockingIOError:
            return True  # its backlog is full: somebody is there, and busy
        except OSError:
            return False
    return True


async def ensure(workspace: Path, timeout: float = 30) -> None:  # noqa: ASYNC109
    """Return once a daemon listens on ``workspace``; start it if there is none.

    However many clients do this at once, one daemon starts. Raises LoraError: what the daemon
    said when it could not start, UNREACHABLE when the engine is not installed here or the daemon
    gives no word within ``timeout`` seconds.
    """
    if listening(paths.socket_path(workspace)):
        return
    needs_engine(workspace)
    lock = _spawn_lock(workspace)
    try:
        await _lock(lock)
        async with asyncio.timeout(timeout):
            while not listening(paths.socket_path(workspace)):
                if not await _spawn(workspace):
                    await _holder_moves(workspace)
    except TimeoutError:
        raise LoraError(
            Code.UNREACHABLE,
            f"The daemon of {workspace} was started but is not ready after {timeout:.0f} s. Its "
            f"log: {paths.Workspace(workspace).log}",
            retryable=True,
        ) from None
    finally:
        os.close(lock)


async def wait_gone(pid: int, timeout: float) -> bool:  # noqa: ASYNC109
    """Whether process ``pid`` has ended within ``timeout`` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:  # an old kernel or a strict container: no event to be had
        return await _poll_gone(pid, timeout)
    try:
        return await asyncio.to_thread(_readable, handle, timeout)
    finally:
        os.close(handle)


def needs_engine(workspace: Path) -> None:
    """Raise LoraError(UNREACHABLE) if this installation cannot run a daemon."""
    missing = [name for name in ("lora_daemon", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise LoraError(
            Code.UNREACHABLE,
            f"No daemon runs on {workspace}, and this installation is a client only "
            f"(no {' nor '.join(missing)}). Install the engine here: pip install "
            '"lora-tui[engine]", or '
            "attach to another machine: ssh -L /tmp/lora.sock:REMOTE_SOCKET HOST, then "
            "--endpoint ipc:///tmp/lora.sock.",
        )


def _spawn_lock(workspace: Path) -> int:
    try:
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = paths.private(workspace / "run") / "spawn.lock"
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LoraError.storage("use the workspace", workspace, error) from None


def _readable(handle: int, timeout: float) -> bool:
    return bool(select.select([handle], [], [], timeout)[0])


async def _lock(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)


async def _spawn(workspace: Path) -> bool:
    """Start the daemon and wait until it is ready; False if another one has the workspace."""
    command = [sys.executable, "-m", "lora_daemon", "--detach", "--home", os.fspath(workspace)]
    # In a thread: who gives up waiting leaves it to itself, and the daemon gets ready all the same.
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        check=False,
    )
    status = done.returncode
    if status in (Exit.OK, Exit.CONFLICT):
        return status == Exit.OK
    text = done.stderr.decode("utf-8", "replace").strip().removeprefix("lora-daemon: ")
    code = Code.STORAGE if status == Exit.STORAGE else Code.UNREACHABLE
    raise LoraError(code, f"The daemon could not start. {text or f'It ended with {status}.'}")


async def _holder_moves(workspace: Path) -> None:
    """Wait for the daemon that has the lock to end, or a moment for it to listen.

    It is about to leave, or was started by hand and is about to be ready.
    """
    try:
        holder = int(paths.Workspace(workspace).lock.read_text())
    except (OSError, ValueError):
        holder = 0
    if holder:
        await wait_gone(holder, 0.1)
    else:
        await asyncio.sleep(0.1)


async def _poll_gone(pid: int, timeout: float) -> bool:  # noqa: ASYNC109
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while loop.time() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        await asyncio.sleep(0.05)
    return False
