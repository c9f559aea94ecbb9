"""The long things the daemon does besides runs, as every client sees them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from lora_daemon.service import Hub
from shared import wire
from shared.errors import LoraError

KEPT = 20  # ended jobs that the status still lists
PUBLISH_EVERY = 0.1  # seconds
_OPEN = ("running", "paused")


class Jobs:
    """Registry of jobs; every change is published live, progress at most ten times a second."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._jobs: dict[str, wire.Job] = {}
        self._published: dict[str, float] = {}
        self._numbers = itertools.count(1)

    def begin(self, kind: wire.JobKind, title: str, total: int = 0, dataset: str = "") -> str:
        """Open a job and return its id."""
        job = f"j{next(self._numbers)}"
        self._put(
            wire.Job(
                id=job,
                kind=kind,
                title=title,
                state="running",
                done=0,
                total=total,
                message="",
                dataset=dataset,
            )
        )
        return job

    @contextmanager
    def open(
        self,
        kind: wire.JobKind,
        title: str,
        total: int = 0,
        *,
        cancelled: Callable[[], str] = str,
    ) -> Iterator[str]:
        """A job that ends as failed, or as cancelled with what ``cancelled`` then says, if its
        block raises. The block itself ends it as done."""
        job = self.begin(kind, title, total)
        try:
            yield job
        except asyncio.CancelledError:
            self.end(job, "cancelled", cancelled())
            raise
        except LoraError as error:
            self.end(job, "failed", error.message)
            raise
        except BaseException as error:
            self.end(job, "failed", str(error))
            raise

    def progress(self, job: str, done: int, total: int, message: str = "") -> None:
        value = msgspec.structs.replace(self._jobs[job], done=done, total=total, message=message)
        quiet = time.monotonic() - self._published.get(job, 0.0) < PUBLISH_EVERY
        self._put(value, quiet=quiet)

    def pause(self, job: str, *, paused: bool) -> None:
        """A job that waits for a person, or goes on."""
        state: Literal["running", "paused"] = "paused" if paused else "running"
        self._put(msgspec.structs.replace(self._jobs[job], state=state))

    def end(
        self, job: str, state: Literal["done", "failed", "cancelled"], message: str = ""
    ) -> None:
        self._put(msgspec.structs.replace(self._jobs[job], state=state, message=message))
        self._published.pop(job, None)
        ended = [j.id for j in self._jobs.values() if j.state not in _OPEN]
        for old in ended[:-KEPT]:
            del self._jobs[old]

    def all(self) -> list[wire.Job]:
        return list(self._jobs.values())

    def running(self) -> list[wire.Job]:
        """Those that have not ended."""
        return [job for job in self._jobs.values() if job.state in _OPEN]

    def _put(self, job: wire.Job, *, quiet: bool = False) -> None:
        self._jobs[job.id] = job
        if not quiet:
            self._published[job.id] = time.monotonic()
            self._hub.publish(wire.JobChanged(job=job))
