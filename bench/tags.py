"""Tags of a large dataset: milliseconds to the first answer, to one after an edit, to a look-up.

    python -m bench.tags [--pictures 100000] [--rounds 20]

The rows are made up in a store of their own (warm file cache), ten tags a picture of two thousand.
The next place that passes a filter, and the candidates of one picture, are asked for as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.filters import Nobody, fill
from lora_daemon.domain import Domain
from lora_daemon.service import Context, Daemon, Handlers
from lora_daemon.store import Store
from shared import wire
from shared.paths import Workspace


async def measure(home: Path, pictures: int, rounds: int) -> None:
    workspace = Workspace(home)
    store = Store(workspace.database)
    fill(store, pictures)
    with store.change("bench") as change:
        change.execute(
            "INSERT INTO revisions SELECT id, rev, text, state, source, by, at, 0 FROM items"
        )
    handlers = Handlers()
    Domain(Daemon(workspace, store, Nobody()), handlers)
    context = Context(by="bench", key="", progress=lambda *_: None)
    slowest = 0.0  # that the daemon's loop stood still meanwhile

    async def ask(request: wire.Request[Any]) -> Any:
        return await handlers[type(request)](context, request)

    async def watch() -> None:
        nonlocal slowest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            slowest = max(slowest, time.perf_counter() - began - 0.001)

    async def edit(number: int) -> None:
        item = await ask(wire.GetItem(dataset="d1", item=f"i{number}"))
        rev, text = item.caption.rev, f"{item.caption.text}, new{number}"
        await ask(wire.ChangeCaption(dataset="d1", item=item.id, if_rev=rev, text=text))

    async def timed(
        what: str,
        asked: Callable[[], Awaitable[object]],
        before: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        nonlocal slowest
        taken, slowest = list[float](), 0.0
        for number in range(rounds if what != "first" else 1):
            if before is not None:
                await before(number)
            began = time.perf_counter()
            await asked()
            taken.append((time.perf_counter() - began) * 1000)
        taken.sort()
        print(
            json.dumps(
                {
                    "what": what,
                    "median_ms": round(taken[len(taken) // 2], 2),
                    "max_ms": round(taken[-1], 2),
                    "loop_stood_ms": round(slowest * 1000, 1),
                }
            )
        )

    def like(text: str) -> Callable[[], Awaitable[object]]:
        return lambda: ask(wire.GetTags(dataset="d1", like=text, limit=8))

    def find(wanted: str) -> Callable[[], Awaitable[object]]:
        return lambda: ask(wire.FindPlace(dataset="d1", wanted=wanted, after=pictures // 2))

    watching = asyncio.create_task(watch())
    await timed("first", like("wo"))
    await timed("look-up", like("word19"))
    await timed("look-up of nothing", like("nowhere"))
    await timed("look-up after an edit", like("word19"), before=edit)
    await timed("next unreviewed", find("state:unreviewed"))
    await timed("next with an issue", find("issue:any"))
    await timed("candidates", lambda: ask(wire.GetCandidates(dataset="d1", item="i7")))
    watching.cancel()
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), arguments.pictures, arguments.rounds))


if __name__ == "__main__":
    main()
