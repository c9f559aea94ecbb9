"""``lora-tui doctor``: what is there, what is wrong, what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.status import at
from lora_tui.core import words
from lora_tui.core.cells import clean
from shared import __version__, gpu_fit, launch, paths, wire
from shared.errors import Code, Exit, LoraError

Level = Literal["ok", "warn", "bad"]
ENGINE = 'pip install "lora-tui[engine]"'
LITTLE, TOO_LITTLE = 5 * 10**9, 500 * 10**6  # bytes free on the workspace's disk
PROBE_WITHIN = 120.0  # seconds; importing torch from a cold disk is slow


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the doctor's report."""

    about: str
    level: Level
    found: str
    mend: str = ""  # what to do; empty where nothing is wrong


def add(subparsers: Subparsers) -> None:
    command(
        subparsers,
        "doctor",
        doctor,
        "what is there, what is wrong, and what to do",
        "  lora-tui doctor\n  lora-tui doctor --json | jq '.checks[] | select(.level != \"ok\")'",
    )


async def doctor(call: Invocation) -> Exit:
    checks: list[Check] = []

    def found(check: Check) -> None:
        checks.append(check)
        if not call.console.as_json:
            for line in told(check):
                print(line, flush=True)

    found(python())
    if call.remote:
        found(Check(about="daemon", level="ok", found=f"asked for at {call.endpoint}"))
    else:
        call.console.say("looking at torch and the GPU…")
        for check in installation(probe(call.home)):
            found(check)
        for check in workspace(call.home):
            found(check)
    for check in await daemon(call):
        found(check)
    for check in terminal(os.environ, tuple(shutil.get_terminal_size()), sys.stdout.encoding):
        found(check)
    worst: Level = "ok"
    for level in ("warn", "bad"):
        worst = level if any(check.level == level for check in checks) else worst
    call.console.show({"worst": worst, "checks": checks}, lambda: [])
    return Exit.FAILED if worst == "bad" else Exit.OK


def told(check: Check) -> Iterator[str]:
    """A check for people."""
    yield clean(f"{check.level:<4}  {check.about}: {check.found}")
    if check.mend:
        yield f"      → {check.mend}"


