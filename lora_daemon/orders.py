"""What is asked of workers besides runs: given to the one that suits, heard of, asked again once
where it dies of it, and given up where nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lora_daemon import pipe
from lora_daemon.seats import Seat, Seats
from lora_daemon.supervisor import Death
from shared.errors import Code, LoraError

TRIES = 2  # a worker's death may have had another cause; a second one was this order's

Report = (
    pipe.PaintStep | pipe.Painted | pipe.PaintFailed | pipe.Probed | pipe.Gathered | pipe.Zipped
    | pipe.Weighed | pipe.Recognised | pipe.ProbeFailed | pipe.Described | pipe.DescribeFailed
    | pipe.Measured | pipe.MeasureFailed
)  # fmt: skip
FAILED = (pipe.PaintFailed, pipe.ProbeFailed, pipe.DescribeFailed, pipe.MeasureFailed)

Doing = Literal["painting", "captioning", "measuring", "probing"]


def doing(order: pipe.Asked) -> Doing:
    """What a worker does with an order, in a word."""
    match order:
        case pipe.Paint():
            return "painting"
        case pipe.Describe():
            return "captioning"
        case pipe.Measure():
            return "measuring"
        case _:
            return "probing"


def _writes(order: pipe.Asked) -> str:
    """What an order leaves for others: a file, or a folder where it goes on."""
    match order:
        case pipe.Zip():
            return order.folder
        case pipe.Gather():
            return order.out
        case _:
            return ""


@dataclass
class _Order:
    """An order with a worker."""

    order: pipe.Asked
    unfinished: str
    hear: Callable[[Any], bool]
    done: asyncio.Future[Any]
    tries: int = 1
    seat: Seat | None = None
    worker: int = 0  # the pid it was given to


class Orders:
    """The orders under way, by their job."""

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._orders: dict[str, _Order] = {}
        self._latest: dict[Doing, Seat] = {}  # where the last of each kind went
        self._closing = False

    def close(self) -> None:
        """No worker is to be begun any more for what waits."""
        self._closing = True

    def at(self, seat: Seat, what: Doing) -> bool:
        """Whether such an order is under way on a seat, or was the last, where none is now."""
        under_way = [own.seat for own in self._orders.values() if doing(own.order) == what]
        return seat in (under_way or [self._latest.get(what)])

    async def ask(
        self, order: pipe.Asked, unfinished: str, hear: Callable[[Any], bool] = lambda _: True
    ) -> Any:
        """Have a worker do an order, and return its last report.

        ``hear``: called with each report but a failure; whether it is the last. What it raises goes
        to the caller of ``report``. A worker that dies of the order is replaced once. Cancelled,
        the worker gives the order up at its next look. Raises LoraError: what the worker says, or
        WORKER_FAILED, which begins with ``unfinished``.
        """
        own = _Order(order, unfinished, hear, asyncio.get_running_loop().create_future())
        self._orders[order.job] = own
        sending = asyncio.ensure_future(self._give(own))
        try:
            # Not to be cut short: it may be beginning a worker.
            await asyncio.shield(sending)
            return await own.done
        except asyncio.CancelledError:
            sending.add_done_callback(lambda sent: self._give_up(own, sent))
            raise
        finally:
            del self._orders[order.job]
            if own.seat is not None:
                own.seat.orders.discard(order.job)

    async def _give(self, own: _Order) -> None:
        """Give an order to the worker that suits it now. Raises as ``Supervisor.send``."""
        if own.seat is not None:
            own.seat.orders.discard(own.order.job)
        own.seat = self._beside(own) or self._seats.for_order(own.order)
        own.seat.orders.add(own.order.job)
        self._latest[doing(own.order)] = own.seat
        own.worker = await own.seat.send(own.order)

    def _beside(self, own: _Order) -> Seat | None:
        """Where an order is under way that writes the same files: two workers would be in each
        other's way."""
        where = _writes(own.order)
        others = (one for one in self._orders.values() if one is not own and one.seat is not None)
        return next(
            (one.seat for one in others if where and _writes(one.order) == where), None
        )  # fmt: skip

    def _give_up(self, own: _Order, sent: asyncio.Future[None]) -> None:
        """Cancel a job once the worker has it."""
        if not sent.cancelled() and sent.exception() is None and own.seat is not None:
            own.seat.supervisor.tell(pipe.Cancel(job=own.order.job))

    def report(self, report: Report) -> None:
        """What the worker says of an order. Raises what ``hear`` does: then it is to be told again,
        and the order goes on."""
        own = self._orders.get(report.job)
        if own is None or own.done.done():
            return
        if isinstance(report, FAILED):
            own.done.set_exception(LoraError.of(report.failure))
        elif own.hear(report):
            own.done.set_result(report)

    async def worker_died(self, death: Death) -> None:
        """Ask another worker for what the dead one had not finished, once; as often as it takes
        where it was told to leave."""
        for own in list(self._orders.values()):
            if own.done.done() or own.worker != death.pid or self._closing:
                continue
            own.tries += not death.meant
            try:
                if own.tries > TRIES:
                    raise LoraError(
                        Code.WORKER_FAILED, f"{own.unfinished} {death.reason}", retryable=True
                    )
                await self._give(own)
            except LoraError as error:
                own.done.set_exception(error)
