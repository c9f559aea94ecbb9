"""Each picture's loss in the last run that saw it, for the filter ``loss:``."""

from __future__ import annotations

import contextlib
import csv
import json
from collections import defaultdict
from pathlib import Path

import msgspec

from lora_daemon.pipe import Freeze
from lora_daemon.store import Store

BINS = 20  # of timesteps
TIMESTEPS = 1000


def losses_of(run_dir: Path) -> dict[str, float]:
    """The loss of each picture of a run, by item, over the second half of its steps.

    A step's loss says more about its timestep than about its picture. So each is taken relative to
    the mean of all pictures' losses at timesteps near to its own; a picture's loss is the mean of
    these, times the mean of all. Empty where the run has left no series.
    """
    try:
        freeze = msgspec.json.decode((run_dir / "freeze.json").read_bytes(), type=Freeze)
        used = json.loads((run_dir / "pictures.json").read_bytes())["used"]
        mine = [one["index"] for one in used if one["index"] < len(freeze.pictures)]
        items = [freeze.pictures[index].item for index in mine]  # those for regularisation follow
        rows = _rows(run_dir / "losses.csv")
    except (OSError, msgspec.MsgspecError, ValueError, KeyError, IndexError, TypeError):
        return {}
    if not rows:
        return {}
    last = rows[-1][0]
    late = [row for row in rows if row[0] > last // 2 and row[1] < len(items)]
    by_bin: dict[int, list[float]] = defaultdict(list)
    for _, _, timestep, loss in late:
        by_bin[timestep * BINS // TIMESTEPS].append(loss)
    expected = {place: sum(found) / len(found) for place, found in by_bin.items()}
    shares: dict[str, list[float]] = defaultdict(list)
    for _, picture, timestep, loss in late:
        if mean := expected[timestep * BINS // TIMESTEPS]:
            shares[items[picture]].append(loss / mean)
    whole = sum(row[3] for row in late) / len(late)
    return {item: whole * sum(found) / len(found) for item, found in shares.items()}


def _rows(path: Path) -> list[tuple[int, int, int, float]]:
    """(step, picture, timestep, loss); a torn last line is not read."""
    rows = []
    with path.open(newline="", errors="replace") as file:
        for row in csv.reader(line for line in file if line.endswith("\n")):
            with contextlib.suppress(ValueError):
                step, picture, timestep, loss = row
                rows.append((int(step), int(picture), int(timestep), float(loss)))
    return rows


def keep(store: Store, run: str, losses: dict[str, float]) -> None:
    """Put them in the database, in place of what earlier runs left. Raises LoraError(STORAGE)."""
    ranked = sorted(losses, key=lambda item: losses[item])
    last = max(1, len(ranked) - 1)
    with store.change("engine") as change:
        change.executemany(
            "INSERT OR REPLACE INTO losses (item, run, loss, percentile)"
            " SELECT id, ?, ?, ? FROM items WHERE id = ?",  # it may have been taken out meanwhile
            [(run, losses[item], 100 * place / last, item) for place, item in enumerate(ranked)],
        )
