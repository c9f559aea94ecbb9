"""Following a run to its end: progress while it goes on, one line when it is over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from lora_tui.commands.common import Invocation
from lora_tui.core import words
from shared import wire
from shared.client import Client, Disconnected
from shared.errors import Code, Exit, LoraError


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of a followed run."""

    run: str
    state: str
    steps: int
    loss: float | None
    lora: str  # the file, on the daemon's machine; empty if there is none
    message: str = ""


async def follow(call: Invocation, client: Client, run_id: str) -> wire.Run:
    """Show a run's progress until it is over, and return it as it then is.

    A daemon that dies is started again by the client, and nothing is missed. Raises
    LoraError: NOT_FOUND if somebody deletes the run, UNREACHABLE if somebody stops the daemon.
    """
    shown = told = ""
    async for notice in client.notices():
        if isinstance(notice, Disconnected):
            if notice.left:
                raise LoraError(
                    Code.UNREACHABLE,
                    f"The daemon was stopped. {run_id} goes on from its last state when it starts "
                    "again: `lora-tui daemon start`.",
                )
            call.console.say(f"The daemon is lost: {notice.reason}. Trying to reach it again.")
            continue
        run = _run(client, run_id)
        if run.state in wire.FINAL_STATES:
            return run
        live = client.live.get(("run", run_id))
        last = live if isinstance(live, wire.RunProgress) else None
        if isinstance(notice, wire.LiveUpdate):
            ours = any(isinstance(v, wire.RunProgress) and v.run == run_id for v in notice.values)
            if last and ours:
                call.console.event(
                    {"run": run_id, "state": run.state, "phase": last.phase, "step": last.step,
                     "epoch": last.epoch, "loss": last.loss, "speed": last.speed, "eta": last.eta}
                )  # fmt: skip
        if run.state == "training" and run.message != told:
            told = run.message
            if told:  # such as what it fell back to
                call.console.say(f"{run_id}: {told}")
        now = f"{run.state} {run.phase}"
        if now != shown:
            shown = now
            call.console.event(
                {"run": run_id, "state": run.state, "phase": run.phase, "step": run.step,
                 "epoch": run.epoch, "loss": run.loss, "speed": run.speed, "eta": None}
            )  # fmt: skip
        call.console.progress(_progress(run, last), key=now)
    raise LoraError(Code.UNREACHABLE, "The connection was closed.")


@contextlib.contextmanager
def leaving(call: Invocation, runs: Sequence[wire.Run]) -> Iterator[None]:
    """Who leaves within, with ctrl-c, is told that the runs go on, and what follows or ends them.
    In what order runs wait is the daemon's business, so the first stands for all."""
    try:
        yield
    except asyncio.CancelledError:
        first = runs[0].id
        names = first if len(runs) == 1 else f"{first} to {runs[-1].id}"
        goes = "goes" if len(runs) == 1 else "go"
        call.console.say(
            f"{names} {goes} on without you. `lora-tui run watch {first}` follows it again; "
            f"`lora-tui run stop {first}` ends it and saves."
        )
        raise


async def followed(call: Invocation, client: Client, run_id: str, more: str = "") -> wire.Run:
    """As ``follow``, for what needs the run's LoRA: raises LoraError(WORKER_FAILED), which ends in
    ``more``, unless the run finishes."""
    run = await follow(call, client, run_id)
    if run.state != "finished":
        raise LoraError(
            Code.WORKER_FAILED,
            f"{run.id} {run.state} at step {run.step}. {run.message} "
            f"`lora-tui run log {run.id}` has the details{more}.",
        )
    return run


async def outcome(call: Invocation, client: Client, run: wire.Run) -> Exit:
    """Say how a run ended: the last line on stdout, and the exit status."""
    detail = await client.call(wire.GetRun(run=run.id))
    final = [checkpoint for checkpoint in detail.checkpoints if checkpoint.final]
    lora = str(Path(detail.directory) / final[-1].path) if final else ""
    value = Outcome(
        run=run.id, state=run.state, steps=run.step, loss=run.loss, lora=lora, message=run.message
    )
    loss = f", loss {words.number(run.loss)}" if run.loss is not None else ""
    line = f"{run.id} {run.state}, {run.step} steps{loss}"
    call.console.show(value, lambda: [f"{line}: {lora}" if lora else line])
    if run.state != "failed":
        return Exit.OK
    call.console.say(run.message or "The run failed; `lora-tui run log` says why.")
    return Exit.RUN_FAILED


def _run(client: Client, run_id: str) -> wire.Run:
    for run in client.state.runs:
        if run.id == run_id:
            return run
    raise LoraError(Code.NOT_FOUND, f"The run {run_id} is gone: somebody deleted it.")


def _progress(run: wire.Run, last: wire.RunProgress | None) -> str:
    if last is None or run.state != "training":
        where = f" {run.done}/{run.total}" if run.done and run.phase else ""
        return f"{run.id} {run.phase or run.state}{where} {run.message}".strip()
    if last.phase != "training":
        where = f" {last.done}/{last.total}" if last.done else ""
        return f"{run.id} {last.phase}{where}"
    eta = f", {words.duration(last.eta)} left" if last.eta is not None else ""
    return (
        f"{run.id} epoch {last.epoch}/{run.epochs}, step {words.count(last.step)}"
        f"/{words.count(run.steps)}, loss {words.number(last.loss)}, "
        f"{words.speed(last.speed)}{eta}"
    )
