"""LoRAs compared on request, by a process of its own: files are read, and torch is not imported
here. The base and the worker have no part in it, so a training run goes on meanwhile."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
from msgspec.structs import replace

from lora_daemon import input_cache
from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from shared import conflicts, wire
from shared.conflicts import Compared, Conflict, ConflictOrder
from shared.errors import Code, Failure, LoraError
from shared.filenames import to_text, typed
from shared.pictures import LoraUse

FEW = 8  # LoRAs up to which each module is told
WITHIN = 600.0  # seconds
_told = msgspec.json.Decoder(Conflict).decode


class Comparing:
    """Answers CompareLoras, one comparison after the other: each takes every core."""

    def __init__(self, daemon: Daemon, library: Library) -> None:
        self._cache = daemon.workspace.cache
        self._library = library
        self._turn = asyncio.Lock()

    async def compare(self, context: Context, request: wire.CompareLoras) -> wire.LorasCompared:
        """Raises LoraError: NOT_FOUND, INVALID_FILE, STORAGE, BAD_REQUEST, WORKER_FAILED."""
        if not 2 <= len(request.loras) <= conflicts.MOST:
            raise LoraError(
                Code.BAD_REQUEST,
                f"{len(request.loras)} LoRAs cannot be compared: it takes 2 to {conflicts.MOST} "
                "that count in the mix.",
            )
        if request.modules and len(request.loras) > FEW:
            raise LoraError(
                Code.BAD_REQUEST, f"Module by module at most {FEW} LoRAs can be compared at once."
            )
        loras = [self._compared(use) for use in request.loras]
        order = ConflictOrder(loras=loras, modules=request.modules)
        if request.base:
            base = await self._library.base(request.base)
            files = [Path(typed(one.path)) for one in loras]
            path, _, places = await asyncio.to_thread(input_cache.place, self._cache, base, files)
            order = replace(order, base=base.path)
            if path.exists():
                order = replace(order, inputs=to_text(path), order=places)
        async with self._turn:
            return wire.LorasCompared(found=await _worked_out(order))

    def _compared(self, use: LoraUse) -> Compared:
        name, path = self._library.lora(use.lora)
        return Compared(path=to_text(path), use=replace(use, lora=name))


async def _worked_out(order: ConflictOrder) -> Conflict:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lora_daemon.engine.conflict",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WITHIN):
            answer, problem = await process.communicate(msgspec.json.encode(order))
    except TimeoutError:
        raise LoraError(
            Code.WORKER_FAILED, f"The comparison was given up after {WITHIN:.0f} seconds."
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        return _told(answer)
    except msgspec.DecodeError:
        pass
    try:
        failure = msgspec.json.decode(answer, type=Failure)
    except msgspec.DecodeError:
        last = problem.decode(errors="replace").strip().splitlines() or ["It gave no reason."]
        raise LoraError(
            Code.WORKER_FAILED, f"The comparison ended without an answer. {last[-1]}"
        ) from None
    raise LoraError.of(failure)
