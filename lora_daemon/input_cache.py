"""Where what was measured of a base's inputs is kept, by the state of all that decides it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shared.filenames import typed
from shared.files import keep_latest
from shared.wire import BaseModel

KEPT = 24  # measurements; the oldest go


def stamps(path: Path) -> list[tuple[str, int, int]]:
    """What tells one state of a base or a LoRA from another, without reading it."""
    found = []
    for file in [path, *sorted(path.glob("*/*"))]:
        with contextlib.suppress(OSError):
            status = file.stat()
            found.append((os.fspath(file), status.st_size, status.st_mtime_ns))
    return found


def place(
    cache: Path, base: BaseModel, loras: Sequence[Path]
) -> tuple[Path, list[Path], list[int]]:
    """The file for these LoRAs on this base, the LoRAs in the order in which they are measured,
    and for each of ``loras`` its place among those."""
    distinct = sorted(set(loras))
    decides = (stamps(Path(typed(base.path))), base.objective, [stamps(one) for one in distinct])
    name = hashlib.sha256(msgspec.json.encode(decides)).hexdigest()
    path = cache / "inputs" / f"{name}.safetensors"
    return path, distinct, [distinct.index(one) for one in loras]


def prune(cache: Path) -> None:
    """Let the oldest measurements go."""
    keep_latest(KEPT, (cache / "inputs").glob("*.safetensors"))
