"""Filters over a large dataset: milliseconds until the first page of each, in the daemon.

    python -m bench.filters [--pictures 100000] [--rounds 5]

Targets at 100 000 pictures: any filter 150 ms, regular expressions 1 s. The rows are made up in a
store of their own (warm file cache); each round makes a new view, as a new filter would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from lora_daemon.bases import Bases
from lora_daemon.caption_facts import CaptionLore
from lora_daemon.catalog import Catalog
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from lora_daemon.store import Store
from lora_daemon.thumbnails import Thumbnails
from lora_daemon.tokens import Tokens
from lora_daemon.views import Views
from shared import wire
from shared.filters import FIELDS
from shared.paths import Workspace

FILTERS = (
    "word12", "solo", "word12 OR word13 OR NOT solo", "tag:dragon", "tag:solo", "tag:dra*",
    "tag:s?lo", "tag:äpfel", "caption:äpfel", "caption:*word1*word2*", "name:0001", "path:*9.png",
    "edited-by:ana", 'tag:solo AND (tokens:>30 OR ratio:1.5..2) NOT (state:edited OR "word7")',
    *(field.example for field in FIELDS.values()),
    "caption:/dra.on/", "tag:/^word1.$/", r"caption:/\bword1\w+\b.*castle/", "tag:w*d77",
)  # fmt: skip


def fill(store: Store, pictures: int) -> None:
    """One dataset; ten tags each, of two thousand."""
    chance = random.Random(1)
    words = [f"word{n}" for n in range(2000)] + ["dragon", "castle", "ÄPFEL", "龍の絵"]
    rows = [
        (
            f"i{n}", f"folder {n % 10}/{n:06}.png", f"{n:064x}", chance.choice([400, 512, 1024]),
            chance.choice([400, 512, 768]), ", ".join(["solo", *chance.sample(words, 9)]),
            chance.choice(wire.CAPTION_STATES), chance.choice(["import", "ana", "bob"]),
        )
        for n in range(pictures)
    ]  # fmt: skip
    with store.change("bench") as change:
        change.execute("INSERT INTO datasets VALUES ('d1', 'bench', '/bench', 0)")
        change.execute("INSERT INTO checks VALUES ('d1', 512, 'dragon', 0, '[]')")
        change.executemany(
            "INSERT INTO items (id, dataset, name, content, width, height, size, mtime, problem,"
            " text, state, rev, source, by, at)"
            " VALUES (?, 'd1', ?, ?, ?, ?, 50000, 1, '', ?, ?, 1, 'file', ?, 0)",
            rows,
        )


class Nobody:
    """Nobody is attached."""

    def publish(self, value: wire.AnyLive) -> None: ...


async def filled(home: Path, pictures: int) -> tuple[Store, Views]:
    """A large dataset ``d1``, its tokens counted, and what lists it."""
    workspace = Workspace(home)
    store = Store(workspace.database)
    fill(store, pictures)
    catalog, daemon = Catalog(store), Daemon(workspace, store, Nobody())
    bases = Bases(daemon, Jobs(daemon.hub))
    library = Library(daemon, bases, Thumbnails(daemon, catalog))
    await library.start()
    tokens = Tokens(store, library)
    began = time.perf_counter()
    await tokens.complete("d1")
    print(json.dumps({"tokens counted": pictures, "s": round(time.perf_counter() - began, 2)}))
    return store, Views(store, catalog, tokens, CaptionLore(store))


NOBODY = Context(by="bench", key="", progress=lambda *_: None)


async def measure(home: Path, pictures: int, rounds: int) -> None:
    store, views = await filled(home, pictures)
    for text in FILTERS:
        first, page, used = list[float](), list[float](), list[float]()
        for _ in range(rounds):
            ask = wire.ListItems(dataset="d1", filter=text)
            began, cpu = time.perf_counter(), sum(os.times()[:4])
            answer = await views.list_items(NOBODY, ask)
            first.append(time.perf_counter() - began)
            used.append(sum(os.times()[:4]) - cpu)
            began = time.perf_counter()
            last = max(answer.total - 200, 0)
            more = wire.msgspec.structs.replace(ask, view=answer.view, offset=last)
            await views.list_items(NOBODY, more)
            page.append(time.perf_counter() - began)
        print(
            json.dumps(
                {
                    "filter": text,
                    "found": answer.total,
                    "median_ms": round(sorted(first)[rounds // 2] * 1000),
                    "cpu_ms": round(sum(used) / rounds * 1000),
                    "max_ms": round(max(first) * 1000),
                    "page_max_ms": round(max(page) * 1000),
                    "load": os.getloadavg()[0],
                },
                ensure_ascii=False,
            )
        )
    store.close()


def run(said: str, measure: Callable[[Path, int, int], Coroutine[None, None, None]]) -> None:
    """A benchmark from the command line, in a folder of its own."""
    parser = argparse.ArgumentParser(description=said)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), arguments.pictures, arguments.rounds))


if __name__ == "__main__":
    run(__doc__ or "", measure)
