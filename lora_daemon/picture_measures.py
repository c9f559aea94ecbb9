"""Many pictures given to processes that measure them (health_process.py), two at a time."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from shared.errors import Code, LoraError

PROCESS = "lora_daemon.health_process"  # not imported here: it needs numpy, and much memory
PROCESSES = 2
ORDER = 16  # pictures that a process is given at once
LONGEST = 60.0  # seconds that one picture may take
DEATHS = 5  # in a row, until it is not the pictures that are to blame


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured; the fields are those of the table ``facts``."""

    looks: int  # a bit for each of shared.health.LOOKS
    profile: str  # of its colours where they are not sRGB's
    hash: int | None  # perceptual, 64 bits, signed as SQLite has it; None: nothing is to be seen
    colours: bytes  # 4 × 4 pixels, RGB


class Measured(msgspec.Struct):
    """What became of one picture. Without ``facts``, ``problem`` says why, after its name."""

    content: str
    facts: Facts | None = None
    problem: str = ""


Order = list[tuple[str, str]]  # content, path as shared.filenames has it
_measured = msgspec.json.Decoder(Measured)


async def measure(pictures: Order, take: Callable[[Measured], Awaitable[None]]) -> None:
    """Have ``pictures`` (content, path) measured; ``take`` is given what became of each.

    One that its decoder crashes on, or does not come to an end with, is told as a problem. Raises
    LoraError(WORKER_FAILED) if the processes die whatever they are given; cancelled, it ends them.
    """
    left = deque(pictures)
    several = min(PROCESSES, -(-len(pictures) // ORDER))
    tasks = [asyncio.create_task(_Measurer(left, take).run()) for _ in range(several)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Measurer:
    """One process after the other, until nothing is left."""

    def __init__(
        self, left: deque[tuple[str, str]], take: Callable[[Measured], Awaitable[None]]
    ) -> None:
        self._left = left
        self._take = take
        self._deaths = 0

    async def run(self) -> None:
        while self._left:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", PROCESS, "measure",
                stdin=PIPE, stdout=PIPE, stderr=DEVNULL,
            )  # fmt: skip
            try:
                await self._order(process)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def _order(self, process: Process) -> None:
        """Give it pictures until there are no more, or it dies."""
        assert process.stdin is not None and process.stdout is not None
        while self._left:
            order = [self._left.popleft() for _ in range(min(ORDER, len(self._left)))]
            with contextlib.suppress(ConnectionError):
                process.stdin.write(msgspec.json.encode(order) + b"\n")
                await process.stdin.drain()
            for place, (content, _) in enumerate(order):
                try:
                    async with asyncio.timeout(LONGEST):
                        line = await process.stdout.readline()
                except TimeoutError:
                    line = b""
                if not line.endswith(b"\n"):
                    self._left.extendleft(reversed(order[place + 1 :]))
                    await self._died(process, content)
                    return
                self._deaths = 0
                await self._take(_measured.decode(line))

    async def _died(self, process: Process, content: str) -> None:
        why = "crashed what was to read it"
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1)
        if process.returncode is None:
            why = f"was not read within {LONGEST:.0f} seconds"
        self._deaths += 1
        if self._deaths >= DEATHS:
            raise LoraError(
                Code.WORKER_FAILED,
                "Pictures cannot be measured: the process that is to do it ends at once, "
                f"{self._deaths} times in a row. lora-tui doctor says what is missing.",
            )
        await self._take(Measured(content, problem=why))
