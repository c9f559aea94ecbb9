"""What the daemon is for: datasets, captions, runs, library and telemetry, wired together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from lora_daemon import gpus, nvidia, pipe, service, taken
from lora_daemon.affinity import Affinities
from lora_daemon.arranging import Arranging
from lora_daemon.bases import Bases
from lora_daemon.bucketing import Bucketing
from lora_daemon.bulk import Bulk
from lora_daemon.candidates import Candidates
from lora_daemon.caption_facts import CaptionLore
from lora_daemon.captioning import Captioning
from lora_daemon.captions import Captions
from lora_daemon.cards import Cards
from lora_daemon.catalog import Catalog
from lora_daemon.choosing import Choosing
from lora_daemon.comparing import Comparing
from lora_daemon.continuing import Continuing
from lora_daemon.datasets import Datasets
from lora_daemon.embeddings import Embeddings
from lora_daemon.exporting import Export
from lora_daemon.filesystem import file_system, is_ephemeral, is_network
from lora_daemon.framing import Framer
from lora_daemon.freezing import SPACE_NEEDED, Freezer
from lora_daemon.gallery import Gallery
from lora_daemon.grids import Grids
from lora_daemon.health import Health
from lora_daemon.indexing import Indexing
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.measuring import Measuring
from lora_daemon.merging import Merging
from lora_daemon.mix_pictures import MixPictures
from lora_daemon.mixing import Mixing
from lora_daemon.orders import Doing, Orders
from lora_daemon.painting import Painting
from lora_daemon.probing import Probing
from lora_daemon.pruning import Pruner
from lora_daemon.runs import Runs
from lora_daemon.saved_filters import SavedFilters
from lora_daemon.scheduler import Scheduler
from lora_daemon.seats import Seat, Seats
from lora_daemon.supervisor import Death
from lora_daemon.tag_counts import TagCounts
from lora_daemon.telemetry import Telemetry, WorkerUse, best_probe
from lora_daemon.thumbnails import Thumbnails
from lora_daemon.tokens import Tokens
from lora_daemon.undo import Undo
from lora_daemon.upscalers import Upscalers
from lora_daemon.views import Views
from lora_daemon.watchdog import Watchdog
from lora_daemon.watching import Watch
from lora_daemon.weighing import Weighing
from lora_daemon.writing import Writer
from shared import wire
from shared.errors import Code, LoraError

log = logging.getLogger(__name__)

LOW_SPACE = 1024 * 1024 * 1024  # bytes
STORAGE_RETRY = 3.0  # seconds until a report that could not be recorded is tried again


@dataclass
class DomainStatus:
    """The domain's part of ``wire.Status``."""

    workers: list[wire.Worker]
    devices: list[wire.DeviceUse] = field(default_factory=list)
    jobs: list[wire.Job] = field(default_factory=list)
    runs: list[wire.Run] = field(default_factory=list)  # not final, in queue order
    warnings: list[str] = field(default_factory=list)


