"""The engine worker as a process: begun at first need, read from, noticed when it dies, ended.

What its death means for a run is the scheduler's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_daemon import pipe
from shared import wire
from shared.errors import Code, LoraError

log = logging.getLogger(__name__)

NICENESS = 5  # the daemon answers even while every core computes
OOM_SCORE = 500  # short of memory, the kernel takes the worker before the daemon
LOG_BYTES = 4 * 1024 * 1024
END_PATIENCE = 10.0  # seconds a worker has to leave once its pipe is closed
IDLE = float(os.environ.get("LORA_TUI_WORKER_IDLE", "600"))  # seconds; gives the memory back


@dataclass(frozen=True)
class Death:
    """The worker is gone. ``reason`` is a sentence. ``meant``: it was told to leave."""

    pid: int
    reason: str
    meant: bool = False


Event = pipe.Report | Death


class Supervisor:
    """One worker at a time. Its reports, and its death, are put in order into ``events``.

    ``environment``: what is otherwise there than in the daemon's. ``log``: what the worker says.
    """

    def __init__(
        self, events: asyncio.Queue[Event], log: Path, environment: Mapping[str, str]
    ) -> None:  # fmt: skip
        self._log = log
        self._environment = environment
        self._events = events
        self.ready: pipe.Ready | None = None
        self.memory: pipe.Memory | None = None
        self.failure = ""  # why it died last, until one is ready again
        self.changed: Callable[[], None] = lambda: None
        self.heard: Callable[[pipe.Report], None] = lambda _: None  # each report, as it comes
        self.sent: Callable[[pipe.Command], None] = lambda _: None  # each command that is asked
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._ending = False
        self._given_up = ""  # why it was ended, where it hung

    @property
    def pid(self) -> int:
        """Of the running worker; 0 without one."""
        return self._process.pid if self._process else 0

    def worker(self) -> wire.Worker:
        """What is known of it; busy or not is for others to say."""
        if self._process is None:
            return wire.Worker(state="failed" if self.failure else "absent", message=self.failure)
        if self.ready is None:
            return wire.Worker(state="starting", pid=self.pid)
        ready = self.ready
        return wire.Worker(
            state="idle",
            pid=ready.pid,
            device=ready.device,
            device_name=ready.device_name,
            precision=ready.precision,
            torch=ready.torch,
        )

    async def send(self, command: pipe.Command) -> int:
        """Give the worker a command, beginning one if there is none; returns its pid.

        Raises LoraError(WORKER_FAILED) if it cannot be begun. A worker that dies of the command
        says so by a Death.
        """
        self.awake()
        async with self._starting:
            if self._ending and self._reading is not None:
                await asyncio.wait([self._reading])
            if self._process is None:
                await self._begin()
        assert self._writer is not None
        self._writer.write(pipe.frame(command))
        self.sent(command)
        return self.pid

    def tell(self, command: pipe.Command) -> None:
        """Give a command to the worker that runs; nothing without one."""
        if self._writer is not None and not self._ending:
            self._writer.write(pipe.frame(command))

    def rest(self) -> None:
        """Nothing to do: the worker ends in ``IDLE`` seconds unless something comes."""
        if self._process is not None and self._resting is None:
            loop = asyncio.get_running_loop()
            self._resting = loop.call_later(IDLE, self._hang_up)

    def awake(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    async def end(self, *, now: bool = False) -> None:
        """Close the pipe and wait until the worker is gone; ``now``: kill it."""
        self.awake()
        async with self._starting:  # one that is being begun is ended, too
            if self._process is None or self._reading is None:
                return
            self._hang_up()
        if now:
            self.kill()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([self._reading])

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def give_up(self, why: str) -> None:
        """Kill a worker that hangs; ``why`` is told as the reason of its death."""
        self._given_up = why
        self.kill()
        if self._writer is not None:
            self._writer.close()  # where even that does not end it, it is left alone

    def _hang_up(self) -> None:
        self._ending = True
        if self._writer is not None:
            self._writer.close()

    async def _begin(self) -> None:
        if importlib.util.find_spec("torch") is None:
            raise LoraError(
                Code.WORKER_FAILED,
                "The engine is not installed here, so nothing can be trained or painted: "
                'pip install "lora-tui[engine]".',
            )
        ours, theirs = socket.socketpair()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        with theirs, self._log.open("ab") as output:
            begin = output.tell()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *_command(),
                    "--fd",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **self._environment},
                )
            except OSError as error:
                ours.close()
                raise LoraError(
                    Code.WORKER_FAILED, f"The engine worker could not be begun: {error}.",
                    retryable=True,
                ) from None  # fmt: skip
        self._ending, self.ready, self.memory, self._given_up = False, None, None, ""
        _make_humble(self._process.pid)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        log.info("worker %d begun", self._process.pid)
        self.changed()
        self._reading = asyncio.create_task(self._read(self._process, reader, begin))

    async def _read(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, begin: int
    ) -> None:
        why = ""
        try:
            while True:
                length = pipe.frame_length(await reader.readexactly(4))
                report = pipe.report_decoder.decode(await reader.readexactly(length))
                if isinstance(report, pipe.Ready):
                    self.ready, self.failure = report, ""
                elif isinstance(report, pipe.Memory):
                    self.memory = report
                self.heard(report)
                self._events.put_nowait(report)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:
            why = f"it said something that makes no sense ({error})"
            process.kill()
        try:
            async with asyncio.timeout(END_PATIENCE):
                status = await process.wait()
        except TimeoutError:
            process.kill()
            status = await _ended(process)
        assert self._writer is not None
        self._writer.close()
        reason = f"The engine worker ended: {self._given_up or why or _in_words(status)}."
        if not self._ending and (last := _last_lines(self._log, begin)):
            reason += f" Its last words: {last}"
        log.log(logging.INFO if self._ending else logging.WARNING, "worker %d: %s", process.pid,
                reason)  # fmt: skip
        self.failure = "" if self._ending else reason
        self._process = self._writer = self.ready = self.memory = None
        self.awake()
        self._events.put_nowait(Death(process.pid, reason, self._ending))


async def _ended(process: asyncio.subprocess.Process) -> int:
    """The exit status of a killed process; -SIGKILL also where the kernel cannot end it yet, as
    when it waits for a driver or a network disk for good."""
    try:
        async with asyncio.timeout(END_PATIENCE):
            return await process.wait()
    except TimeoutError:
        log.warning("worker %d was killed and does not end; it is left to the kernel", process.pid)
        return -signal.SIGKILL


def _command() -> list[str]:
    return [sys.executable, "-m", "lora_daemon.engine.worker"]


def _make_humble(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))


def _in_words(status: int) -> str:
    if status == -signal.SIGKILL:
        return "killed by signal 9 (the kernel may have run out of memory)"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by signal {-status} ({signal.Signals(-status).name})"
        return f"killed by signal {-status}"
    return f"exit status {status}"


def _last_lines(path: Path, begin: int, lines: int = 3) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(begin, path.stat().st_size - 8192))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    spoken = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(spoken[-lines:])
