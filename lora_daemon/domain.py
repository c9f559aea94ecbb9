"""What the daemon is for: datasets, captions, runs, library and telemetry, wired together."""

from __future__ import annotations

from dataclasses import dataclass, field

from lora_daemon import service
from shared import wire


@dataclass
class DomainStatus:
    """The domain's part of ``wire.Status``."""

    worker: wire.Worker
    devices: list[wire.DeviceUse] = field(default_factory=list)
    jobs: list[wire.Job] = field(default_factory=list)
    runs: list[wire.Run] = field(default_factory=list)  # not final, in queue order
    warnings: list[str] = field(default_factory=list)


class Domain:
    """Registers a handler for every request but the daemon's own (status, stop, log, state)."""

    def __init__(self, daemon: service.Daemon, handlers: service.Handlers) -> None:
        self._daemon = daemon

    async def start(self) -> None:
        """Take up interrupted runs and unfinished writes; start telemetry."""

    async def close(self, *, now: bool) -> None:
        """Suspend the active run at a step boundary (``now``: at once) and end the worker."""

    def state(self) -> wire.State:
        """Everything, for a snapshot."""
        return wire.State()

    def live(self) -> list[wire.AnyLive]:
        """The latest live values, for a client that has just attached."""
        return []

    def status(self) -> DomainStatus:
        """The domain's part of the status."""
        return DomainStatus(worker=wire.Worker(state="absent"))

    def run_log(self, run: str, lines: int) -> list[str]:
        """The end of a run's log. Raises LoraError(NOT_FOUND)."""
        return []
