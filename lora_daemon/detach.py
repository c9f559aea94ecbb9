"""Leave the terminal: a new session that no log-out reaches, and word back once it is ready."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

Tell = Callable[[int, str], None]


def detach() -> Tell:
    """Go on in a new session; the calling process waits for word from it and then exits.

    Returns, in the daemon, the function that ends that wait: with an exit status and a text for
    the caller's stderr. A daemon that dies first is reported as well. Call it before anything
    starts a thread: this forks.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        _wait(child, reading)
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)  # so that the daemon is no session leader and never gets a terminal again
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)

    def tell(status: int, text: str) -> None:
        nonlocal writing
        if writing >= 0:
            with contextlib.suppress(OSError):  # the caller may have been killed meanwhile
                os.write(writing, bytes([status]) + text.encode("utf-8", "replace")[:4000])
            os.close(writing)
            writing = -1

    return tell


def redirect_output(path: Path) -> None:
    """Send what is written to stdout and stderr (crashes, libraries) to ``path``, begun anew."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _wait(child: int, reading: int) -> None:
    """In the calling process: relay the daemon's word and exit with its status."""
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        word = pipe.read()
    status, text = (word[0], word[1:].decode("utf-8")) if word else (1, "It ended without a word.")
    if text:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    os._exit(status)
