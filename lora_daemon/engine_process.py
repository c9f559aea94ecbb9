"""The engine asked once, by a process of its own: torch is not imported here, and the worker has no
part in it, so a training run goes on meanwhile."""

from __future__ import annotations

import asyncio
import sys
from typing import TypeVar

import msgspec

from shared.errors import Code, Failure, LoraError

WITHIN = 600.0  # seconds
T = TypeVar("T")


async def ask(module: str, order: object, answer: type[T], what: str) -> T:
    """Run ``python -m module`` with the order in JSON on its stdin. ``what``: "The comparison".

    Raises LoraError as the process does, or WORKER_FAILED where it says nothing.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WITHIN):
            told, problem = await process.communicate(msgspec.json.encode(order))
    except TimeoutError:
        raise LoraError(
            Code.WORKER_FAILED, f"{what} was given up after {WITHIN:.0f} seconds."
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    told = told.strip().rpartition(b"\n")[2]  # before the answer, some tell how far they are
    try:
        return msgspec.json.decode(told, type=answer)
    except msgspec.DecodeError:
        pass
    try:
        failure = msgspec.json.decode(told, type=Failure)
    except msgspec.DecodeError:
        last = problem.decode(errors="replace").strip().splitlines() or ["It gave no reason."]
        raise LoraError(Code.WORKER_FAILED, f"{what} ended without an answer. {last[-1]}") from None
    raise LoraError.of(failure)
