"""Orders of a large dataset and the strip of its states: milliseconds in the daemon.

    python -m bench.sorting [--pictures 100000] [--rounds 5]

Target at 100 000 pictures: 150 ms, as for a filter. Each round makes a new list.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from bench.filters import Nobody, fill
from lora_daemon.bases import Bases
from lora_daemon.catalog import Catalog
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from lora_daemon.store import Store
from lora_daemon.thumbnails import Thumbnails
from lora_daemon.tokens import Tokens
from lora_daemon.views import Views
from shared import wire
from shared.paths import Workspace


async def measure(home: Path, pictures: int, rounds: int) -> None:
    workspace = Workspace(home)
    store = Store(workspace.database)
    fill(store, pictures)
    catalog, daemon = Catalog(store), Daemon(workspace, store, Nobody())
    bases = Bases(daemon, Jobs(daemon.hub))
    library = Library(daemon, bases, Thumbnails(daemon, catalog))
    await library.start()
    tokens = Tokens(store, library)
    await tokens.complete("d1")
    views = Views(store, catalog, tokens)
    context = Context(by="bench", key="", progress=lambda *_: None)
    for by in wire.SORTS:
        first, at, strip = list[float](), list[float](), list[float]()
        for number in range(rounds):
            sort = wire.Sort(by=by, descending=bool(number % 2))
            began = time.perf_counter()
            answer = await views.list_items(context, wire.ListItems(dataset="d1", sort=sort))
            first.append(time.perf_counter() - began)
            ask = wire.ListItems(
                dataset="d1", sort=sort, view=answer.view, at=f"i{pictures - 1}", offset=500
            )
            began = time.perf_counter()
            await views.list_items(context, ask)
            at.append(time.perf_counter() - began)
            count = wire.CountStates(dataset="d1", sort=sort, view=answer.view, parts=120)
            began = time.perf_counter()
            await views.count_states(context, count)
            strip.append(time.perf_counter() - began)
        print(
            json.dumps(
                {
                    "sort": by,
                    "median_ms": round(sorted(first)[rounds // 2] * 1000),
                    "max_ms": round(max(first) * 1000),
                    "page_at_max_ms": round(max(at) * 1000),
                    "strip_median_ms": round(sorted(strip)[rounds // 2] * 1000),
                }
            ),
            flush=True,
        )
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), arguments.pictures, arguments.rounds))


if __name__ == "__main__":
    main()
