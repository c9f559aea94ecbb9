"""The engine worker: ``python -m lora_daemon.engine.worker --fd N``, one process a device.

It does what comes through the pipe, one thing after the other, and ends when the pipe closes. It
does not mind SIGINT and SIGTERM, which reach a whole terminal or control group: the daemon gets
them too, and says what shall be saved.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from functools import partial

import torch

from lora_daemon.engine import device as devices
from lora_daemon.engine.bases import best_device, best_precision
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from lora_daemon.pipe import (
    Cancel,
    Command,
    Describe,
    Gather,
    Measure,
    Paint,
    Probe,
    Ready,
    Recognise,
    Report,
    Steer,
    Train,
    Weigh,
    Zip,
    command_decoder,
    frame,
    received,
)

POISONED = 70  # exit status when the device can no longer be used
PIPE_BROKEN = 71  # exit status when what comes through the pipe makes no sense


class Pipe:
    """The worker's end of the pipe: a thread reads, any thread may tell."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._telling = threading.Lock()
        self._arrived: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._put_off: list[Command] = []
        self._cancelled: set[str] = set()
        self._leaving: set[str] = set()

    def tell(self, report: Report) -> None:
        """Send a report. Ends the process if nobody is there to hear it."""
        try:
            with self._telling:
                self._socket.sendall(frame(report))
        except OSError:
            os._exit(0)

    def take(self, wait: float | None) -> Command | None:
        try:
            command = self._arrived.get(block=wait != 0.0, timeout=wait)
        except queue.Empty:
            return None
        if isinstance(command, Steer) and command.action == "suspend":
            self._leaving.discard(command.run)
        return command

    def put_off(self, command: Command) -> None:
        self._put_off.append(command)

    def next(self) -> Command:
        """The next command between two runs, those put off first."""
        if self._put_off:
            return self._put_off.pop(0)
        command = self.take(None)
        assert command is not None
        return command

    def leaving(self, run: str) -> bool:
        return run in self._leaving

    def cancelled(self, job: str) -> bool:
        """Whether a job is to be given up: it was cancelled, or a run must be left."""
        return job in self._cancelled or bool(self._leaving)

    def listen(self) -> None:
        """Read until the pipe closes, then end the process at once, whatever it is doing: the
        daemon is gone, and what a run needs to go on is on the disk."""
        try:
            while True:
                self._arrive(command_decoder.decode(received(self._socket)))
        except (EOFError, OSError):
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(PIPE_BROKEN)

    def _arrive(self, command: Command) -> None:
        match command:
            case Cancel():
                self._cancelled.add(command.job)
                return
            case Steer(action="suspend"):
                self._leaving.add(command.run)
        self._arrived.put(command)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="lora_daemon.engine.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the pipe's socket")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pipe = Pipe(parser.parse_args(arguments).fd)
    threading.Thread(target=pipe.listen, name="pipe", daemon=True).start()
    device = best_device()
    threads = devices.use_threads()
    devices.settle()
    pipe.tell(
        Ready(
            pid=os.getpid(),
            torch=str(torch.__version__),
            device=str(device),
            device_name=devices.name(device),
            device_uuid=devices.uuid(device),
            precision=best_precision(device),
            threads=threads,
        )
    )
    threading.Thread(target=_tell_memory, args=(pipe, device), name="memory", daemon=True).start()
    studio = Studio(device, pipe.tell, pipe.cancelled)
    try:
        while True:
            match pipe.next():
                case Train() as order:
                    run(order, studio, pipe, pipe.tell)
                case (
                    Paint() | Probe() | Gather() | Measure() | Zip() | Weigh() | Recognise() as job
                ):
                    load = partial(studio.base, job.base_path, predicts=job.base_predicts)
                    studio.serve(job, load)
                case Describe() as job:
                    studio.describe(job)
                case _:
                    pass  # for a run that is over
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(POISONED)  # not an orderly exit: a poisoned device may hang in it


def _tell_memory(pipe: Pipe, device: torch.device) -> None:
    tick = threading.Event()
    while not tick.wait(1.0):
        pipe.tell(devices.memory(device))


if __name__ == "__main__":
    main()
