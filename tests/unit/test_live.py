"""Charts lose points and never a spike; live values lose the past and never its points."""

from __future__ import annotations

import math
import random

import pytest

from shared import wire
from shared.decimate import decimate
from shared.live import MAX_POINTS, live_key, merge, sendable


def itself(value: float) -> float:
    return value


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 100, 101, 5000])
@pytest.mark.parametrize("limit", [2, 3, 7, 100])
def test_at_most_so_many_in_their_order_with_both_ends(count: int, limit: int) -> None:
    series = [float(value) for value in random.Random(count).sample(range(10_000), count)]
    thin = decimate(series, limit, itself)
    assert len(thin) <= max(limit, 0)
    assert [series.index(value) for value in thin] == sorted(series.index(value) for value in thin)
    if count:
        assert (thin[0], thin[-1]) == (series[0], series[-1])
    if count <= limit:
        assert thin == series


def test_a_spike_survives_any_thinning() -> None:
    for place in range(1000):
        series = [0.5] * 1000
        series[place] = 7.0
        assert 7.0 in decimate(series, 20, itself)
        series[place] = -7.0
        assert -7.0 in decimate(series, 20, itself)


def test_a_step_that_diverged_is_seen() -> None:
    series = [0.5] * 1000
    series[400] = math.nan
    assert any(math.isnan(value) for value in decimate(series, 20, itself))


def progress(step: int, points: list[wire.LivePoint]) -> wire.RunProgress:
    return wire.RunProgress(
        run="r0001", phase="training", done=step, total=9, step=step, epoch=1, speed=1.0, eta=None,
        loss=None, points=points,
    )  # fmt: skip


def point(step: int, loss: float = 0.0) -> wire.LivePoint:
    return wire.LivePoint(step, loss, 1e-4, 1.0, 0.0)


def test_the_newer_counts_and_the_points_of_both_stay() -> None:
    both = merge(progress(2, [point(1), point(2)]), progress(3, [point(3)]))
    assert both == progress(3, [point(1), point(2), point(3)])


def test_steps_that_a_resumed_run_repeats_count_once() -> None:
    both = merge(progress(3, [point(1), point(2), point(3)]), progress(2, [point(2, 5.0)]))
    assert both == progress(2, [point(1), point(2, 5.0)])


def test_points_are_bounded_while_they_wait_and_when_they_go() -> None:
    value: wire.AnyLive = progress(0, [])
    for step in range(5000):
        value = merge(value, progress(step, [point(step)]))
        assert isinstance(value, wire.RunProgress) and len(value.points) <= 2 * MAX_POINTS
    value = sendable(value)
    assert isinstance(value, wire.RunProgress) and len(value.points) <= MAX_POINTS
    assert (value.points[0].step, value.points[-1].step) == (0, 4999)


def test_only_values_of_one_thing_replace_each_other() -> None:
    job = wire.Job(id="j1", kind="import", title="", state="running", done=0, total=1, message="")
    worker = wire.WorkerChanged(worker=wire.Worker(state="idle"))
    values = [progress(1, []), wire.JobChanged(job=job), worker, wire.Attached(clients=[])]
    assert len({live_key(value) for value in values}) == len(values)
