"""What is left of files that were being published when a worker was killed."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


def sweep(folder: Path, older: float = 0.0) -> None:
    """Remove the temporary files of ``shared.files.publish`` in ``folder`` that are ``older`` than
    so many seconds: nobody may still be writing them."""
    with contextlib.suppress(OSError):
        for left in folder.glob(".*.*.*"):  # a dot, a name with its suffix, a random end
            if time.time() - left.stat().st_mtime >= older:
                left.unlink()
