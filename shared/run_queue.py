"""The queue as daemon and clients read it: who waits, in which order, and for whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.wire import Run


def left_its_lora(run: Run) -> bool:
    """Whether what waits for a run may begin."""
    return run.state == "finished" or (run.state == "stopped" and bool(run.lora))


def waits_for(run: Run, runs: Iterable[Run]) -> list[Run]:
    """The runs that must leave their LoRA before ``run`` may begin; none once it has begun."""
    if run.started is not None:
        return []
    return [one for one in runs if one.id in run.after and not left_its_lora(one)]


def has_place(run: Run) -> bool:
    """Whether a run can be moved in the queue: it has not begun, and may be held back."""
    return run.started is None and run.state in ("queued", "paused")


def waiting(runs: Iterable[Run]) -> list[Run]:
    """The runs that have not begun, in the order of the queue."""
    return sorted((run for run in runs if has_place(run)), key=lambda run: run.place)


def moved_before(run: Run, runs: Sequence[Run], by: int) -> tuple[str, str] | None:
    """(a run, the one it is to stand before) so that ``run`` goes one place earlier (``by`` -1) or
    later (1); None at the end. Said so, and not as "one up", two clients who do it at once agree.
    """
    queue = [one.id for one in waiting(runs)]
    if run.id not in queue:
        return None
    here = queue.index(run.id)
    there = here + by
    if not 0 <= there < len(queue):
        return None
    return (run.id, queue[there]) if by < 0 else (queue[there], run.id)
