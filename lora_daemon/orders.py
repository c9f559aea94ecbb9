"""What is asked of the worker besides runs: given, heard of, asked again once where it dies of it,
and given up where nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lora_daemon import pipe
from lora_daemon.supervisor import Supervisor
from shared.errors import Code, LoraError

TRIES = 2  # a worker's death may have had another cause; a second one was this order's

Asked = pipe.Serving | pipe.Describe
Report = (
    pipe.PaintStep | pipe.Painted | pipe.PaintFailed | pipe.Probed | pipe.Gathered | pipe.Zipped
    | pipe.Weighed | pipe.ProbeFailed | pipe.Described | pipe.DescribeFailed | pipe.Measured
    | pipe.MeasureFailed
)  # fmt: skip
FAILED = (pipe.PaintFailed, pipe.ProbeFailed, pipe.DescribeFailed, pipe.MeasureFailed)


@dataclass
class _Order:
    """An order with the worker."""

    order: Asked
    unfinished: str
    hear: Callable[[Any], bool]
    done: asyncio.Future[Any]
    tries: int = 1
    worker: int = 0  # the pid it was given to


class Orders:
    """The orders under way, by their job."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._orders: dict[str, _Order] = {}
        self._closing = False

    def close(self) -> None:
        """No worker is to be begun any more for what waits."""
        self._closing = True

    async def ask(
        self, order: Asked, unfinished: str, hear: Callable[[Any], bool] = lambda _: True
    ) -> Any:
        """Have the worker do an order, and return its last report.

        ``hear``: called with each report but a failure; whether it is the last. What it raises goes
        to the caller of ``report``. A worker that dies of the order is replaced once. Cancelled,
        the worker gives the order up at its next look. Raises LoraError: what the worker says, or
        WORKER_FAILED, which begins with ``unfinished``.
        """
        own = _Order(order, unfinished, hear, asyncio.get_running_loop().create_future())
        self._orders[order.job] = own
        sending = asyncio.ensure_future(self._supervisor.send(order))
        try:
            # Not to be cut short: it may be beginning a worker.
            own.worker = await asyncio.shield(sending)
            return await own.done
        except asyncio.CancelledError:
            sending.add_done_callback(lambda sent: self._give_up(order.job, sent))
            raise
        finally:
            del self._orders[order.job]

    def _give_up(self, job: str, sent: asyncio.Future[int]) -> None:
        """Cancel a job once the worker has it."""
        if not sent.cancelled() and sent.exception() is None:
            self._supervisor.tell(pipe.Cancel(job=job))

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

    async def worker_died(self, pid: int, reason: str) -> None:
        """Ask a new worker for what the dead one had not finished, once."""
        for own in list(self._orders.values()):
            if own.done.done() or own.worker != pid or self._closing:
                continue
            own.tries += 1
            try:
                if own.tries > TRIES:
                    raise LoraError(
                        Code.WORKER_FAILED, f"{own.unfinished} {reason}", retryable=True
                    )
                own.worker = await self._supervisor.send(own.order)
            except LoraError as error:
                own.done.set_exception(error)
