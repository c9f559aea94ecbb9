"""Live values are lossy: which of them replace each other, and what survives of the older one."""

from __future__ import annotations

import msgspec

from shared import wire
from shared.decimate import decimate

MAX_POINTS = 512  # of a RunProgress


def live_key(value: wire.AnyLive) -> tuple[str, str]:
    """(kind, id of the run, device or job): values with the same key replace each other."""
    match value:
        case wire.RunProgress():
            return "run", value.run
        case wire.DeviceUse():
            return "device", value.device
        case wire.JobChanged():
            return "job", value.job.id
        case wire.Attached():
            return "attached", ""
        case wire.WorkerChanged():
            return "worker", ""


def merge(older: wire.AnyLive | None, newer: wire.AnyLive) -> wire.AnyLive:
    """The value that stands for both: the newer, with the points of either, at most MAX_POINTS."""
    if not isinstance(newer, wire.RunProgress):
        return newer
    points = newer.points
    if isinstance(older, wire.RunProgress):
        # a run taken up from its resume state repeats steps: the newer ones count
        first = points[0].step if points else newer.step + 1
        points = [point for point in older.points if point.step < first] + points
    thinned = decimate(points, MAX_POINTS, lambda point: point.loss)
    return msgspec.structs.replace(newer, points=thinned)
