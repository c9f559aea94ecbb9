"""``metrics.csv``: the whole loss series of a run, cut back to the state it resumes from."""

from __future__ import annotations

import os
from pathlib import Path

from lora_daemon.pipe import Point
from shared.errors import LoraError


class Metrics:
    """One row an optimiser step."""

    HEAD = "step,loss,learning_rate,grad_norm,time\n"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0  # of what is known to be whole
        self._waiting = ""

    def cut_back(self, step: int) -> None:
        """Keep the rows up to ``step``. Raises LoraError(STORAGE)."""
        try:
            text = self.path.read_text(errors="replace") if self.path.exists() else ""
            kept = [self.HEAD]
            for number, line in enumerate(text.splitlines(keepends=True)[1 : step + 1], 1):
                if not line.startswith(f"{number},") or not line.endswith("\n"):
                    break
                kept.append(line)
            content = "".join(kept).encode()
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.write(content)
                file.truncate()
            self._size = len(content)
        except OSError as error:
            raise LoraError.storage("write", self.path, error) from None

    def add(self, point: Point) -> None:
        self._waiting += (
            f"{point.step},{point.loss:.9g},{point.learning_rate:.9g},{point.grad_norm:.9g},"
            f"{point.time:.3f}\n"
        )

    def flush(self, *, durable: bool = False) -> None:
        """Write what waits, over whatever a full disk tore before. Raises LoraError(STORAGE)."""
        content = self._waiting.encode()
        try:
            with self.path.open("r+b") as file:
                file.seek(self._size)
                file.write(content)
                file.truncate()
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise LoraError.storage("write", self.path, error) from None
        self._size += len(content)
        self._waiting = ""
