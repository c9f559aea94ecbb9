"""Work that needs torch, in a process of its own: an order on its stdin, lines of JSON from it."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from lora_tui.commands.common import Invocation
from shared.errors import Code, Failure, LoraError

T = TypeVar("T")

LONGEST_LINE = 1 << 24  # bytes; an answer may name every module


async def told(module: str, order: object, take: Callable[[Any], T | None], failed: str) -> T:
    """Run ``python -m module`` until ``take`` makes an answer of a line, and end it.

    Raises LoraError(WORKER_FAILED) with ``failed`` and the process's last words if it ends before.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=LONGEST_LINE
    )
    assert process.stdin and process.stdout and process.stderr
    complaints = asyncio.create_task(process.stderr.read())
    try:
        process.stdin.write(msgspec.json.encode(order))
        process.stdin.close()
        async for line in process.stdout:
            if (answer := take(msgspec.json.decode(line))) is not None:
                return answer
        last = (await complaints).decode("utf-8", "replace").strip().splitlines()
        raise LoraError(Code.WORKER_FAILED, f"{failed} {last[-1] if last else ''}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await asyncio.gather(complaints, return_exceptions=True)


async def engine(call: Invocation, name: str, order: object, answer: type[T]) -> T:
    """Let the engine's process ``name`` do it, its progress shown. Raises LoraError."""

    def take(told: dict[str, Any]) -> T | None:
        match told.get("type"):
            case "advance":
                call.report(told["done"], told["total"], "modules")
                return None
            case None:
                raise LoraError.of(msgspec.convert(told, Failure))
            case _:
                return msgspec.convert(told, answer)

    module = f"lora_daemon.engine.{name}"
    return await told(module, order, take, "The engine ended without a file.")
