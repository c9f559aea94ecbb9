"""What the daemon is for: datasets, captions, runs, library and telemetry, wired together."""

from __future__ import annotations

from dataclasses import dataclass, field

from lora_daemon import service
from lora_daemon.captions import Captions
from lora_daemon.catalog import Catalog
from lora_daemon.datasets import Datasets
from lora_daemon.jobs import Jobs
from lora_daemon.thumbnails import Thumbnails
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
        self._jobs = Jobs(daemon.hub)
        self._catalog = Catalog(daemon.store)
        self._captions = Captions(daemon, self._catalog)
        self._datasets = Datasets(daemon, self._catalog, self._jobs, self._captions.writer)
        self._thumbnails = Thumbnails(daemon, self._catalog)
        handlers.add(wire.ImportDataset, self._datasets.import_dataset)
        handlers.add(wire.RemoveDataset, self._datasets.remove)
        handlers.add(wire.ListItems, self._catalog.list_items)
        handlers.add(wire.GetItem, self._catalog.get_item)
        handlers.add(wire.GetThumbnail, self._thumbnails.get)
        handlers.add(wire.ChangeCaption, self._captions.change)
        handlers.add(wire.UndoCaption, self._captions.undo)

    async def start(self) -> None:
        """Take up interrupted runs and unfinished writes; start telemetry."""
        self._captions.writer.start()
        self._thumbnails.start()

    async def close(self, *, now: bool) -> None:
        """Suspend the active run at a step boundary (``now``: at once) and end the worker."""
        await self._datasets.close()
        await self._captions.writer.close()
        self._thumbnails.close()

    def state(self) -> wire.State:
        """Everything, for a snapshot."""
        return wire.State(datasets=self._catalog.datasets())

    def live(self) -> list[wire.AnyLive]:
        """The latest live values, for a client that has just attached."""
        return [wire.JobChanged(job=job) for job in self._jobs.running()]

    def status(self) -> DomainStatus:
        """The domain's part of the status."""
        return DomainStatus(
            worker=wire.Worker(state="absent"),
            jobs=self._jobs.all(),
            warnings=self._captions.writer.warnings(),
        )

    def run_log(self, run: str, lines: int) -> list[str]:
        """The end of a run's log. Raises LoraError(NOT_FOUND)."""
        return []
