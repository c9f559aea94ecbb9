"""Benchmarks: each module prints one JSON object. ``make bench`` runs them all."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and an interval of about 95 % for it, from order statistics; at least 7 values."""
    ranked = sorted(values)
    edge = max(0, int(len(ranked) / 2 - 0.98 * len(ranked) ** 0.5))
    return {
        "median": round(statistics.median(ranked), 4),
        "low": round(ranked[edge], 4),
        "high": round(ranked[-1 - edge], 4),
        "n": len(ranked),
    }
