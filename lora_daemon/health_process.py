"""Pictures measured and compared in a process of its own: a decoder that crashes on a hostile file
takes nobody with it, and the work can be ended at once.

``python -m lora_daemon.health_process measure`` reads orders, each a line of JSON with contents
and paths, and answers with a line for each picture. ``… group DATABASE DATASET`` writes the groups
of near duplicates that the dataset has.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lora_daemon.near import groups
from lora_daemon.picture_facts import Unmeasured, measure
from lora_daemon.picture_measures import Measured, Order
from shared.filenames import from_text

NICE = 10  # a training or a person at the keyboard goes first


def serve() -> None:
    """Measure what stdin asks for until it ends."""
    for line in sys.stdin.buffer:
        for content, path in msgspec.json.decode(line, type=Order):
            try:
                done = Measured(content, measure(Path(from_text(path)), content))
            except Unmeasured as error:
                done = Measured(content, problem=str(error))
            sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
            sys.stdout.buffer.flush()


def group(database: str, dataset: str) -> list[list[str]]:
    """Contents that look nearly the same, the largest picture first in each group."""
    with contextlib.closing(sqlite3.connect(database, uri=True)) as connection:
        rows = connection.execute(
            "SELECT f.content, f.hash, f.colours FROM facts f JOIN"
            " (SELECT content, max(width * height) AS pixels, max(size) AS size FROM items"
            "  WHERE dataset = ? AND problem = '' GROUP BY content) i ON i.content = f.content"
            " WHERE f.hash IS NOT NULL ORDER BY i.pixels DESC, i.size DESC, f.content",
            (dataset,),
        ).fetchall()
    if not rows:
        return []
    hashes = np.array([row[1] for row in rows], np.int64).view(np.uint64)
    colours = np.frombuffer(b"".join(row[2] for row in rows), np.uint8).reshape(len(rows), -1)
    return [[rows[place][0] for place in found] for found in groups(hashes, colours)]


def main(arguments: Sequence[str]) -> None:
    os.nice(NICE)
    if arguments[0] == "measure":
        serve()
    else:
        sys.stdout.buffer.write(msgspec.json.encode(group(*arguments[1:])))


if __name__ == "__main__":
    main(sys.argv[1:])
