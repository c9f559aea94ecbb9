"""The list of runs and the queue: order, sweeps as groups, who waits for whom."""

from __future__ import annotations

from typing import Any

import msgspec

from lora_tui.core import run_list
from shared import run_queue, wire
from tests.fixtures.make_workspace import RUN


def run(number: int, state: str = "queued", **fields: Any) -> wire.Run:
    begun = None if state in ("queued", "held") else 1.0
    return msgspec.structs.replace(
        RUN, id=f"r{number:04}", name=f"n{number}", state="paused" if state == "held" else state,
        started=fields.pop("started", begun), created=float(number), place=number,
        **{"group": "", "settings": [], "after": [], "lora": "", **fields},
    )  # fmt: skip


def swept(number: int, state: str, rank: int) -> wire.Run:
    return run(number, state, group="by rank", settings=[f"network.rank={rank}"])


def test_what_waits_is_listed_in_the_queues_order_and_numbered() -> None:
    runs = [run(1, "finished"), run(2), run(3, "held"), run(4, "training")]
    runs[1] = msgspec.structs.replace(runs[1], place=9)
    listed = [entry.runs[0].id for entry in run_list.entries(runs)]
    assert listed == ["r0004", "r0003", "r0002", "r0001"]
    told = [run_list.standing(one, runs)[0] for one in runs]
    assert told == ["finished", "queued 2", "held 1", "training"]


def test_a_run_that_waits_for_another_says_for_which_and_when_in_vain() -> None:
    runs = [run(1, "training"), run(2, after=["r0001"]), run(3, "failed"), run(4, after=["r0003"])]
    assert run_list.standing(runs[1], runs) == ("after r0001", "muted")
    assert run_list.standing(runs[3], runs) == ("after r0003", "error")
    both = msgspec.structs.replace(runs[1], after=["r0001", "r0003"])
    assert run_list.standing(both, runs)[0] == "after 2 runs"
    left = [msgspec.structs.replace(runs[0], state="finished"), runs[1]]
    assert run_list.standing(runs[1], left)[0] == "queued 1"


def test_a_sweep_is_a_head_and_its_runs_where_the_first_of_them_stands() -> None:
    runs = [swept(1, "finished", 4), run(2, "training"), swept(3, "queued", 8), run(4)]
    listed = run_list.entries(runs)
    assert [entry.key for entry in listed] == [
        "r0002", "group:by rank", "r0001", "r0003", "r0004",
    ]  # fmt: skip
    head = listed[1]
    assert head.run is None and head.runs == [runs[0], runs[2]]
    assert [entry.branch for entry in listed] == ["", "", "├ ", "└ ", ""]
    assert [entry.key for entry in run_list.entries(runs, "N3")] == ["r0003"]  # one is no group
    assert run_list.entries([]) == []


def test_a_sweep_tells_its_axis_each_value_and_the_best() -> None:
    runs = [swept(1, "finished", 4), swept(2, "finished", 8), swept(3, "queued", 16)]
    assert run_list.axes_said(runs) == "rank 4, 8, 16"
    table = run_list.table(runs, runs, {"r0001": -0.03, "r0002": -0.05})
    assert table == [
        (" ", "rank=4", "finished", "-3.0%"), ("★", "rank=8", "finished", "-5.0%"),
        (" ", "rank=16", "queued 1", "–"),
    ]  # fmt: skip
    assert run_list.best(runs, {}) is None
    assert run_list.far(runs) == "2/3 done"


def test_a_move_names_two_runs_so_that_the_same_move_twice_is_one() -> None:
    queue = [run(1), run(2), run(3, "held"), run(4, "training")]
    assert run_queue.moved_before(queue[2], queue, -1) == ("r0003", "r0002")
    assert run_queue.moved_before(queue[1], queue, 1) == ("r0003", "r0002")
    assert run_queue.moved_before(queue[0], queue, -1) is None
    assert run_queue.moved_before(queue[2], queue, 1) is None
    assert run_queue.moved_before(queue[3], queue, -1) is None  # it has begun
