"""``lora-tui status``: the daemon, its device, the queue. Never starts a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.console import pairs
from lora_tui.core import summary, words
from shared import wire
from shared.errors import Exit


def add(subparsers: Subparsers) -> None:
    command(
        subparsers,
        "status",
        status,
        "the daemon, its device and the queue",
        "  lora-tui status --json | jq '.runs[] | {id, state, step, steps}'",
    )


async def status(call: Invocation) -> Exit:
    async with call.client(start=False) as client:
        answer = await client.call(wire.GetStatus())
    call.console.show(answer, lambda: told(answer))
    return Exit.OK


def told(status: wire.Status) -> Iterator[str]:
    """A status for people."""
    yield from pairs(
        [
            ("daemon", f"{status.version}, pid {status.pid}, up {_up(status)}"),
            ("workspace", status.home),
            ("endpoint", status.endpoint),
            *_engine(status),
            *(("attached", one) for one in _attached(status.clients)),
            *(("warning", warning) for warning in status.warnings),
        ]
    )
    for job in status.jobs:
        why = f". {job.message}" if job.state == "failed" and job.message else ""
        share = words.share(job.done, job.total, job.kind)
        yield f"{job.kind}  {job.title}: {job.state}, {share}{why}"
    for run in status.runs:
        yield told_run(run)
    if not status.runs:
        yield "no run is waiting or running"


def _engine(status: wire.Status) -> Iterator[tuple[str, str]]:
    """The worker and its device; of several GPUs what each is at."""
    if len(status.workers) < 2:
        worker = status.worker
        yield "worker", f"{worker.state} {worker.device_name} {worker.precision}".strip()
        yield "", worker.message
        yield from ((use.device, _use(use)) for use in status.devices)
        return
    for worker in status.workers:
        uses = [_use(use) for use in status.devices if use.gpu == worker.gpu]
        yield words.gpus([worker.gpu]), ", ".join([at(worker), *uses])
        yield "", worker.message


def at(worker: wire.Worker) -> str:
    """What a worker is at, in a word or two: training r0003."""
    state = "free" if worker.state == "absent" and not worker.run else worker.state
    return f"{state} {worker.run}".strip()


def told_run(run: wire.Run) -> str:
    """A run in one line."""
    parts = [f"{run.id} {run.name}: {run.state}"]
    if run.phase and run.phase != run.state:
        parts.append(f"{run.phase} {run.done}/{run.total}" if run.total else run.phase)
    if run.gpus:
        parts.append(f"on {words.gpus(run.gpus)}")
    parts.append(f"step {words.count(run.step)} of {words.count(run.steps)}")
    parts.append(f"epoch {run.epoch}/{run.epochs}")
    if run.loss is not None:
        parts.append(f"loss {words.number(run.loss)}")
    if run.speed:
        parts.append(words.speed(run.speed))
        parts.append(f"{words.duration((run.steps - run.step) / run.speed)} left")
    return ", ".join(parts) + (f". {run.message}" if run.message else "")


def _up(status: wire.Status) -> str:
    return words.duration(time.time() - status.started)


def _attached(clients: list[wire.ClientInfo]) -> Iterator[str]:
    """Each name once: who is attached, from where, at which pictures."""
    by_name: dict[str, list[wire.ClientInfo]] = {}
    for client in clients:
        by_name.setdefault(client.name, []).append(client)
    for name, theirs in by_name.items():
        places = dict.fromkeys(f"{one.host} {one.terminal}".strip() for one in theirs)
        seen = dict.fromkeys(one.looking.name for one in theirs if one.looking is not None)
        where = f"{summary.times(name, len(theirs))} from {', '.join(places)}"
        yield f"{where}, at {', '.join(seen)}" if seen else where


def _use(use: wire.DeviceUse) -> str:
    memory = "RAM" if use.kind == "cpu" else "VRAM"
    parts = [use.name, f"{memory} {words.gib(use.used)} of {words.gib(use.total)} GiB"]
    if use.utilisation is not None:
        parts.append(f"{use.utilisation:.0f} % busy")
    if use.temperature is not None:
        parts.append(f"{use.temperature:.0f} °C")
    if use.power is not None:
        parts.append(f"{use.power:.0f} W")
    return ", ".join(part for part in parts if part)
