"""Captioning on request: pictures found, given to the worker in portions, what it says taken in."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lora_daemon import folder, pipe
from lora_daemon.candidates import Candidates
from lora_daemon.captions import Captions
from lora_daemon.catalog import Catalog
from lora_daemon.jobs import Jobs
from lora_daemon.orders import Orders
from lora_daemon.service import Context
from lora_daemon.views import Views
from shared import wire
from shared.errors import Code, LoraError
from shared.filenames import to_text

PORTION = 16  # pictures in one order: a training run or a picture waits no longer than that
TOLD = 200  # problems in the answer
HUB = {"blip": "Salesforce/blip-image-captioning-large"}  # the lesson's
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


class Captioning:
    """Answers CaptionPictures."""

    def __init__(
        self, catalog: Catalog, views: Views, captions: Captions, candidates: Candidates,
        jobs: Jobs, orders: Orders,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._views = views
        self._captions = captions
        self._candidates = candidates
        self._jobs = jobs
        self._orders = orders
        self._at_work: set[str] = set()  # datasets
        self.settled: Callable[[], None] = lambda: None  # called after each request

    @property
    def busy(self) -> bool:
        return bool(self._at_work)

    async def caption(self, context: Context, request: wire.CaptionPictures) -> wire.Captioned:
        """Raises LoraError: NOT_FOUND (dataset, captioner), INVALID_FILE, BAD_REQUEST, BUSY,
        OUT_OF_MEMORY, WORKER_FAILED, STORAGE, CANCELLED. What was written before stays."""
        dataset = self._catalog.dataset(request.dataset)
        model = await asyncio.to_thread(_named, request.model)
        if dataset.id in self._at_work:
            raise LoraError(
                Code.BUSY,
                f"{dataset.name} is being captioned already. Cancel that or wait for it.",
                retryable=True,
            )
        self._at_work.add(dataset.id)
        try:
            asked = f"({request.filter})" if request.filter.strip() else ""
            wanted = _USABLE if request.beside else _EMPTY
            chosen = await self._found(dataset.id, f"{asked} {wanted}".strip())
            if request.beside:
                known = self._candidates.having(dataset.id, request.model)
                chosen = [one for one in chosen if one.id not in known or not one.caption.text]
            unusable = await self._found(dataset.id, f"{asked} issue:unusable".strip())
            every = await self._count(dataset.id, request.filter)
            tally = _Tally(problems=[(item.name, item.problem) for item in unusable])
            if chosen:
                await self._run(context, request, dataset, model, chosen, tally)
                await self._captions.writer.drained()  # whoever asked may take the folder away
        finally:
            self._at_work.discard(dataset.id)
            self.settled()
        return wire.Captioned(
            dataset=self._catalog.dataset(dataset.id),
            written=tally.written,
            beside=tally.beside,
            kept=every - tally.written - len(tally.problems),
            problems=tally.problems[:TOLD],
            warnings=list(tally.notes),
        )

    async def _run(
        self, context: Context, request: wire.CaptionPictures, dataset: wire.Dataset, model: str,
        chosen: list[wire.Item], tally: _Tally,
    ) -> None:  # fmt: skip
        job = self._jobs.begin("caption", f"captions for {dataset.name}", len(chosen))
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
                model = await _fetched(model)
            for portion, more in self._portions(chosen):
                describe = pipe.Describe(job=job, model=model, pictures=portion, more=more)
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
    named = HUB.get(model, model)
    if named.count("/") != 1:
        raise LoraError(
            Code.NOT_FOUND,
            f"There is no captioner {model!r}. There is starter (built in), blip "
            f"({HUB['blip']}), any other BLIP by its Hub id such as owner/name, or a folder.",
        )
    return named


_FETCH = """
import sys
from huggingface_hub import snapshot_download
wanted = ["*.json", "*.txt", "model*.safetensors"]
print(snapshot_download(sys.argv[1], allow_patterns=wanted))
"""


async def _fetched(hub_id: str) -> str:
    """The folder of a captioner from the Hugging Face Hub, downloaded if it is not here yet.

    By another process, which can be given up. Raises LoraError(NOT_FOUND).
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _FETCH, hub_id,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        answer, problem = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = problem.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise LoraError(
            Code.NOT_FOUND,
            f"{hub_id} could not be fetched from the Hugging Face Hub ({lines[-1].strip()}). Where "
            "there is no network, download it elsewhere and give its folder: --model /path.",
        )
    return answer.decode().strip().splitlines()[-1]
