"""Captions over the wire on a real daemon: reading p50 and p99, changing (durable) p99.

    python -m bench.wire [--pictures 800] [--calls 2000] [--training BASE]

Targets while training: read p50 0.5 ms, p99 5 ms; durable change p99 25 ms. ``--training`` starts a
run first (on "starter", or on the folder of a base) and measures beside it. The fsync of this disk
is measured along with it: no durable change can be quicker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

from PIL import Image

from shared import launch, wire
from shared.client import Client

RECIPE = """
[base]
name = "{base}"
[dataset]
name = "bench"
[training]
epochs = 100000
[save]
every_epochs = 0
[sample]
every_epochs = 0
"""


def folder_of(pictures: int, folder: Path) -> Path:
    """A folder of small pictures with captions."""
    folder.mkdir()
    for number in range(pictures):
        colour = (number % 256, number // 256, 99)
        Image.new("RGB", (128, 128), colour).save(folder / f"{number:04}.png")
        (folder / f"{number:04}.txt").write_text(f"a drawing of thing {number}, plain background")
    return folder


def fsyncs(folder: Path, count: int) -> list[float]:
    """Seconds of an appending write and its fsync on this disk."""
    times = []
    with (folder / "fsync").open("wb", 0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(b"x" * 8192)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return times


def figures(times: list[float]) -> dict[str, float]:
    """Milliseconds."""
    times = sorted(times)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    found = {name: times[int(part * (len(times) - 1))] for name, part in at.items()}
    return {name: round(value * 1000, 3) for name, value in (found | {"max": times[-1]}).items()}


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    home = folder / "home"
    result: dict[str, object] = {"pictures": arguments.pictures, "training": arguments.training}
    async with await Client.connect(home=home, name="bench") as client:
        pid = (await client.call(wire.GetStatus())).pid
        try:
            pictures = folder_of(arguments.pictures, folder / "bench")
            done = await client.call(wire.ImportDataset(path=str(pictures)))
            ask = wire.ListItems(dataset=done.dataset.id, limit=arguments.pictures)
            items = (await client.call(ask)).items
            if arguments.training:
                await training(client, arguments.training)
            result |= await timed(client, items, arguments.calls)
            result["fsync_ms"] = figures(fsyncs(folder, 300))
        finally:
            await client.call(wire.Stop(now=True))
    await launch.wait_gone(pid, 60)
    return result


async def training(client: Client, base: str) -> None:
    """Start a run and wait until it makes steps."""
    async with await Client.connect(client.endpoint, subscribe=True) as watcher:
        run = await client.call(wire.StartRun(recipe=RECIPE.format(base=base)))
        async for _ in watcher.notices():
            now = next((r for r in watcher.state.runs if r.id == run.id), run)
            if now.state in wire.FINAL_STATES:
                raise SystemExit(f"the run is {now.state}: {now.message}")
            if now.phase == "training":
                return


async def timed(client: Client, items: list[wire.Item], calls: int) -> dict[str, object]:
    reads, changes = [], []
    for number in range(calls):
        item = items[number * 7919 % len(items)]
        began = time.perf_counter()
        await client.call(wire.GetItem(dataset=item.dataset, item=item.id))
        reads.append(time.perf_counter() - began)
    for number, item in enumerate(items[: calls // 2]):
        request = wire.ChangeCaption(
            dataset=item.dataset, item=item.id, if_rev=item.caption.rev, text=f"edited {number}"
        )
        began = time.perf_counter()
        await client.call(request)
        changes.append(time.perf_counter() - began)
    return {"read_ms": figures(reads), "change_ms": figures(changes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=800)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--training", metavar="BASE", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(arguments, Path(folder)))))


if __name__ == "__main__":
    main()
