"""``lora-tui daemon``: start it, stop it, ask how it is, read its log."""

from __future__ import annotations

import os
import subprocess
import sys

from lora_tui.commands.common import Invocation, Subparsers, command, noun
from lora_tui.commands.status import told
from shared import launch, paths, wire
from shared.errors import Code, Exit, LoraError

LEAVES_WITHIN = 180.0  # seconds for a run to reach its step boundary and save its state


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "daemon", "the daemon of this workspace")
    begin = command(
        verbs, "start", start, "start it, if it does not run; every command does so by itself"
    )
    stop = command(
        verbs, "stop", stop_it, "stop it; a run saves its state and goes on at the next start"
    )
    stop.add_argument("--now", action="store_true", help="do not wait for the step boundary")
    restart = command(verbs, "restart", restart_it, "stop it and start it again")
    restart.add_argument("--now", action="store_true", help="do not wait for the step boundary")
    for one in (begin, restart):
        one.add_argument(
            "--gpus", default="", metavar="0,1",
            help="use these GPUs only: numbers of nvidia-smi, UUIDs or MIG devices (LORA_TUI_GPUS)",
        )  # fmt: skip
    command(verbs, "status", status, "how it is; the same as `lora-tui status`")
    logs = command(verbs, "logs", logs_of_it, "print the end of its log, whether it runs or not")
    logs.add_argument("-n", "--lines", type=int, default=200, help="so many lines (200)")


async def start(call: Invocation) -> Exit:
    if call.args.gpus and (call.remote or launch.listening(paths.socket_path(call.home))):
        raise LoraError(
            Code.WRONG_STATE,
            "The daemon runs already, and keeps its GPUs for life: `lora-tui daemon restart --gpus "
            f"{call.args.gpus}` on its machine. Runs go on where they were.",
        )
    if not call.remote:
        if call.args.gpus:
            os.environ["LORA_TUI_GPUS"] = call.args.gpus  # which the daemon inherits
        await launch.ensure(call.home)
    return await status(call)


async def stop_it(call: Invocation) -> Exit:
    pid = await _stop(call)
    call.console.show({"stopped": pid}, lambda: [f"The daemon (pid {pid}) has ended."])
    return Exit.OK


async def restart_it(call: Invocation) -> Exit:
    if call.remote:
        raise LoraError(
            Code.BAD_REQUEST, "A daemon elsewhere can be stopped from here but not started."
        )
    if launch.listening(paths.socket_path(call.home)):
        _check(call.args.gpus)
        await _stop(call)
    return await start(call)


async def status(call: Invocation) -> Exit:
    async with call.client(start=False) as client:
        answer = await client.call(wire.GetStatus())
    call.console.show(answer, lambda: told(answer))
    return Exit.OK


async def logs_of_it(call: Invocation) -> Exit:
    if call.remote or launch.listening(paths.socket_path(call.home)):
        async with call.client(start=False) as client:
            lines = (await client.call(wire.GetLog(lines=call.args.lines))).lines
    else:
        log = paths.Workspace(call.home).log
        try:
            lines = log.read_text("utf-8", "replace").splitlines()[-call.args.lines :]
        except FileNotFoundError:
            raise LoraError(
                Code.NOT_FOUND, f"No daemon has run on {call.home} yet: there is no {log}."
            ) from None
        except OSError as error:
            raise LoraError.storage("read", log, error) from None
    call.console.show({"lines": lines}, lambda: lines)
    return Exit.OK


def _check(gpus: str) -> None:
    """Raise LoraError(BAD_REQUEST) if a daemon could not have these GPUs: before one is stopped."""
    if not gpus:
        return
    command = [sys.executable, "-m", "lora_daemon.gpus", gpus]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoraError(Code.BAD_REQUEST, f"The daemon goes on as it is. {done.stderr.strip()}")


async def _stop(call: Invocation) -> int:
    """Ask it to leave and wait until it has; its pid. Raises LoraError."""
    async with call.client(start=False) as client:
        pid = (await client.call(wire.GetStatus())).pid
        await client.call(wire.Stop(now=call.args.now))
    if not call.remote and not await launch.wait_gone(pid, LEAVES_WITHIN):
        raise LoraError(
            Code.BUSY,
            f"The daemon (pid {pid}) is still there after {LEAVES_WITHIN:.0f} s. "
            "`lora-tui daemon stop --now` does not wait for the step boundary.",
        )
    return pid
