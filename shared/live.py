"""Live values are lossy: which of them replace each other, and what survives of the older one."""

from __future__ import annotations

import msgspec

from shared import wire
from shared.decimate import decimate

MAX_POINTS = 512  # of a RunProgress


def live_key(value: wire.AnyLive) -> tuple[str, str]:
    """(kind, id of the run, device, worker's GPU, job or dataset): values of one key replace each
    other."""
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
            return "worker", value.worker.gpu
        case wire.FolderSeen():
            return "folder", value.dataset


def merge(older: wire.AnyLive | None, newer: wire.AnyLive) -> wire.AnyLive:
    """The value that stands for both: the newer, with the points or the news of either."""
    if isinstance(newer, wire.FolderSeen) and isinstance(older, wire.FolderSeen):
        news = " ".join(filter(None, (older.news, newer.news)))
        return msgspec.structs.replace(newer, news=news)
    if not isinstance(newer, wire.RunProgress) or not isinstance(older, wire.RunProgress):
        return newer
    # a run taken up from its resume state repeats steps: the newer ones count
    first = newer.points[0].step if newer.points else newer.step + 1
    points = [point for point in older.points if point.step < first] + newer.points
    if len(points) > 2 * MAX_POINTS:  # not at every point: thinning looks at all of them
        points = _thinned(points)
    return msgspec.structs.replace(newer, points=points)


def sendable(value: wire.AnyLive) -> wire.AnyLive:
    """The value with at most MAX_POINTS points."""
    if isinstance(value, wire.RunProgress) and len(value.points) > MAX_POINTS:
        return msgspec.structs.replace(value, points=_thinned(value.points))
    return value


def _thinned(points: list[wire.LivePoint]) -> list[wire.LivePoint]:
    return decimate(points, MAX_POINTS, lambda point: point.loss)
