"""The health check: pictures measured in a second, near duplicates found, filters answered.

    python -m bench.health [--pictures 2000] [--rows 100000] [--rounds 5]

Targets: 100 pictures/s on two cores (512 px JPEGs of at least 30 kB, each another; they are written
just before, so the file cache is warm), any filter 150 ms at 100 000 rows. The near duplicates are
searched among random hashes with pairs planted up to 7 bits apart; ``found`` counts those.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.filters import Nobody, fill
from bench.pictures import write
from lora_daemon.domain import Domain
from lora_daemon.near import groups
from lora_daemon.service import Context, Daemon, Handlers
from lora_daemon.store import Store
from shared import wire
from shared.filters import DUPLICATES, ISSUES
from shared.paths import Workspace

PLANTED = 1000  # pairs
CONTEXT = Context(by="bench", key="", progress=lambda *_: None)


async def rate(home: Path, pictures: int) -> None:
    """A folder imported, then checked, by the handlers of a daemon."""
    folder = home / "pictures"
    smallest = write(folder, pictures)
    workspace = Workspace(home / "workspace")
    workspace.root.mkdir()
    store, handlers = Store(workspace.database), Handlers()
    domain = Domain(Daemon(workspace, store, Nobody()), handlers)
    took, used = list[float](), list[float]()
    for ask in (wire.ImportDataset(path=str(folder), name="d"), wire.CheckHealth(dataset="d")):
        began, cpu = time.perf_counter(), sum(os.times()[:4])
        await handlers[type(ask)](CONTEXT, ask)
        took.append(time.perf_counter() - began)
        used.append(sum(os.times()[:4]) - cpu)
    row = {
        "pictures": pictures,
        "smallest_kB": smallest // 1000,
        "import_per_s": round(pictures / took[0]),
        "check_per_s": round(pictures / took[1]),
        "both_per_s": round(pictures / sum(took)),
        "check_cpu_ms_each": round(used[1] / pictures * 1000, 1),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(row), flush=True)
    await domain.close(now=True)
    store.close()


def planted(rows: int) -> None:
    """Near duplicates among ``rows`` hashes."""
    chance = np.random.default_rng(1)
    hashes = chance.integers(0, 2**64, rows, np.uint64)
    colours = chance.integers(0, 256, (rows, 48), np.uint8)
    pairs = set()
    for one in range(PLANTED):
        other = rows - 1 - one
        flips = chance.choice(64, chance.integers(0, 8), replace=False).astype(np.uint64)
        hashes[other] = hashes[one] ^ np.bitwise_xor.reduce(np.uint64(1) << flips, initial=0)
        colours[other] = colours[one]
        pairs.add((one, other))
    began, cpu = time.perf_counter(), time.process_time()
    found = {(group[0], group[1]) for group in groups(hashes, colours)}
    row = {
        "hashes": rows,
        "planted": PLANTED,
        "found": len(found & pairs),
        "others": len(found - pairs),
        "s": round(time.perf_counter() - began, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
    }
    print(json.dumps(row), flush=True)


def measured(store: Store, rows: int) -> None:
    """Facts of every row of ``fill``, one in twenty near another, one in fifty there twice."""
    chance = random.Random(2)
    with store.change("bench") as change:
        change.execute("UPDATE checks SET at = 1")
        change.execute("UPDATE items SET content = printf('%064x', rowid - 2) WHERE rowid % 50 = 0")
        change.executemany(
            "INSERT INTO facts VALUES (?, ?, '', ?, x'00')",
            [(f"{n:064x}", chance.randrange(64), chance.getrandbits(62)) for n in range(rows)],
        )
        change.executemany(
            "INSERT INTO near VALUES ('d1', ?, ?)",
            [(f"{n:064x}", n // 40) for n in range(rows) if n % 40 < 2],
        )


async def filters(home: Path, rows: int, rounds: int) -> None:
    """Milliseconds until the first page of each filter, and of the whole report."""
    workspace = Workspace(home)
    store, handlers = Store(workspace.database), Handlers()
    fill(store, rows)
    measured(store, rows)
    domain = Domain(Daemon(workspace, store, Nobody()), handlers)
    await domain._library.start()
    asked: list[wire.ListItems | wire.GetHealth] = [wire.GetHealth(dataset="d1")]
    asked += [wire.ListItems(dataset="d1", filter=f"issue:{name}") for name in ISSUES]
    asked += [wire.ListItems(dataset="d1", filter=f"dup:{name}") for name in DUPLICATES]
    for ask in asked:
        took, used, found = list[float](), list[float](), 0
        for number in range(rounds + 1):
            began, cpu = time.perf_counter(), sum(os.times()[:4])
            answer = await handlers[type(ask)](CONTEXT, ask)
            if number:  # the first finds out what all captions have together, and keeps it
                took.append(time.perf_counter() - began)
                used.append(sum(os.times()[:4]) - cpu)
            elif isinstance(ask, wire.GetHealth):
                print(json.dumps({"first_report_s": round(time.perf_counter() - began, 2)}))
            found = answer.total if isinstance(answer, wire.Items) else answer.health.pictures
        row = {
            "asked": ask.filter if isinstance(ask, wire.ListItems) else "the report",
            "found": found,
            "median_ms": round(sorted(took)[rounds // 2] * 1000),
            "cpu_ms": round(sum(used) / rounds * 1000),
            "max_ms": round(max(took) * 1000),
            "load": os.getloadavg()[0],
        }
        print(json.dumps(row), flush=True)
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    planted(arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows").mkdir()
        asyncio.run(filters(Path(folder) / "rows", arguments.rows, arguments.rounds))
        asyncio.run(rate(Path(folder) / "files", arguments.pictures))


if __name__ == "__main__":
    main()
