"""A download in a process of its own, because one cannot be interrupted within a process.

Such a module takes its order, a line of JSON, on stdin, where a token is in no process list, and
ends when stdin does. On stdout come lines of ``Advance``, at last one ``Fetched`` or ``Failed``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from lora_daemon.jobs import Jobs
from lora_daemon.service import Context
from shared.errors import Code, Failure, LoraError
from shared.filenames import typed
from shared.wire import FromAddress, Objective

T = TypeVar("T")
Progress = Callable[[int, int, str], None]  # bytes fetched, of how many, what is being fetched


class AddressOrder(msgspec.Struct, frozen=True):
    """What ``lora_daemon.by_address`` is to fetch."""

    wanted: FromAddress
    folder: str  # the workspace's models
    predicts: Objective | None = None  # what somebody said of the base


class Advance(msgspec.Struct, frozen=True, tag="advance"):
    done: int  # bytes
    total: int
    file: str


class Fetched(msgspec.Struct, frozen=True, tag="fetched"):
    path: str  # of the folder, or of the one file, as shared.filenames has it
    origin: str  # "owner/name@commit", or an address
    passed_over: list[str] = []  # other files that would have done


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    failure: Failure


_told = msgspec.json.Decoder(Advance | Fetched | Failed)


async def fetch(module: str, order: msgspec.Struct, progress: Progress) -> Fetched:
    """What ``module`` fetches for an order. Raises LoraError as it says, and WORKER_FAILED;
    cancelled, it gives up, and goes on from there the next time."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert process.stdin and process.stdout and process.stderr
    complaints = asyncio.create_task(process.stderr.read())
    try:
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        async for line in process.stdout:
            match _told.decode(line):
                case Advance(done, total, file):
                    progress(done, total, file)
                case Fetched() as fetched:
                    return fetched
                case Failed(failure):
                    raise LoraError.of(failure)
        last = (await complaints).decode("utf-8", "replace").strip().splitlines()
        raise LoraError(
            Code.WORKER_FAILED, f"The download ended without a word. {last[-1] if last else ''}"
        )
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await asyncio.gather(complaints, return_exceptions=True)


async def job(
    jobs: Jobs, context: Context, title: str, module: str, order: msgspec.Struct
) -> tuple[Path, Fetched]:
    """Where what was ordered lies: fetched as a job that everybody sees. Raises as ``fetch``."""
    with jobs.open("download", title) as name:

        def progress(done: int, total: int, message: str) -> None:
            jobs.progress(name, done, total, message)
            context.progress(done, total, message)

        fetched = await fetch(module, order, progress)
        path = Path(typed(fetched.path))
        jobs.end(name, "done", path.name)
    return path, fetched


def ordered(kind: type[T]) -> T:
    """What this process is to fetch; it ends with the daemon that said so, however that ends."""
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_daemon, daemon=True).start()
    return msgspec.json.decode(line, type=kind)


def _end_with_daemon() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def tell(message: msgspec.Struct) -> None:
    """Say it to who started this process."""
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()
