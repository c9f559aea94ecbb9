"""Thin a series for a chart: each bucket keeps its least and its greatest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def decimate(series: Sequence[T], limit: int, value: Callable[[T], float]) -> list[T]:
    """At most ``limit`` (≥ 2) elements of ``series`` in their order, extremes of ``value`` kept.

    The first and the last are always among them. NaN counts as the greatest: a diverging step
    must be seen.
    """
    count = len(series)
    if count <= limit:
        return list(series)
    if limit <= 2:
        return [series[0], series[-1]][:limit]

    def height(index: int) -> float:
        found = value(series[index])
        return math.inf if math.isnan(found) else found

    kept = {0, count - 1}
    buckets = (limit - 2) // 2
    for bucket in range(buckets):
        inside = range(
            1 + bucket * (count - 2) // buckets, 1 + (bucket + 1) * (count - 2) // buckets
        )
        kept.add(min(inside, key=height))
        kept.add(max(inside, key=height))
    return [series[index] for index in sorted(kept)]
