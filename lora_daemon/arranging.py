"""The order of the queue: what goes before what, and what waits for what."""

from __future__ import annotations

import msgspec

from lora_daemon.runs import Runs
from lora_daemon.service import Context, Daemon
from shared import run_queue, wire
from shared.errors import Code, LoraError


def said(blocking: list[wire.Run]) -> str:
    """What a run waits for, in a sentence."""
    over = [one for one in blocking if one.state in wire.FINAL_STATES]
    if not over:
        return f"Waits for {', '.join(one.id for one in blocking)}."
    one = over[0]
    return (
        f"Waits for {one.id}, which {one.state} without a LoRA. Let that one go on, or say what "
        "else this is to wait for: `lora-tui run after`, or A in Runs."
    )


class Arranging:
    """Answers ArrangeRun."""

    def __init__(self, daemon: Daemon, runs: Runs) -> None:
        self._store = daemon.store
        self._runs = runs

    async def arrange(self, context: Context, request: wire.ArrangeRun) -> wire.Run:
        """Raises LoraError: NOT_FOUND, WRONG_STATE."""
        run = self._runs.get(request.run)
        if not run_queue.has_place(run):
            raise LoraError(
                Code.WRONG_STATE,
                f"{run.id} is {run.state}: only a run that has not begun has a place in the queue.",
                data={"run": run.id, "state": run.state},
            )
        changed = self._moved(run, request.move, request.before)
        if request.after is not None:
            after = self._after(run, request.after)
            mine = next((one for one in changed if one.id == run.id), run)
            changed = [one for one in changed if one.id != run.id]
            changed.append(msgspec.structs.replace(mine, after=after, message=""))
        answer = next((one for one in changed if one.id == run.id), run)
        with self._store.change(context.by) as change:
            for one in changed:
                self._runs.put(change, msgspec.structs.replace(one, rev=one.rev + 1))
            self._store.remember(change, context.key, answer)
        return self._runs.get(run.id)

    def _moved(self, run: wire.Run, move: str, before: str) -> list[wire.Run]:
        """The runs whose places change: those that wait share out the places they have.

        Raises LoraError: NOT_FOUND, WRONG_STATE where ``before`` has begun.
        """
        waiting = run_queue.waiting(self._runs.all())
        places = self._runs.places([one.id for one in waiting])
        here = next(i for i, one in enumerate(waiting) if one.id == run.id)
        ends = {"up": here - 1, "down": here + 1, "first": 0, "last": len(waiting) - 1, "": here}
        there = min(max(ends[move], 0), len(waiting) - 1)
        waiting.pop(here)
        if before:
            other = self._runs.get(before)
            ids = [one.id for one in waiting]
            if other.id not in ids:
                raise LoraError(
                    Code.WRONG_STATE,
                    f"{run.id} cannot stand before {other.id}, which "
                    + ("is itself." if other.id == run.id else "no longer waits."),
                    data={"run": other.id, "state": other.state},
                )
            there = ids.index(other.id)
        waiting.insert(there, run)
        return [
            msgspec.structs.replace(one, place=place)
            for one, place in zip(waiting, places, strict=True)
            if one.place != place
        ]

    def _after(self, run: wire.Run, names: list[str]) -> list[str]:
        """Raises LoraError: NOT_FOUND, WRONG_STATE where runs would wait for one another."""
        every = {one.id: one for one in self._runs.all()}
        wanted = self._runs.ids(names)
        ahead, seen = list(wanted), set[str]()
        while ahead:
            one = ahead.pop()
            if one == run.id:
                raise LoraError(
                    Code.WRONG_STATE, f"{run.id} would wait for itself: {', '.join(wanted)} waits "
                    "for it.",
                )  # fmt: skip
            if one not in seen and one in every:
                seen.add(one)
                ahead += every[one].after
        return wanted
