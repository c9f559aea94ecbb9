"""The seats: each GPU that may be used with its worker, and which of them suits what comes.

A worker is begun when something comes for it. Where there is no GPU, one, or nothing known of them,
there is one seat, whose worker takes what it finds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_daemon import pipe, taken
from lora_daemon.gpus import VISIBLE, Gpu
from lora_daemon.supervisor import Event, Supervisor
from shared import wire
from shared.paths import Workspace


@dataclass(eq=False)
class Seat:
    """A GPU and its worker. ``run``: that has it; ``lent``: for one more of its processes, which
    its own worker begins, so that there is none here."""

    supervisor: Supervisor
    gpu: Gpu | None = None  # None: the worker takes what it finds
    name: str = ""  # of the GPU, where there are several
    run: str = ""
    lent: bool = False
    orders: set[str] = field(default_factory=set)  # jobs of those under way
    _base: str = ""  # what the worker was last given: paths
    _loras: tuple[str, ...] = ()
    _captioner: str = ""

    @property
    def uuid(self) -> str:
        """Of its GPU, as NVML calls it; empty as long as it is not known."""
        ready = self.supervisor.ready
        return (self.gpu.uuid if self.gpu else "") or (ready.device_uuid if ready else "")

    async def train(self, order: pipe.Train, base: str) -> int:
        """Give a run to the worker; ``base``: its path. Raises as ``Supervisor.send``."""
        self._forget_the_dead()
        self._base, self._loras = base, ()
        return await self.supervisor.send(order)

    async def send(self, order: pipe.Asked) -> int:
        """Give an order to the worker; its pid. Raises as ``Supervisor.send``."""
        self._forget_the_dead()
        if isinstance(order, pipe.Describe):
            self._captioner = order.model
        elif not self.run:  # a run keeps its own base, and lets go of every other
            self._base, self._loras = order.base_path, _loras(order)
        return await self.supervisor.send(order)

    def _forget_the_dead(self) -> None:
        if not self.supervisor.pid:
            self._base, self._loras, self._captioner = "", (), ""

    def lacks(self, order: pipe.Asked | str) -> int:
        """How much the worker would have to load for an order, or for a run on this base: 0 for
        nothing, then LoRAs, then a base or a captioner, then itself as well."""
        if not self.supervisor.pid:
            return 3
        if isinstance(order, pipe.Describe):
            return 2 * (order.model != self._captioner)
        base, loras = (order, ()) if isinstance(order, str) else (order.base_path, _loras(order))
        return 2 if base != self._base else int(loras != self._loras)


class Seats:
    """All of them. ``events``: what their workers report, and their deaths."""

    def __init__(self, workspace: Workspace, gpus: Sequence[Gpu]) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.devices: Callable[[], list[wire.DeviceUse]] = list  # what is known of them
        logs = workspace.log.parent
        kept = _kept(workspace.cache)
        self._all = [
            Seat(Supervisor(self.events, logs / _log(number), kept | _own(gpu, len(gpus))), gpu)
            for number, gpu in enumerate(gpus or [None])
        ]
        if len(gpus) > 1:
            for seat, gpu in zip(self._all, gpus, strict=True):
                seat.name = gpu.name

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def first(self) -> Seat:
        return self._all[0]

    @property
    def alone(self) -> bool:
        """Whether there is one only."""
        return len(self._all) == 1

    def others(self, seat: Seat) -> str:
        """That others hold much of its GPU, in a sentence; "" if they do not."""
        devices = self.devices()
        if not self.alone:
            devices = [one for one in devices if one.device == seat.uuid]
        return taken.by_others(devices, seat.uuid)

    def for_order(self, order: pipe.Asked) -> Seat:
        """Where an order goes: to a GPU without a run rather than beside one, to an idle worker
        rather than behind others, to one that has what it takes rather than one that loads it."""

        def cost(seat: Seat) -> tuple[bool, bool, int, int]:
            return bool(self.others(seat)), bool(seat.run), len(seat.orders), seat.lacks(order)

        return min((seat for seat in self._all if not seat.lent), key=cost)

    def suits(self, base: str) -> Callable[[Seat], tuple[bool, int, int]]:
        """How little a seat suits a run on this base: what to sort by."""
        return lambda seat: (bool(self.others(seat)), len(seat.orders), seat.lacks(base))


def _loras(order: pipe.Serving) -> tuple[str, ...]:
    """What it has stacked on the base, by their paths."""
    if isinstance(order, pipe.Gather | pipe.Weigh):
        return ()
    return tuple(one.path for one in order.loras)


def _kept(cache: Path) -> dict[str, str]:
    """Where workers keep what they compile, if nobody said: torch's own choice is /tmp, which a
    rented box loses."""
    folders = {"TORCHINDUCTOR": cache / "kernels", "TRITON": cache / "kernels" / "triton"}
    names = {f"{tool}_CACHE_DIR": str(folder) for tool, folder in folders.items()}
    return {name: folder for name, folder in names.items() if name not in os.environ}


def _own(gpu: Gpu | None, seats: int) -> dict[str, str]:
    """What is otherwise for a worker than for others: it sees its own GPU, and where there are
    several each takes a part of the cores."""
    if gpu is None:
        return {}
    if seats == 1 or "LORA_TUI_THREADS" in os.environ:
        return {VISIBLE: gpu.visible}
    threads = max(1, len(os.sched_getaffinity(0)) // seats)
    return {VISIBLE: gpu.visible, "LORA_TUI_THREADS": str(threads)}


def _log(number: int) -> str:
    return f"worker-{number + 1}.log" if number else "worker.log"
