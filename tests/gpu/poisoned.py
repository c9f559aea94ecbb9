"""A worker whose device fails in a step, once: ``python -m tests.gpu.poisoned --fd N``.

``POISON_MARK``: a file that is made when it has happened; with it there, a worker like any other.
Without a GPU it raises what a GPU would.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from lora_daemon.engine import worker
from lora_daemon.engine.session import Session

STEP = 20  # the step in which it happens
_steps = Session.steps


def _failing(self: Session) -> Iterator[int]:
    mark = Path(os.environ["POISON_MARK"])
    for step in _steps(self):
        if step == STEP and not mark.exists():
            self.save_state()
            mark.touch()
            if not torch.cuda.is_available():
                raise RuntimeError("CUDA error: device-side assert triggered")
            outside = torch.full((1,), 1 << 20, device="cuda")
            torch.zeros(4, device="cuda")[outside] += 1  # the device asserts that it is inside
        yield step


if __name__ == "__main__":
    Session.steps = _failing  # type: ignore[method-assign]
    worker.main()
