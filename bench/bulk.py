"""A bulk edit of a large dataset: seconds for its preview, its apply and its undo, in the daemon.

    python -m bench.bulk [--pictures 100000] [--rounds 3]

Target at 100 000 pictures: 5 s each to durable. The rows are made up in a store of their own (warm
file cache) whose pictures are nowhere, so nothing is written beside them. ``longest_read_ms``: what
a read had to wait meanwhile, asked for all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.filters import Nobody, fill
from lora_daemon.domain import Domain
from lora_daemon.service import Context, Daemon, Handlers
from lora_daemon.store import Store
from shared import wire
from shared.edits import AddTag, RenameTag, ReplaceRegex, Underscores
from shared.paths import Workspace

EDITS = {
    "add-tag": wire.PreviewEdit(dataset="d1", edits=[AddTag("new tag")]),
    "four edits and a state": wire.PreviewEdit(
        dataset="d1",
        edits=[
            RenameTag("dragon", "wyvern"),
            ReplaceRegex(r"word(\d+)", r"thing_\1"),
            Underscores(),
            AddTag("another"),
        ],
        state="accepted",
    ),
    "remove, of a filter": wire.PreviewEdit(
        dataset="d1", edits=[RenameTag("wyvern", "dragon")], filter="tag:wyvern"
    ),
}
R = TypeVar("R")


@dataclass
class Time:
    """Seconds by the clock and of processors, and of the longest read meanwhile."""

    seconds: float
    cpu: float
    longest: float


async def timed(work: Awaitable[R], handlers: Handlers) -> tuple[R, Time]:
    """The answer, and what it took."""
    longest = 0.0

    async def read() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await handlers[wire.GetItem](CONTEXT, wire.GetItem(dataset="d1", item="i7"))
            await asyncio.sleep(0.02)
            longest = max(longest, time.perf_counter() - began - 0.02)

    reading = asyncio.create_task(read())
    began, used = time.perf_counter(), sum(os.times()[:4])
    answer = await work
    seconds, cpu = time.perf_counter() - began, sum(os.times()[:4]) - used
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    return answer, Time(round(seconds, 2), round(cpu, 2), longest)


CONTEXT = Context(by="bench", key="", progress=lambda *_: None)


async def measure(home: Path, pictures: int, rounds: int) -> None:
    workspace = Workspace(home)
    store = Store(workspace.database)
    fill(store, pictures)
    with store.change("bench") as change:
        change.execute("INSERT INTO revisions SELECT id, rev, text, state, source, by, at, 0"
                       " FROM items")  # fmt: skip
    handlers = Handlers()
    Domain(Daemon(workspace, store, Nobody()), handlers)
    undo = wire.UndoCaption(dataset="d1")
    for name, ask in EDITS.items():
        for _ in range(rounds):
            preview, first = await timed(handlers[wire.PreviewEdit](CONTEXT, ask), handlers)
            apply = wire.ApplyEdit(preview=preview.preview)
            done, second = await timed(handlers[wire.ApplyEdit](CONTEXT, apply), handlers)
            _, third = await timed(handlers[wire.UndoCaption](CONTEXT, undo), handlers)
            row: dict[str, str | float] = {"edit": name, "changed": done.changed}
            for what, took in (("preview", first), ("apply", second), ("undo", third)):
                row |= {f"{what}_s": took.seconds, f"{what}_cpu_s": took.cpu}
            longest = max(first.longest, second.longest, third.longest)
            row["longest_read_ms"] = round(longest * 1000)
            row["load"] = os.getloadavg()[0]
            print(json.dumps(row), flush=True)
        await handlers[wire.UndoCaption](CONTEXT, wire.UndoCaption(dataset="d1", redo=True))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"max_rss_MB": memory // 1024}))
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), arguments.pictures, arguments.rounds))


if __name__ == "__main__":
    main()
