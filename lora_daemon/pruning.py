"""Room on a full disk: what can be made again goes, and what nobody needs to recover a run.

First latents that no run at work or waiting uses, the longest unused first, then what was measured
of bases' inputs, then resume states but for the newest of each run. LoRA files, samples, captions
and datasets are never touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from lora_daemon.runs import Runs
from lora_daemon.service import Daemon
from shared import wire
from shared.errors import LoraError
from shared.safetensors_file import read_header

log = logging.getLogger(__name__)


class _Used(msgspec.Struct):
    key: str
    more: list[str] = []  # of its other versions


class _Choice(msgspec.Struct):
    """What matters here of a run's ``pictures.json``."""

    used: list[_Used]


class Freed(msgspec.Struct, frozen=True):
    """How many files went, and their bytes."""

    latents: int = 0
    inputs: int = 0
    states: int = 0
    size: int = 0

    def __str__(self) -> str:
        counted = [
            f"{number} {what}{'' if number == 1 else 's'}"
            for number, what in (
                (self.latents, "cached latents file"), (self.inputs, "measured inputs file"),
                (self.states, "older resume state"),
            )
            if number
        ]  # fmt: skip
        return f"{', '.join(counted)} ({self.size / 2**20:.1f} MiB)"


class Pruner:
    """Makes room in a workspace."""

    def __init__(self, daemon: Daemon, runs: Runs) -> None:
        self._workspace = daemon.workspace
        self._runs = runs
        self._working = asyncio.Lock()

    async def make_room(self, needed: int) -> Freed:
        """Free the workspace's disk up to ``needed`` bytes, as far as it can be."""
        live = [run for run in self._runs.all() if run.state not in wire.FINAL_STATES]
        async with self._working:
            freed = await asyncio.to_thread(
                prune, self._workspace.cache, self._workspace.runs, live, needed
            )
        if freed.size:
            log.warning("the disk was full: removed %s", freed)
        return freed


def prune(cache: Path, runs: Path, live: Collection[wire.Run], needed: int) -> Freed:
    """Remove what can be spared until ``needed`` bytes are free. ``live``: runs at work or waiting;
    their latents stay, and so do all of their states."""
    counts = dict.fromkeys(("latents", "inputs", "states"), 0)
    size = 0
    names = {run.id for run in live}
    spared = [
        ("latents", _unused(cache / "latents", runs, live)),
        ("inputs", _oldest((cache / "inputs").glob("*.safetensors"))),
        ("states", _older_states(runs, names)),
    ]  # fmt: skip
    for what, paths in spared:
        for path in paths:
            if shutil.disk_usage(runs).free >= needed:
                break
            with contextlib.suppress(OSError):
                one = path.stat().st_size
                path.unlink()
                size += one
                counts[what] += 1
    return Freed(**counts, size=size)


def _unused(latents: Path, runs: Path, live: Collection[wire.Run]) -> list[Path]:
    """Entries that no live run uses, the longest unused first."""
    used: set[str] = set()
    since = float("inf")  # a run that has not settled its pictures yet is caching them
    for run in live:
        try:
            text = (runs / run.id / "pictures.json").read_bytes()
            for one in msgspec.json.decode(text, type=_Choice).used:
                used |= {one.key, *one.more}
        except (OSError, msgspec.MsgspecError):
            since = min(since, run.started or float("inf"))
    return [
        path
        for path in _oldest(latents.glob("*/*.safetensors"))
        if path.stem not in used and _touched(path) < since
    ]


def _older_states(runs: Path, live: Collection[str]) -> Iterator[Path]:
    """States behind the newest one of each run that is over, where that one is whole."""
    for folder in sorted(runs.glob("r*/state")):
        if folder.parent.name in live:
            continue  # its worker sees to them
        newest, *older = sorted(folder.glob("step*.safetensors"), reverse=True) or [folder]
        try:
            read_header(newest)
        except (LoraError, OSError):
            continue
        yield from older


def _oldest(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=_touched)


def _touched(path: Path) -> float:
    with contextlib.suppress(OSError):
        status = path.stat()
        return max(status.st_mtime, status.st_atime)
    return 0.0
