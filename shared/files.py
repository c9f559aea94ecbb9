"""Publish a file so that a reader, or a crash, sees the old one or the new one and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from shared.errors import LoraError


def publish(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Write to a temporary file, fsync, rename to ``path``, fsync the directory.

    Not ``durable``, it is without the fsyncs.

    Raises LoraError(STORAGE); then ``path`` is as it was and no temporary file is left.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise LoraError.storage("write", path, error) from None


def keep_latest(number: int, paths: Iterable[Path]) -> None:
    """Let the oldest of these files and folders go, but for so many. What cannot go stays."""
    with contextlib.suppress(OSError):
        for path in sorted(paths, key=lambda one: one.stat().st_mtime)[:-number]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` durable. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
