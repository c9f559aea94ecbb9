"""What was measured of a base's inputs (``engine.inputs``), on the disk and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lora_daemon.engine.lora_read import raw, tensor
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

    def read(self, name: str) -> Tensor | None:
        """A module's moments, float64; None where it was not measured."""
        if name not in self.header.tensors:
            return None
        with self.path.open("rb") as file:
            data = read_tensor(file, self.header, name)
        return tensor(self.header, name, data).double()
