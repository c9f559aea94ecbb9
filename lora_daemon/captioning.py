"""Captioning on request: pictures found, given to the worker in portions, what it says taken in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from lora_daemon import folder, hub, pipe, prompts
from lora_daemon.candidates import Candidates
from lora_daemon.caption_facts import CaptionLore
from lora_daemon.captions import Captions
from lora_daemon.catalog import Catalog
from lora_daemon.jobs import Jobs
from lora_daemon.orders import Orders
from lora_daemon.service import Context
from lora_daemon.views import Views
from shared import wire
from shared.captioners import CAPTIONERS
from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.hub_ids import from_hub

PORTION = 16  # pictures in one order: a training run or a picture waits no longer than that
TOLD = 200  # problems in the answer
_USABLE = "NOT issue:unusable NOT state:rejected"
_EMPTY = f"issue:no-caption {_USABLE}"


@dataclass
class _Tally:
    """What one request has come to."""

    written: int = 0
    beside: int = 0
    done: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)


class _Work:
    """One request under way."""

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.job = ""
        self.going = asyncio.Event()  # not paused
        self.going.set()


class Captioning:
    """Answers CaptionPictures and SteerCaptioning."""

    def __init__(
        self, catalog: Catalog, views: Views, captions: Captions, candidates: Candidates,
        lore: CaptionLore, jobs: Jobs, orders: Orders,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._views = views
        self._captions = captions
        self._candidates = candidates
        self._lore = lore
        self._jobs = jobs
        self._orders = orders
        self._at_work: dict[str, _Work] = {}  # by dataset
        self.settled: Callable[[], None] = lambda: None  # called after each request

    @property
    def busy(self) -> bool:
        """Whether the worker is wanted."""
        return any(work.going.is_set() for work in self._at_work.values())

    async def caption(self, context: Context, request: wire.CaptionPictures) -> wire.Captioned:
        """Raises LoraError: NOT_FOUND (dataset, captioner), INVALID_FILE, BAD_REQUEST, BUSY,
        OUT_OF_MEMORY, WORKER_FAILED, STORAGE, CANCELLED. What was written before stays."""
        dataset = self._catalog.dataset(request.dataset)
        model = await asyncio.to_thread(_named, request.model)
        prompts.check(request.prompt, self._lore.trigger(dataset.id))
        manner = pipe.Manner(
            prompt=request.prompt.strip(),
            max_tokens=request.max_tokens,
            threshold=request.threshold,
            categories=tuple(request.categories),
            blacklist=tuple(request.blacklist),
        )
        if dataset.id in self._at_work:
            raise LoraError(
                Code.BUSY,
                f"{dataset.name} is being captioned already. Cancel that or wait for it.",
                retryable=True,
            )
        self._at_work[dataset.id] = _Work()
        try:
            asked = f"({request.filter})" if request.filter.strip() else ""
            wanted = _USABLE if request.beside else _EMPTY
            chosen = await self._found(dataset.id, f"{asked} {wanted}".strip())
            if request.beside and manner == pipe.Manner():  # asked otherwise, it says otherwise
                known = self._candidates.having(dataset.id, request.model)
                chosen = [one for one in chosen if one.id not in known or not one.caption.text]
            unusable = await self._found(dataset.id, f"{asked} issue:unusable".strip())
            every = await self._count(dataset.id, request.filter)
            tally = _Tally(problems=[(item.name, item.problem) for item in unusable])
            if chosen:
                await self._run(context, request, dataset, model, manner, chosen, tally)
                await self._captions.writer.drained()  # whoever asked may take the folder away
        finally:
            del self._at_work[dataset.id]
            self.settled()
        return wire.Captioned(
            dataset=self._catalog.dataset(dataset.id),
            written=tally.written,
            beside=tally.beside,
            kept=every - tally.written - len(tally.problems),
            problems=tally.problems[:TOLD],
            warnings=[*tally.notes, *self._captions.writer.behind(dataset.id)],
        )

    async def _run(
        self, context: Context, request: wire.CaptionPictures, dataset: wire.Dataset, model: str,
        manner: pipe.Manner, chosen: list[wire.Item], tally: _Tally,
    ) -> None:  # fmt: skip
        job = self._jobs.begin("caption", f"captions for {dataset.name}", len(chosen), dataset.id)
        work = self._at_work[dataset.id]
        work.job = job
        state: wire.CaptionState = "accepted" if request.accept else "unreviewed"
        names = {item.id: item.name for item in chosen}

        def take_in(report: pipe.Described) -> bool:
            written = self._captions.describe(
                context.by, dataset.id, request.model, report.captions, state
            )
            tally.written += written
            tally.beside += len(report.captions) - written
            tally.problems += [(names[item], why) for item, why in report.skipped]
            tally.notes |= dict.fromkeys(report.notes)
            tally.done += len(report.captions) + len(report.skipped)
            self._jobs.progress(job, tally.done, len(chosen), dataset.name)
            context.progress(tally.done, len(chosen), f"{tally.done} of {len(chosen)} pictures")
            return report.last

        try:
            if not model.startswith("/"):
                self._jobs.progress(job, 0, len(chosen), f"fetching {model}")
                context.progress(0, len(chosen), f"fetching {model}")
                wanted = from_hub(model, "captioner")
                assert wanted is not None
                model = await _fetched(self._jobs, context, wanted)
            trigger = self._lore.trigger(dataset.id)
            said = {
                item.id: prompts.filled(manner.prompt, trigger=trigger, caption=item.caption.text)
                for item in chosen * bool(manner.prompt)
            }
            for portion, more in self._portions(chosen):
                await self._pass(work)
                describe = pipe.Describe(
                    job=job, model=model, pictures=portion, more=more, manner=manner,
                    prompts={item: said[item] for item, _ in portion if said},
                )  # fmt: skip
                await self._orders.ask(describe, "The captioning ended.", take_in)
        except asyncio.CancelledError:
            self._jobs.end(job, "cancelled", f"{tally.written} captions are written.")
            raise
        except LoraError as error:
            self._jobs.end(job, "failed", error.message)
            raise
        beside = f"{tally.beside} beside captions, " * request.beside
        done = f"{tally.written} written, {beside}{len(tally.problems)} left out"
        self._jobs.end(job, "done", done)

    async def steer(self, context: Context, request: wire.SteerCaptioning) -> wire.Done:
        """Raises LoraError: NOT_FOUND, WRONG_STATE where nothing is being captioned."""
        dataset = self._catalog.dataset(request.dataset)
        work = self._at_work.get(dataset.id)
        if work is None:
            raise LoraError(Code.WRONG_STATE, f"{dataset.name} is not being captioned.")
        match request.action:
            case "pause":
                work.going.clear()
            case "resume":
                work.going.set()
            case "cancel":
                assert work.task is not None
                work.task.cancel()
        return wire.Done()

    async def _pass(self, work: _Work) -> None:
        """Go on at once, or when it is to go on."""
        if work.going.is_set():
            return
        self._jobs.pause(work.job, paused=True)
        self.settled()
        await work.going.wait()
        self._jobs.pause(work.job, paused=False)

    def _portions(self, items: list[wire.Item]) -> Iterator[tuple[list[tuple[str, str]], bool]]:
        """Pictures as orders take them, and whether there are more."""
        for start in range(0, len(items), PORTION):
            portion = list[tuple[str, str]]()
            for item in items[start : start + PORTION]:
                with contextlib.suppress(LoraError):  # taken out by an import meanwhile
                    row = self._catalog.item_row(item.dataset, item.id)
                    portion.append((item.id, to_text(self._catalog.path(row))))
            if portion:
                yield portion, start + PORTION < len(items)

    async def _found(self, dataset: str, filter: str) -> list[wire.Item]:
        """Every picture that the filter finds."""
        found, view = list[wire.Item](), ""
        while True:
            ask = wire.ListItems(
                dataset=dataset, filter=filter, offset=len(found), limit=1000, view=view
            )
            page = await self._views.list_items(_NOBODY, ask)
            found += page.items
            view = page.view
            if not page.items or len(found) >= page.total:
                return found

    async def _count(self, dataset: str, filter: str) -> int:
        ask = wire.ListItems(dataset=dataset, filter=filter, limit=0)
        return (await self._views.list_items(_NOBODY, ask)).total


_NOBODY = Context(by="daemon", key="", progress=lambda *_: None)


def _named(model: str) -> str:
    """The folder or Hub id that a captioner's name stands for. Raises LoraError(NOT_FOUND)."""
    if model == "starter":
        from lora_daemon.starter import blip_dir

        return to_text(blip_dir())
    if model.startswith(("/", "~")):
        return to_text(folder.resolve(model))
    named = CAPTIONERS[model].hub if model in CAPTIONERS else model
    if from_hub(named) is None:
        known = ", ".join(f"{name} ({one.hub or 'built in'})" for name, one in CAPTIONERS.items())
        raise LoraError(
            Code.NOT_FOUND,
            f"There is no captioner {model!r}. There are {known}, others of their kinds by a Hub "
            "id such as owner/name, or a folder.",
        )
    return named


async def _fetched(jobs: Jobs, context: Context, wanted: wire.FromHub) -> str:
    """The folder of a captioner from the Hub; where there is no network, what was fetched before.

    Raises LoraError as hub.job.
    """
    try:
        return to_text((await hub.job(jobs, context, wanted))[0])
    except LoraError as error:
        if error.code != Code.UNREACHABLE:
            raise
        with contextlib.suppress(LoraError):
            before = msgspec.structs.replace(wanted, offline=True)
            return to_text((await hub.job(jobs, context, before))[0])
        raise LoraError(
            error.code,
            f"{wanted.id} could not be fetched. {error.message} Where there is no network, "
            "download it elsewhere and give its folder: --model /path.",
            retryable=True,
        ) from None
