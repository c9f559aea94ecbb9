"""How fast pictures are reviewed, and how long the rest will take."""

from __future__ import annotations

import itertools
from collections import deque

PAUSE = 60.0  # seconds; a longer gap between two pictures is not work
LEAST = 3  # pictures until anything is said


class Pace:
    """The last pictures that were reviewed here, by the time of each (s, monotonic)."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=60)

    def did(self, at: float) -> None:
        """A picture is reviewed that was not before."""
        self._times.append(at)

    @property
    def seconds(self) -> float | None:
        """For one picture; None while too little is known."""
        if len(self._times) < LEAST:
            return None
        times = list(self._times)
        gaps = [after - before for before, after in itertools.pairwise(times)]
        worked = [gap for gap in gaps if gap <= PAUSE]
        return max(sum(worked) / len(worked), 0.01) if worked else None
