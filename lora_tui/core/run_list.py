"""The list of runs: what is at work, the queue in its order, what has ended; sweeps as groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from lora_tui.core import words
from shared import run_queue, sweeps
from shared.wire import FINAL_STATES, Run

_ORDER = {"training": 0, "starting": 0, "paused": 1, "queued": 2, "interrupted": 2}


class Entry(msgspec.Struct, frozen=True):
    """A row: a run, or the head of a sweep whose runs follow it."""

    runs: list[Run]  # one; of a head, all that are listed
    group: str = ""  # of a head: the sweep's name
    branch: str = ""  # before a run of a sweep

    @property
    def key(self) -> str:
        """What it is known by when the list changes."""
        return f"group:{self.group}" if self.group else self.runs[0].id

    @property
    def run(self) -> Run | None:
        return None if self.group else self.runs[0]


def entries(runs: Sequence[Run], needle: str = "") -> list[Entry]:
    """The rows in order. ``needle``: letters of the id, name, sweep, dataset or base."""
    needle = needle.lower()
    shown = [
        run for run in runs
        if needle in f"{run.id} {run.name} {run.group} {run.dataset} {run.base}".lower()
    ]  # fmt: skip
    groups: dict[str, list[Run]] = {}
    for run in shown:
        groups.setdefault(run.group or run.id, []).append(run)
    found = []
    for group in sorted(groups.values(), key=lambda group: min(map(_rank, group))):
        if len(group) == 1:
            found.append(Entry(group))
            continue
        members = sorted(group, key=lambda run: run.id)  # as the sweep's values were given
        found.append(Entry(members, group=members[0].group))
        branches = ["├ "] * (len(members) - 1) + ["└ "]
        found += [
            Entry([run], branch=branch) for run, branch in zip(members, branches, strict=True)
        ]
    return found


def _rank(run: Run) -> tuple[int, float]:
    if run_queue.has_place(run):
        return 2, run.place
    order = _ORDER.get(run.state, 3)
    return order, -run.created if order == 3 else run.created


def standing(run: Run, runs: Sequence[Run]) -> tuple[str, str]:
    """(state, tone) of a run: also its place in the queue, what it waits for, or its GPUs."""
    tone = words.RUN_TONES[run.state]
    if blocking := run_queue.waits_for(run, runs):
        dead = any(one.state in FINAL_STATES for one in blocking)
        after = blocking[0].id if len(blocking) == 1 else words.plural(len(blocking), "run")
        return f"after {after}", "error" if dead else tone
    if run_queue.has_place(run):
        number = [one.id for one in run_queue.waiting(runs)].index(run.id) + 1
        return f"{'held' if run.state == 'paused' else 'queued'} {number}", tone
    if run.gpus:
        return f"{'paused ' * (run.state == 'paused')}{words.gpus(run.gpus)}", tone
    return run.state, tone


def axes(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What a sweep goes along: each option and its values, in the order they were given."""
    found: dict[str, list[str]] = {}
    for run in sorted(runs, key=lambda run: run.id):
        for setting in run.settings:
            key, _, value = setting.partition("=")
            values = found.setdefault(key, [])
            if value not in values:
                values.append(value)
    return list(found.items())


def axes_said(runs: Sequence[Run]) -> str:
    """rank 4, 8, 16 × seed 1, 2"""
    found = axes(runs)
    return " × ".join(f"{key.rpartition('.')[2]} {', '.join(values)}" for key, values in found)


def apart(run: Run) -> str:
    """What sets a run of a sweep apart: rank=4."""
    return sweeps.short(run.settings) if run.group and run.settings else run.name or run.dataset


def best(runs: Sequence[Run], held: Mapping[str, float]) -> Run | None:
    """The run whose best checkpoint changes the loss on pictures kept back most for the better."""
    known = [run for run in runs if run.id in held]
    return min(known, key=lambda run: held[run.id], default=None)


def far(runs: Sequence[Run]) -> str:
    """How many runs of a sweep have ended: 2/3 done."""
    done = sum(run.state in FINAL_STATES for run in runs)
    return f"{done}/{len(runs)} done"


def table(
    runs: Sequence[Run], every: Sequence[Run], held: Mapping[str, float]
) -> list[tuple[str, str, str, str]]:
    """(★ where it is the best, its values, state and how far, held-out figure) of a sweep's runs.

    Held-out figure: change of the loss on pictures kept back, of its best measured checkpoint.
    """
    first = best(runs, held)
    rows = []
    for run in runs:
        state = standing(run, every)[0]
        if run.steps and run.started and run.state not in FINAL_STATES:
            state = f"{state} {100 * run.step // run.steps} %"
        figure = f"{held[run.id]:+.1%}" if run.id in held else "–"
        rows.append(("★" if run is first else " ", apart(run), state, figure))
    return rows
