"""A client to be killed: it edits captions and logs what was acknowledged, or imports a folder.

``victim.py edit HOME DATASET LOG FIRST``: the n-th edit sets the text "edit n"; once the daemon
has answered, "n item" goes to LOG, on the disk before the next edit.
``victim.py import HOME PATH`` imports a folder.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
from pathlib import Path

from shared import wire
from shared.client import Client
from shared.errors import Code, LoraError


async def edit(home: Path, dataset: str, log: Path, first: int) -> None:
    dice = random.Random(first)
    async with await Client.connect(home=home, name="editor") as client:
        items = (await client.call(wire.ListItems(dataset=dataset))).items
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in itertools.count(first):
            item = dice.choice(items).id
            try:
                now = await client.call(wire.GetItem(dataset=dataset, item=item))
                change = wire.ChangeCaption(
                    dataset=dataset, item=item, if_rev=now.caption.rev, text=f"edit {number}"
                )
                await client.call(change)
            except LoraError as error:
                if error.code not in (Code.UNREACHABLE, Code.CONFLICT):
                    raise
                await asyncio.sleep(0.2)  # not acknowledged, so not logged; the daemon comes back
                continue
            os.write(descriptor, f"{number} {item}\n".encode())
            os.fsync(descriptor)


async def take_in(home: Path, path: str) -> None:
    async with await Client.connect(home=home, name="importer") as client:
        await client.call(wire.ImportDataset(path=path))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["edit", home, dataset, log, first]:
            asyncio.run(edit(Path(home), dataset, Path(log), int(first)))
        case ["import", home, path]:
            asyncio.run(take_in(Path(home), path))
