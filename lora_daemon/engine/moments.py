"""What was measured of a base's inputs (``engine.inputs``), on the disk and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lora_daemon.engine.lora_read import raw, tensor
from shared.lora_keys import wrong
from shared.safetensors_file import read_header, read_tensor, write

CHANCE = 8  # random rows of each module


@dataclass(frozen=True)
class Moments:
    """E[(Ax)(Ax)ᵀ] per module by its dotted path, (CHANCE + Σr, CHANCE + Σr), float32; A is the
    random rows, then each LoRA's in their order. ``left_out``: modules that are too wide."""

    modules: dict[str, Tensor]
    left_out: list[str]


def save(path: Path, moments: Moments) -> None:
    """Publish. Raises LoraError(STORAGE)."""
    tensors = {name: raw(mean) for name, mean in moments.modules.items()}
    write(path, tensors, {"left_out": json.dumps(moments.left_out)})


class Reader:
    """Moments on the disk, a module at a time. Raises LoraError: NOT_FOUND, INVALID_FILE."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)

    def of(self, name: str, ranks: Sequence[tuple[int, int]]) -> Tensor | None:
        """A module's moments for LoRAs as the caller has them, float64; None where it was not
        measured. ``ranks``: of each its place among those measured, and its rank there."""
        found = self.read(name)
        if found is None:
            return None
        at, begin = {}, CHANCE
        for place, rank in sorted(set(ranks)):
            at[place] = range(begin, begin + rank)
            begin += rank
        if found.shape != (begin, begin):
            raise wrong(self.path, f"does not fit {name}: delete it, and measure again")
        rows = [*range(CHANCE), *(row for place, _ in ranks for row in at[place])]
        return found[rows][:, rows]

    def read(self, name: str) -> Tensor | None:
        """All of a module's moments as they were measured."""
        if name not in self.header.tensors:
            return None
        with self.path.open("rb") as file:
            data = read_tensor(file, self.header, name)
        return tensor(self.header, name, data).double()
