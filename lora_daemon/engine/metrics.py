"""The series a run leaves behind, cut back to the state it resumes from: ``metrics.csv``, one row
an optimiser step, and ``losses.csv``, one row a picture seen."""

from __future__ import annotations

import os
from pathlib import Path

from lora_daemon.pipe import Point
from shared.errors import LoraError


class Table:
    """A CSV file whose rows begin with the step, in order of the steps."""

    def __init__(self, path: Path, head: str) -> None:
        self.path = path
        self.head = head
        self._size = 0  # of what is known to be whole
        self._waiting = ""

    def cut_back(self, step: int) -> None:
        """Keep the rows up to ``step``. Raises LoraError(STORAGE)."""
        try:
            text = self.path.read_text(errors="replace") if self.path.exists() else ""
            content = (self.head + "".join(self._whole(text, step))).encode()
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.write(content)
                file.truncate()
            self._size = len(content)
        except OSError as error:
            raise LoraError.storage("write", self.path, error) from None

    def _whole(self, text: str, step: int) -> list[str]:
        """The rows up to ``step``, as far as they follow one another."""
        kept: list[str] = []
        last = 0
        for line in text.splitlines(keepends=True)[1:]:
            number = line.partition(",")[0]
            if not number.isdecimal() or not line.endswith("\n"):
                break
            if not last <= int(number) <= min(last + 1, step):
                break
            last = int(number)
            kept.append(line)
        return kept

    def add(self, row: str) -> None:
        self._waiting += f"{row}\n"

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


class Metrics:
    """Both tables of a run."""

    def __init__(self, run_dir: Path) -> None:
        self._steps = Table(run_dir / "metrics.csv", "step,loss,learning_rate,grad_norm,time\n")
        self._pictures = Table(run_dir / "losses.csv", "step,picture,timestep,loss\n")

    def cut_back(self, step: int) -> None:
        """Keep the rows up to ``step``. Raises LoraError(STORAGE)."""
        self._steps.cut_back(step)
        self._pictures.cut_back(step)

    def add(self, point: Point) -> None:
        self._steps.add(
            f"{point.step},{point.loss:.9g},{point.learning_rate:.9g},{point.grad_norm:.9g},"
            f"{point.time:.3f}"
        )

    def saw(self, step: int, picture: int, timestep: int, loss: float) -> None:
        """``picture``: its place in ``pictures.json``. ``loss``: its mean squared error, without
        the weights of the recipe's own loss."""
        self._pictures.add(f"{step},{picture},{timestep},{loss:.6g}")

    def flush(self, *, durable: bool = False) -> None:
        """Write what waits. Raises LoraError(STORAGE)."""
        self._steps.flush(durable=durable)
        self._pictures.flush(durable=durable)