class Domain:
    """Registers a handler for every request but the daemon's own (status, stop, log, state)."""

    _gpu: tuple[nvidia.Driver, str | None] | None = None
    _listening: asyncio.Task[None] | None = None

    def __init__(self, daemon: service.Daemon, handlers: service.Handlers) -> None:
        self._daemon = daemon
        mine = gpus.usable(gpus.cards())
        self._seats = Seats(daemon.workspace, mine)
        self._orders = Orders(self._seats)
        self._watchdogs = [Watchdog(seat.supervisor) for seat in self._seats]
        self._jobs = Jobs(daemon.hub)
        self._catalog = Catalog(daemon.store)
        self._writer = Writer(daemon, self._catalog, self._jobs)
        self._captions = Captions(daemon, self._catalog, self._writer)
        self._datasets = Datasets(daemon, self._catalog, self._jobs, self._writer)
        self._watch = Watch(daemon, self._catalog, self._datasets, self._writer)
        self._thumbnails = Thumbnails(daemon, self._catalog)
        self._bases = Bases(daemon, self._jobs)
        self._library = Library(daemon, self._bases, self._thumbnails)
        self._tokens = Tokens(daemon.store, self._library)
        lore = CaptionLore(daemon.store)
        self._views = Views(daemon.store, self._catalog, self._tokens, lore)
        self._health = Health(daemon, self._catalog, self._views, self._tokens, lore, self._jobs)
        self._export = Export(daemon, self._catalog, self._views, self._jobs)
        self._bulk = Bulk(daemon, self._catalog, self._views, self._writer)
        self._framer = Framer(daemon, self._catalog, self._bulk)
        self._bucketing = Bucketing(daemon, self._catalog, self._library)
        self._undo = Undo(daemon, self._catalog, self._captions, self._bulk, self._framer)
        self._candidates = Candidates(daemon.store, self._catalog)
        self._tags = TagCounts(daemon.store, self._catalog)
        self._filters = SavedFilters(daemon.store)
        self._runs = Runs(daemon)
        self._freezer = Freezer(daemon, self._catalog, self._library, self._runs)
        self._arranging = Arranging(daemon, self._runs)
        self._continuing = Continuing(daemon, self._runs, self._freezer, self._library)
        self._scheduler = Scheduler(
            daemon, self._runs, self._library, self._seats, Pruner(daemon, self._runs)
        )
        self._painting = Painting(daemon, self._library, self._jobs, self._orders)
        self._gallery = Gallery(daemon, self._library, self._thumbnails, self._jobs)
        self._grids = Grids(daemon, self._library, self._jobs, self._painting)
        self._mixing = Mixing(daemon, self._library)
        self._comparing = Comparing(daemon, self._library)
        self._affinities = Affinities(daemon, self._library)
        self._indexing = Indexing(daemon, self._library)
        self._probing = Probing(daemon, self._library, self._jobs, self._orders)
        self._merging = Merging(daemon, self._library, self._probing, self._jobs, self._orders)
        self._mix_pictures = MixPictures(daemon, self._library, self._painting, self._mixing)
        self._captioning = Captioning(
            self._catalog, self._views, self._captions, self._candidates, lore, self._jobs,
            self._orders,
        )  # fmt: skip
        self._measuring = Measuring(
            daemon, self._runs, self._library, self._painting, self._jobs, self._orders
        )
        self._choosing = Choosing(daemon, self._runs, self._measuring)
        self._cards = Cards(daemon, self._library, self._thumbnails, self._choosing)
        self._telemetry = Telemetry(daemon, self._worker_uses, best_probe(mine))
        self._told = {seat: wire.Worker(state="absent", gpu=seat.name) for seat in self._seats}
        self._connect()
        self._answer_of_datasets(handlers)
        self._answer_of_runs(handlers)

    def _connect(self) -> None:
        """Tell those who cannot know each other what they need of one another."""
        for seat in self._seats:
            seat.supervisor.changed = self._tell_workers
        self._painting.file_of, self._painting.keep = self._gallery.path_of, self._gallery.keep_spec
        self._painting.settled = self._captioning.settled = self._settled
        self._measuring.settled = self._settled
        self._freezer.make_room = self._scheduler.make_room
        self._seats.devices = lambda: self._telemetry.latest
        self._measuring.training = lambda: all(one.state == "training" for one in self.workers())
        self._probing.settled = self._settled

    def _answer_of_datasets(self, handlers: service.Handlers) -> None:
        """Say who answers what about pictures and captions."""
        handlers.add(wire.ImportDataset, self._import_dataset)
        handlers.add(wire.ExportDataset, self._export.export)
        handlers.add(wire.RemoveDataset, self._remove_dataset)
        handlers.add(wire.GetHealth, self._health.get)
        handlers.add(wire.CheckHealth, self._health.check)
        handlers.add(wire.ListItems, self._views.list_items)
        handlers.add(wire.FindPlace, self._views.find_place)
        handlers.add(wire.CountStates, self._views.count_states)
        handlers.add(wire.SaveFilter, self._filters.save)
        handlers.add(wire.RemoveFilter, self._filters.remove)
        handlers.add(wire.GetItem, self._catalog.get_item)
        handlers.add(wire.GetThumbnail, self._thumbnails.get)
        handlers.add(wire.FramePictures, self._framer.frame)
        handlers.add(wire.ListBuckets, self._bucketing.list)
        handlers.add(wire.PreviewBucket, self._bucketing.preview)
        handlers.add(wire.ChangeCaption, self._captions.change)
        handlers.add(wire.PreviewEdit, self._bulk.preview)
        handlers.add(wire.ListDifferences, self._bulk.differences)
        handlers.add(wire.ApplyEdit, self._bulk.apply)
        handlers.add(wire.UndoCaption, self._undo.undo)
        handlers.add(wire.CaptionPictures, self._captioning.caption)
        handlers.add(wire.SteerCaptioning, self._captioning.steer)
        handlers.add(wire.GetCandidates, self._candidates.of_item)
        handlers.add(wire.GetTags, self._tags.tags)

    def _answer_of_runs(self, handlers: service.Handlers) -> None:
        """Say who answers what about runs, bases, LoRAs and what is painted."""
        handlers.add(wire.StartRun, self._start_run)
        handlers.add(wire.CheckRecipes, self._freezer.check)
        handlers.add(wire.StartSweep, self._start_sweep)
        handlers.add(wire.ArrangeRun, self._arrange_run)
        handlers.add(wire.ExtendRun, self._extend_run)
        handlers.add(wire.ForkRun, self._fork_run)
        handlers.add(wire.SteerRun, self._scheduler.steer)
        handlers.add(wire.RemoveRun, self._runs.remove)
        handlers.add(wire.GetRun, self._runs.detail)
        handlers.add(wire.GetSeries, self._runs.series)
        handlers.add(wire.GetWhich, self._choosing.which)
        handlers.add(wire.MeasureRun, self._choosing.measure)
        handlers.add(wire.GetPair, self._choosing.pair)
        handlers.add(wire.ChoosePicture, self._choosing.choose)
        handlers.add(wire.UndoChoice, self._choosing.undo)
        handlers.add(wire.GetHistory, self._telemetry.history)
        handlers.add(wire.Generate, self._painting.generate)
        handlers.add(wire.ListEmbeddings, Embeddings(self._daemon).list_them)
        handlers.add(wire.ListUpscalers, Upscalers(self._daemon).list_them)
        handlers.add(wire.PaintGrid, self._grids.paint)
        handlers.add(wire.ChangeMix, self._mixing.change)
        handlers.add(wire.FlipMix, self._mixing.flip)
        handlers.add(wire.SaveMix, self._mixing.save)
        handlers.add(wire.RemoveMix, self._mixing.remove)
        handlers.add(wire.WatchMix, self._mix_pictures.watch)
        handlers.add(wire.GetTried, self._mix_pictures.get_tried)
        handlers.add(wire.GetPicture, self._library.get_picture)
        handlers.add(wire.RemovePicture, self._gallery.remove)
        handlers.add(wire.ListGallery, self._gallery.list_them)
        handlers.add(wire.GetGalleryPicture, self._gallery.get)
        handlers.add(wire.RatePicture, self._gallery.rate)
        handlers.add(wire.ImportPictures, self._gallery.import_them)
        handlers.add(wire.InspectLora, self._library.inspect)
        handlers.add(wire.CompareLoras, self._comparing.compare)
        handlers.add(wire.CheckAffinity, self._affinities.check)
        handlers.add(wire.ProbeLoras, self._probing.probe)
        handlers.add(wire.MeasureInputs, self._probing.measure)
        handlers.add(wire.LearnColumns, self._merging.learn)
        handlers.add(wire.MergeLoras, self._merging.merge)
        weighing = Weighing(self._daemon, self._library, self._probing, self._orders)
        handlers.add(wire.WeighLora, weighing.weigh)
        handlers.add(wire.IndexLoras, self._indexing.index)
        handlers.add(wire.GetLoraCard, self._cards.card)
        handlers.add(wire.GetLoraPreview, self._cards.preview)
        handlers.add(wire.FindDuplicates, self._cards.duplicates)
        handlers.add(wire.RemoveLora, self._library.remove_lora)
        handlers.add(wire.AddBase, self._bases.add)
        handlers.add(wire.InspectBase, self._bases.inspect)
        handlers.add(wire.RemoveBase, self._bases.remove)

    async def start(self) -> None:
        """Take up interrupted runs and unfinished writes; start telemetry."""
        self._listening = asyncio.create_task(self._listen(), name="worker reports")
        self._bulk.start()
        self._health.start()
        self._writer.start()
        self._watch.start()
        self._thumbnails.start()
        await self._telemetry.start()
        await self._library.start()
        await self._mix_pictures.start()
        self._tokens.start()
        await asyncio.to_thread(self._runs.sweep)
        for watchdog in self._watchdogs:
            watchdog.start()
        await self._scheduler.start()

    async def close(self, *, now: bool) -> None:
        """Suspend the runs at a step boundary (``now``: at once) and end the workers."""
        await self._watch.close()
        await self._datasets.close()
        await self._health.close()
        await self._tokens.close()
        await self._mix_pictures.close()
        self._orders.close()
        await self._daemon.store.quiet()
        for watchdog in self._watchdogs:
            await watchdog.close()
        await self._scheduler.close(now=now)
        await asyncio.gather(*(seat.supervisor.end(now=now) for seat in self._seats))
        await self._writer.close()
        await self._telemetry.close()
        self._thumbnails.close()
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening

    def state(self) -> wire.State:
        """Everything, for a snapshot."""
        return wire.State(
            datasets=self._catalog.datasets(),
            runs=self._current_runs(),
            loras=self._library.loras(),
            bases=self._library.bases(),
            pictures=self._library.pictures(),
            filters=self._filters.all(),
            mixes=self._mixing.all(),
            tried=self._mix_pictures.tried(),
        )

    def looked_at(self, at: wire.Looking) -> None:
        """A client has this picture before it."""
        self._watch.looked_at(at.dataset, at.item)

    def live(self) -> list[wire.AnyLive]:
        """The latest live values, for a client that has just attached."""
        values: list[wire.AnyLive] = [wire.WorkerChanged(worker=one) for one in self.workers()]
        values += self._telemetry.latest
        values += [wire.JobChanged(job=job) for job in self._jobs.running()]
        values += self._watch.seen()
        return values + self._scheduler.progress()

    def status(self) -> DomainStatus:
        """The domain's part of the status."""
        return DomainStatus(
            workers=self.workers(),
            devices=self._telemetry.latest,
            jobs=self._jobs.all(),
            runs=[run for run in self._current_runs() if run.state not in wire.FINAL_STATES],
            warnings=[*self._gpu_warnings(), *workspace_warnings(self._daemon.workspace.root),
                      *taken.warnings(), *self._writer.warnings(), *self._watch.warnings()],
        )  # fmt: skip

    def _gpu_warnings(self) -> list[str]:
        """A GPU that the engine cannot use; what is installed is looked at once."""
        if self._gpu is None:
            self._gpu = nvidia.driver(), nvidia.torch_built_for()
        ready = [seat.supervisor.ready for seat in self._seats]
        devices = sorted(one.device for one in ready if one is not None)  # a CPU before any GPU
        return nvidia.warnings(*self._gpu, devices[0] if devices else "")

    def _current_runs(self) -> list[wire.Run]:
        return [self._scheduler.current(run) for run in self._runs.all()]

    def run_log(self, run: str, lines: int) -> list[str]:
        """The end of a run's log. Raises LoraError(NOT_FOUND)."""
        return self._runs.log_lines(run, lines)

    def workers(self) -> list[wire.Worker]:
        """All workers, in the order of their GPUs."""
        return [self._worker_of(seat) for seat in self._seats]

    def _worker_of(self, seat: Seat) -> wire.Worker:
        worker = seat.supervisor.worker()
        run = self._runs.get(seat.run) if seat.run else None
        state = worker.state
        if run is not None and run.state != "paused" and (state == "idle" or seat.lent):
            state = "training"
        elif state == "idle":
            state = self._doing(seat)
        return msgspec.structs.replace(
            worker, state=state, restarts=run.restarts if run is not None else 0,
            gpu=seat.name, run=seat.run, message="" if seat.lent else worker.message,
        )  # fmt: skip

    def _doing(self, seat: Seat) -> Doing | Literal["idle"]:
        """What a worker is at besides a run; one that is alone is at all that goes on."""
        parts: list[tuple[Doing, bool]] = [
            ("measuring", self._measuring.busy),  # which has pictures painted, too
            ("painting", self._painting.busy),
            ("captioning", self._captioning.busy),
            ("probing", self._probing.busy),
        ]
        for what, busy in parts:
            if busy and (self._seats.alone or self._orders.at(seat, what)):
                return what
        return "idle"

    async def _import_dataset(
        self, context: service.Context, request: wire.ImportDataset
    ) -> wire.Imported:
        try:
            imported = await self._datasets.import_dataset(context, request)
        finally:
            self._tags.forget()
        self._tokens.wake()
        return imported

    async def _remove_dataset(
        self, context: service.Context, request: wire.RemoveDataset
    ) -> wire.Done:
        try:
            return await self._datasets.remove(context, request)
        finally:
            self._tags.forget()  # the numbers of its last operations are given again

    async def _start_run(self, context: service.Context, request: wire.StartRun) -> wire.Run:
        run = await self._freezer.start(context, request)
        await self._scheduler.advance()
        return self._runs.get(run.id)

    async def _start_sweep(
        self, context: service.Context, request: wire.StartSweep
    ) -> wire.RunGroup:
        group = await self._freezer.sweep(context, request)
        await self._scheduler.advance()
        return wire.RunGroup(group=group.group, runs=[self._runs.get(r.id) for r in group.runs])

    async def _arrange_run(self, context: service.Context, request: wire.ArrangeRun) -> wire.Run:
        run = await self._arranging.arrange(context, request)
        await self._scheduler.advance()
        return self._runs.get(run.id)

    async def _extend_run(
        self, context: service.Context, request: wire.ExtendRun
    ) -> wire.Continued:
        found = await self._continuing.extend(context, request)
        await self._scheduler.advance()
        return wire.Continued(run=self._runs.get(found.run.id), told=found.told)

    async def _fork_run(self, context: service.Context, request: wire.ForkRun) -> wire.Continued:
        found = await self._continuing.fork(context, request)
        await self._scheduler.advance()
        return wire.Continued(run=self._runs.get(found.run.id), told=found.told)

    async def _listen(self) -> None:
        """Take in what the worker reports, in order. A full disk delays, it does not lose."""
        while True:
            event = await self._seats.events.get()
            while True:
                try:
                    await self._take_in(event)
                    break
                except LoraError as error:
                    log.warning("a report could not be recorded: %s", error.message)
                    if error.code is Code.STORAGE:  # what asks for room may be behind it
                        await self._scheduler.make_room(SPACE_NEEDED)
                    await asyncio.sleep(STORAGE_RETRY)
                except Exception:
                    log.exception("a report could not be taken in: %r", event)
                    break
            self._settled()

    async def _take_in(self, event: pipe.Report | Death) -> None:
        await self._daemon.store.quiet()
        match event:
            case Death():
                await self._orders.worker_died(event)
                await self._scheduler.worker_died(event.pid, event.reason)
            case pipe.Ready() | pipe.Memory() | pipe.GoesOn():
                pass  # for the supervisors and watchdogs
            case (
                pipe.PaintStep() | pipe.Painted() | pipe.PaintFailed()
                | pipe.Described() | pipe.DescribeFailed() | pipe.Measured() | pipe.MeasureFailed()
                | pipe.Probed() | pipe.Gathered() | pipe.Zipped() | pipe.Weighed()
                | pipe.Recognised() | pipe.ProbeFailed()
            ):  # fmt: skip
                self._orders.report(event)
            case _:
                await self._scheduler.report(event)

    def _settled(self) -> None:
        """Something is done: is there more for the workers?"""
        for seat in self._seats:
            if not seat.run and self._doing(seat) == "idle":
                seat.supervisor.rest()
        self._tell_workers()

    def _tell_workers(self) -> None:
        for seat in self._seats:
            worker = self._worker_of(seat)
            if worker != self._told[seat]:
                self._told[seat] = worker
                self._daemon.hub.publish(wire.WorkerChanged(worker=worker))

    def _worker_uses(self) -> list[WorkerUse]:
        """Of each seat. What is used of a GPU that is lent to a run is its process's there."""
        uses = []
        for seat in self._seats:
            memory = seat.supervisor.memory
            uses.append(
                WorkerUse(
                    pid=seat.supervisor.pid,
                    uuid=seat.uuid,
                    allocated=memory.allocated if memory else 0,
                    cached=memory.cached if memory else 0,
                    everything=seat.lent,
                )
            )
        return uses


def workspace_warnings(root: Path) -> list[str]:
    """What is wrong with the disk that the workspace is on."""
    warnings = []
    if is_network(root):
        warnings.append(
            f"The workspace {root} is on a network file system ({file_system(root)}): slower, and "
            "only one machine may use it at a time."
        )
    if is_ephemeral(root):
        warnings.append(
            f"The workspace {root} is on a disk that goes with this machine or container "
            f"({file_system(root)}): fetch what you want to keep, or set LORA_TUI_HOME."
        )
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(root).free
        if free < LOW_SPACE:
            warnings.append(f"Only {free >> 20} MiB are free on the workspace's disk ({root}).")
    return warnings
