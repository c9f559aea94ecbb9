"""LoRAs compared on request, by a process of its own: files are read, no base is run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec.structs import replace

from lora_daemon import engine_process, input_cache
from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from shared import conflicts, wire
from shared.conflicts import Compared, Conflict, ConflictOrder
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.pictures import LoraUse

FEW = 8  # LoRAs up to which each module is told


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
                f"Comparing takes 2 to {conflicts.MOST} LoRAs that count in the mix, not "
                f"{len(request.loras)}.",
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
            module = "lora_daemon.engine.conflict"
            found = await engine_process.ask(module, order, Conflict, "The comparison")
            return wire.LorasCompared(found=found)

    def _compared(self, use: LoraUse) -> Compared:
        name, path = self._library.lora(use.lora)
        return Compared(path=to_text(path), use=replace(use, lora=name))