def python() -> Check:
    """The interpreter and the packages of the client."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("pyzmq", "textual"))
    found = f"{platform.python_version()}, lora-tui {__version__}, {packages}"
    return Check(about="python", level="ok", found=f"{found} ({sys.executable})")


def probe(home: Path) -> dict[str, Any] | str:
    """The facts of ``lora_daemon.engine.probe``, or why there are none."""
    command = [sys.executable, "-m", "lora_daemon.engine.probe", os.fspath(home)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        return f"torch was not imported within {PROBE_WITHIN:.0f} s"
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return last[-1] if last else f"the probe ended with {done.returncode}"
    facts: dict[str, Any] = msgspec.json.decode(done.stdout)
    return facts


def installation(facts: dict[str, Any] | str) -> Iterator[Check]:
    """Torch, the GPU, the starter and the workspace's disk, judged from the probe's facts."""
    if isinstance(facts, str):
        yield Check(about="engine", level="bad", found=facts, mend=f"Install it again: {ENGINE}")
        return
    yield engine(facts)
    if facts["packages"]["torch"] and not facts["torch_error"]:
        yield gpu(facts)
    if facts["starter_error"]:
        yield Check(about="starter", level="bad", found=facts["starter_error"])
    yield disk(facts)


def engine(facts: Mapping[str, Any]) -> Check:
    """Whether this installation can train."""
    missing = [name for name, version in facts["packages"].items() if not version]
    if "torch" in missing:
        return Check(
            about="engine", level="warn", found="not installed: this is a client only",
            mend=f"To train on this machine: {ENGINE}",
        )  # fmt: skip
    if missing:
        return Check(
            about="engine", level="bad", found=f"{', '.join(missing)} not installed", mend=ENGINE
        )
    if facts["torch_error"]:
        return Check(
            about="engine", level="bad", found=f"torch cannot be used: {facts['torch_error']}",
            mend="Install it again: pip install --force-reinstall torch",
        )  # fmt: skip
    if facts.get("torchvision_error"):
        return Check(
            about="engine", level="bad",
            found=f"torchvision {facts['torchvision']} does not fit torch "
            f"{facts['packages']['torch']}, and breaks what imports it: "
            f"{facts['torchvision_error']}",
            mend="Take it from where torch came from, or, as only some captioners need it: "
            "pip uninstall torchvision",
        )  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return Check(about="engine", level="ok", found=versions)


def gpu(facts: Mapping[str, Any]) -> Check:
    """Whether the GPU that is there can be used, and what mends it."""
    if facts["gpus"]:
        cards = "; ".join(
            f"{gpu['name']}, {words.gib(gpu['memory'])} GiB, "
            f"{'bf16' if gpu['bf16'] else 'fp16 (it has no bf16)'}"
            for gpu in facts["gpus"]
        )
        driver = f"driver {facts['driver']}, " if facts["driver"] else ""
        return Check(about="gpu", level="ok", found=f"{cards} ({driver}CUDA {facts['built_for']})")
    if not facts["cards"] and not facts["driver"]:
        return Check(about="gpu", level="ok", found="none: training runs on the CPU")
    card = ", ".join(facts["cards"]) or "a card"
    why, mend = gpu_fit.misfit(
        facts["driver"], facts["driver_cuda"], facts["built_for"],
        facts["gpu_error"] or "torch finds no device",
    ) or ("", "")  # fmt: skip
    return Check(about="gpu", level="bad", found=f"{card} cannot be used: {why}", mend=mend)


def disk(facts: Mapping[str, Any]) -> Check:
    """The disk the workspace is on."""
    found = [f"{words.size(facts['free'])} free on {facts['disk'] or 'an unknown file system'}"]
    level: Level = "ok"
    mend = []
    if facts["free"] < LITTLE:
        level = "warn"
        mend.append("Make room before a long run: `lora-tui run list` shows what each takes.")
    if facts["ephemeral_disk"]:
        level = "warn"
        found.append("gone with the machine or the container")
        mend.append("Set LORA_TUI_HOME to a disk that stays, or copy your LoRAs away in time.")
    if facts["network_disk"]:
        level = "warn"
        found.append("a network disk, slower and without WAL")
        mend.append("Set LORA_TUI_HOME to a local disk if there is one.")
    if facts["free"] < TOO_LITTLE:
        level = "bad"
    return Check(about="disk", level=level, found=": ".join(found), mend=" ".join(mend))


def workspace(home: Path) -> Iterator[Check]:
    """The directory itself, its socket and its lock."""
    there = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Check(
            about="workspace", level="bad", found=f"{there} cannot be written",
            mend="Set LORA_TUI_HOME, or give --home, to a directory of yours.",
        )  # fmt: skip
    else:
        yield Check(about="workspace", level="ok", found=str(home))
    socket = paths.socket_path(home)
    if socket.exists() and not launch.listening(socket):
        yield Check(
            about="socket", level="warn", found=f"{socket} was left by a daemon that was killed",
            mend="Nothing to do: the next daemon replaces it.",
        )  # fmt: skip


async def daemon(call: Invocation) -> list[Check]:
    """Whether a daemon answers, whether it is of our version, and what several GPUs are at."""
    try:
        async with call.client(start=False) as client:
            status = await client.call(wire.GetStatus())
    except LoraError as error:
        if error.code is Code.UNREACHABLE and not call.remote:
            if not launch.listening(paths.socket_path(call.home)):
                found = "not running; starts when needed"
                return [Check(about="daemon", level="ok", found=found)]
            mend = "`lora-tui daemon logs` may say why; `kill -9` on its pid ends it safely."
            return [Check(about="daemon", level="bad", found=error.message, mend=mend)]
        return [Check(about="daemon", level="bad", found=error.message)]
    return [answering(status), *used(status)]


def answering(status: wire.Status) -> Check:
    """Whether a daemon that answers is well."""
    found = f"{status.version}, pid {status.pid}, {len(status.runs)} runs not finished"
    if status.version != __version__:
        return Check(
            about="daemon", level="warn", found=f"{found}; this client is {__version__}",
            mend="`lora-tui daemon restart` when it suits: runs go on where they were.",
        )  # fmt: skip
    for worker in status.workers or [status.worker]:
        if worker.state == "failed":
            return Check(about="worker", level="bad", found=worker.message)
    if status.warnings:
        return Check(about="daemon", level="warn", found=f"{found}; {'; '.join(status.warnings)}")
    return Check(about="daemon", level="ok", found=found)


def used(status: wire.Status) -> Iterator[Check]:
    """What each of several GPUs is at."""
    if len(status.workers) > 1:
        said = [f"{words.gpus([worker.gpu])} {at(worker)}" for worker in status.workers]
        yield Check(about="gpus", level="ok", found=f"the daemon has {', '.join(said)}")


def terminal(
    environment: Mapping[str, str], size: tuple[int, ...], encoding: str | None
) -> Iterator[Check]:
    """Colours, characters and size, as the terminal UI will find them."""
    term = environment.get("TERM", "")
    inside = " in tmux" if environment.get("TMUX") else " in screen" if "STY" in environment else ""
    over = " over SSH" if environment.get("SSH_CONNECTION") else ""
    colours = "16 colours"
    if environment.get("NO_COLOR"):
        colours = "no colours (NO_COLOR)"
    elif environment.get("COLORTERM", "") in ("truecolor", "24bit"):
        colours = "all colours"
    elif "256color" in term:
        colours = "256 colours"
    found = f"{term or 'none'}{inside}{over}, {size[0]}×{size[1]}, {colours}"
    if not term or term == "dumb":
        yield Check(
            about="terminal", level="warn", found=f"{found}: the terminal UI cannot run here",
            mend="Use one that moves its cursor (export TERM=xterm-256color if it does).",
        )  # fmt: skip
    elif size[0] < 80 or size[1] < 24:
        yield Check(
            about="terminal", level="warn", found=found, mend="The screens want 80×24 or more."
        )
    elif colours == "256 colours" and inside == " in tmux":
        yield Check(
            about="terminal", level="ok", found=found + "; pictures look better with all colours",
            mend="In tmux.conf: set -ga terminal-features ',*:RGB'; and export COLORTERM=truecolor",
        )  # fmt: skip
    else:
        yield Check(about="terminal", level="ok", found=found)
    if (encoding or "").lower().replace("-", "") != "utf8":
        yield Check(
            about="locale", level="warn", found=f"text is {encoding}, not UTF-8",
            mend="export LANG=C.UTF-8",
        )  # fmt: skip
