"""Places chosen in a list of any length, kept as stretches: all of 100 000 are one."""

from __future__ import annotations

from bisect import bisect_right


class Selection:
    """Stretches are (first, last), in order, apart from each other."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        self.last: int | None = None  # where a stretch to somewhere else begins

    def __contains__(self, place: int) -> bool:
        before = bisect_right(self.spans, (place, float("inf"))) - 1
        return before >= 0 and place <= self.spans[before][1]

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.spans)

    def toggle(self, place: int) -> None:
        """Choose a place, or no longer."""
        if place in self:
            self._remove(place, place)
        else:
            self._add(place, place)
        self.last = place

    def stretch(self, place: int) -> None:
        """Choose all from the last one to ``place``."""
        start = place if self.last is None else self.last
        self._add(min(start, place), max(start, place))
        self.last = place

    def all(self, count: int) -> None:
        """Choose all of so many places; none, if all are chosen."""
        full = len(self) == count
        self.clear()
        if count and not full:
            self.spans = [(0, count - 1)]

    def clear(self) -> None:
        self.spans = []
        self.last = None

    def _add(self, first: int, last: int) -> None:
        self._remove(first, last)
        joined = list[tuple[int, int]]()
        for start, end in sorted([*self.spans, (first, last)]):
            if joined and joined[-1][1] == start - 1:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        self.spans = joined

    def _remove(self, first: int, last: int) -> None:
        left = []
        for start, end in self.spans:
            left += [(start, min(end, first - 1)), (max(start, last + 1), end)]
        self.spans = sorted({span for span in left if span[0] <= span[1]})
