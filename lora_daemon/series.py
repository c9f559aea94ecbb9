"""A run's ``metrics.csv`` as it is read; ``engine.metrics`` writes it."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path

from lora_daemon.pipe import Point


def points(path: Path) -> Iterator[Point]:
    """Its rows. A torn last line, which a kill may leave, is not read. Raises OSError."""
    with path.open(newline="", errors="replace") as file:
        for row in csv.reader(line for line in file if line.endswith("\n")):
            with contextlib.suppress(ValueError, IndexError):
                step, loss, rate, norm, at = row
                yield Point(int(step), float(loss), float(rate), float(norm), float(at))
