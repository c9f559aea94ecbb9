"""The product asked about a pair: the daemon's own code, with a worker that is this process."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec

from bench.pairs.painting import CFG, Painter
from bench.pairs.plan import Group
from lora_daemon import company as looking
from lora_daemon import pipe, probe_plan, probing
from lora_daemon.engine import columns, conflict, effects, merge
from lora_daemon.engine import company as recognition
from lora_daemon.engine.bases import Base
from lora_daemon.engine.mix import whole_delta
from lora_daemon.engine.studio import Studio
from lora_daemon.jobs import Jobs
from lora_daemon.merging import Merging
from lora_daemon.orders import FAILED
from lora_daemon.service import Context, Daemon
from shared import company, lora_orders, probes, remedies, wire, zipping
from shared.conflicts import Compared, Conflict, ConflictOrder
from shared.errors import Code, LoraError
from shared.files import publish
from shared.lora_orders import MergeOrder
from shared.paths import Workspace
from shared.pictures import LoraUse
from shared.probes import Probe

PROMPTS, PICTURES = 4, company.PICTURES
_DECIDE: tuple[ModuleType, ...] = (
    probe_plan, probes, remedies, company, looking, effects, recognition
)  # fmt: skip
"""What decides an answer; the rest of the way is exact algebra."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Of LoRAs at their weights. ``asked``: the probe on the pair's own prompts, with losses, and
    with blocks and remedies where these were wanted; ``learnt``: on what each was trained to show.
    ``files``: at once, with the base's inputs measured; None where all of one is DoRA. ``norms``:
    ‖Σ ΔW‖."""

    asked: Probe
    learnt: Probe
    files: Conflict | None
    norms: list[float]


class Known:
    """What was said before, of the same code."""

    def __init__(self, work: Path) -> None:
        self._folder = work / "said"
        self._folder.mkdir(parents=True, exist_ok=True)

    def known(
        self, group: Group, uses: Sequence[LoraUse], *, remedies: bool
    ) -> Said | None:  # fmt: skip
        """None where it was not asked. ``remedies``: with what is worth trying."""
        file = self.file(group, uses, remedies)
        return msgspec.json.decode(file.read_bytes(), type=Said) if file.exists() else None

    def file(self, group: Group, uses: Sequence[LoraUse], remedies: bool) -> Path:
        """Where an answer is kept, by all that decides it."""
        code = [inspect.getsource(module) for module in _DECIDE]
        asked = msgspec.to_builtins([group, [use.weight for use in uses]])
        decides = asked, _digests(uses), remedies, CFG, PROMPTS, PICTURES, code
        return self._folder / f"{_name(*decides)}.json"

    def zipped(self, uses: Sequence[LoraUse]) -> Path:
        """Where the file is that ``lora merge --method ziplora`` makes of them, or will be."""
        code = [inspect.getsource(module) for module in (zipping, columns)]
        name = _name([use.weight for use in uses], _digests(uses), code)
        return self._folder.parent / "zipped" / f"{name}.safetensors"


def _name(*decides: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(decides)).hexdigest()[:24]


def _digests(uses: Sequence[LoraUse]) -> list[str]:
    return [hashlib.sha256(Path(use.lora).read_bytes()).hexdigest() for use in uses]


class Product(Known):
    """Asks where it was not asked before."""

    def __init__(self, work: Path, painter: Painter) -> None:
        super().__init__(work)
        self._painter = painter
        worker = _Worker(painter.base)
        daemon = Daemon(Workspace(work / "home"), cast(Any, None), _Silent())
        given: tuple[Any, Any] = (_Shelf(painter.base), Jobs(_Silent()))
        self._probing = probing.Probing(daemon, *given, cast(Any, worker))
        self._merging = Merging(daemon, given[0], self._probing, given[1], cast(Any, worker))

    def ask(self, group: Group, uses: Sequence[LoraUse], *, remedies: bool = False) -> Said:
        """``remedies``: and what is worth trying, block by block too."""
        found = self.known(group, uses, remedies=remedies)
        if found is None:
            found = asyncio.run(self._ask(group, list(uses), remedies))
            publish(self.file(group, uses, remedies), msgspec.json.encode(found))
        return found

    def zip(self, uses: Sequence[LoraUse]) -> Path | None:
        """The file made of them, if it is not there. None where a DoRA is among them: its columns
        cannot be scaled."""
        out = self.zipped(uses)
        if out.exists():
            return out
        lesson = wire.LearnColumns(loras=list(uses), base="starter", cfg=CFG)
        context = Context("bench", "", lambda *_: None)
        try:
            learnt = asyncio.run(self._merging.learn(context, lesson))
        except LoraError as error:
            if error.code is not Code.INVALID_FILE:
                raise
            return None
        out.parent.mkdir(exist_ok=True)
        sources = [lora_orders.source(use, use.lora) for use in uses]
        order = MergeOrder(
            sources=sources, out=str(out), method="ziplora", columns=learnt.path
        )  # fmt: skip
        merge.merge(order)
        return out

    async def _ask(self, group: Group, uses: list[LoraUse], wanted: bool) -> Said:
        context = Context("bench", "", lambda *_: None)
        ask = wire.ProbeLoras(
            loras=uses, base="starter", prompts=[words for words, _ in group.asked(PROMPTS)],
            cfg=CFG, blocks=wanted, remedies=wanted, losses=PICTURES,
        )  # fmt: skip
        asked = await self._probing.probe(context, ask)
        plain = msgspec.structs.replace(ask, prompts=[], blocks=False, remedies=False, losses=0)
        learnt = await self._probing.probe(context, plain)
        return Said(
            asked=asked.found, learnt=learnt.found, files=await self._compared(context, uses),
            norms=[self._norm(use) for use in uses],
        )  # fmt: skip

    async def _compared(self, context: Context, uses: list[LoraUse]) -> Conflict | None:
        try:
            measured = await self._probing.measure(
                context,
                wire.MeasureInputs(loras=[use.lora for use in uses], base="starter"),
            )
            order = ConflictOrder(
                loras=[Compared(path=use.lora, use=use) for use in uses],
                base=str(self._painter.base.path), inputs=measured.path, order=measured.order,
            )  # fmt: skip
            return conflict.compare(order)
        except LoraError as error:
            if error.code not in (Code.INVALID_FILE, Code.BAD_REQUEST):
                raise
            return None

    def _norm(self, use: LoraUse) -> float:
        """‖w ΔW‖ over all modules, whatever their kind."""
        total = 0.0
        for module in self._painter.modules(use.lora):
            target = getattr(self._painter.base, module.network).get_submodule(module.path)
            total += float(whole_delta(module, target.weight.detach()).square().sum())
        return abs(use.weight) * math.sqrt(total)


class _Worker:
    """Does an order at once."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._reports: list[Any] = []
        self._studio = Studio(base.device, self._reports.append, lambda _: False)

    async def ask(
        self, order: pipe.Serving, unfinished: str, hear: Callable[[Any], bool] = bool
    ) -> Any:
        del unfinished, hear
        self._reports.clear()
        self._studio.serve(order, lambda: self._base)
        report = self._reports[-1]
        if isinstance(report, FAILED):
            raise LoraError.of(report.failure)
        return report


class _Shelf:
    """The library: the base, and LoRAs by their paths."""

    def __init__(self, base: Base) -> None:
        self._path = str(base.path)

    async def base(self, name: str) -> wire.BaseModel:
        return wire.BaseModel(
            name=name, path=self._path, family="sd1", resolution=128, size=0, problem=""
        )

    def lora(self, name: str) -> tuple[str, Path]:
        return name, Path(name)


class _Silent:
    """Nobody listens."""

    def publish(self, value: wire.AnyLive) -> None:
        del value
