"""Series for charts: min and max of each column, smoothing, and the braille dots themselves."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# Dot bits of a braille cell by (column, row), from the Unicode block's definition.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


@dataclass(frozen=True)
class Line:
    """One line of a chart: points in order of x, and the tone it is painted in.

    ``mark``: a character that stands on the line here and there, so that it is told from others
    without colour as well.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    tone: str
    name: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Frame:
    """What part of the plane a chart shows."""

    left: float
    right: float
    bottom: float
    top: float


def smooth(xs: Sequence[float], ys: Sequence[float], span: float) -> list[float]:
    """Exponential moving average over ``span`` units of x, free of the start's bias: a gap of d
    counts as d steps, so that a decimated series smooths as the full one does."""
    result: list[float] = []
    mean = weight = 0.0
    before = xs[0] - 1 if xs else 0.0
    for x, y in zip(xs, ys, strict=True):
        keep = math.exp(-max(x - before, 0.0) / span)
        before = x
        if math.isfinite(y):
            mean = mean * keep + y * (1 - keep)
            weight = weight * keep + (1 - keep)
        result.append(mean / weight if weight > 0 else math.nan)
    return result


def extremes(
    xs: Sequence[float], ys: Sequence[float], left: float, right: float, buckets: int
) -> list[tuple[float, float, float, float] | None]:
    """(first, lowest, highest, last) of the points in each of ``buckets`` equal parts of
    [left, right]; None where there is no point. Points that are not finite are left out."""
    result: list[tuple[float, float, float, float] | None] = [None] * buckets
    span = right - left
    if span <= 0 or not xs:
        span = 1.0
    for place in range(bisect_left(xs, left), len(xs)):
        x, y = xs[place], ys[place]
        if x > right:
            break
        if not math.isfinite(y):
            continue
        bucket = min(int((x - left) / span * buckets), buckets - 1)
        found = result[bucket]
        if found is None:
            result[bucket] = (y, y, y, y)
        else:
            result[bucket] = (found[0], min(found[1], y), max(found[2], y), y)
    return result


def spread(lines: Sequence[Line], clip: float = 0.01, floor: float | None = None) -> Frame:
    """A frame for all lines. ``clip``: the part of the points that may stick out at either end,
    so that one spike does not flatten the rest. ``floor``: where y starts, if it must."""
    xs = [x for line in lines if len(line.xs) for x in (line.xs[0], line.xs[-1])]
    ys = sorted(y for line in lines for y in line.ys if math.isfinite(y))
    if not xs or not ys:
        return Frame(0.0, 1.0, 0.0, 1.0)
    last = len(ys) - 1
    low, high = ys[int(last * clip)], ys[math.ceil(last * (1 - clip))]
    if floor is not None:
        low = min(floor, low)
    if high - low < 1e-12:
        pad = abs(high) * 0.5 or 1.0
        low, high = (low if floor is not None else low - pad), high + pad
    left, right = min(xs), max(xs)
    return Frame(left, right if right > left else left + 1, low, high)


def rounded(frame: Frame, right: float | None = None) -> Frame:
    """The frame with ends that seldom move: y in eighths of its power of two, x up to ``right``."""
    span = frame.top - frame.bottom
    step = 2.0 ** math.floor(math.log2(span)) / 8 if span > 0 else 1.0
    return Frame(
        frame.left,
        frame.right if right is None else max(right, frame.left + 1),
        math.floor(frame.bottom / step) * step,
        math.ceil(frame.top / step) * step,
    )


def braille(
    lines: Sequence[Line], frame: Frame, width: int, height: int
) -> list[list[tuple[str, str]]]:
    """``height`` rows of ``width`` cells, each (character, tone). Later lines lie on top.

    Two columns of dots a cell, four rows: a column's bar goes from its lowest point to its
    highest, and on to the neighbour's, so that no extreme and no step is lost.
    """
    dots = [[0] * width for _ in range(height)]
    tones = [[""] * width for _ in range(height)]
    rows = height * 4
    scale = (rows - 1) / ((frame.top - frame.bottom) or 1.0)

    def row_of(y: float) -> int:
        return min(max(round((frame.top - y) * scale), 0), rows - 1)

    for line in lines:
        before: tuple[int, float] | None = None  # (column, last y)
        for column, found in enumerate(
            extremes(line.xs, line.ys, frame.left, frame.right, width * 2)
        ):
            if found is None:
                continue
            first, lowest, highest, last = found
            if before is not None and column - before[0] > 1:
                _bridge(dots, tones, line.tone, before, (column, first), row_of)
            top, bottom = row_of(highest), row_of(lowest)
            if before is not None and column - before[0] == 1:
                joint = row_of(before[1])  # reach the neighbour's last point, one dot short
                if joint < top - 1:
                    top = joint + 1
                elif joint > bottom + 1:
                    bottom = joint - 1
            for row in range(top, bottom + 1):
                dots[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
                tones[row // 4][column // 2] = line.tone
            before = (column, last)
    cells = [
        [(chr(0x2800 + bits) if bits else " ", tone) for bits, tone in zip(*row, strict=True)]
        for row in zip(dots, tones, strict=True)
    ]
    for column, y, line in _marked(lines, frame, width):
        cells[row_of(y) // 4][column] = (line.mark, f"{line.tone} bold")
    return cells


def _marked(lines: Sequence[Line], frame: Frame, width: int) -> Iterator[tuple[int, float, Line]]:
    """(column, y, line) of the marks: three on each, at columns of its own."""
    marked = [line for line in lines if line.mark]
    span = (frame.right - frame.left) or 1.0
    for number, line in enumerate(marked):
        points = [
            (int((x - frame.left) / span * width), y)
            for x, y in zip(line.xs, line.ys, strict=True)
            if math.isfinite(y) and frame.left <= x <= frame.right
        ]
        if not points:
            continue
        columns = [column for column, _ in points]
        for third in range(3):
            share = (third + (number + 1) / (len(marked) + 1)) / 3
            wanted = columns[0] + int(share * (columns[-1] - columns[0]))
            column, y = points[min(bisect_left(columns, wanted), len(points) - 1)]
            yield min(column, width - 1), y, line


def _bridge(
    dots: list[list[int]],
    tones: list[list[str]],
    tone: str,
    start: tuple[int, float],
    end: tuple[int, float],
    row_of: Callable[[float], int],
) -> None:
    """A straight line over columns that have no point."""
    gap = end[0] - start[0]
    before = row_of(start[1])
    for column in range(start[0] + 1, end[0]):
        after = row_of(start[1] + (end[1] - start[1]) * (column - start[0]) / gap)
        first, last = sorted((before + (after > before) - (after < before), after))
        for row in range(first, last + 1):  # steep ones stay joined
            dots[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
            tones[row // 4][column // 2] = tone
        before = after


def parts(amounts: Sequence[float], total: float, width: int) -> list[int]:
    """Cells of a stacked bar: whole cells that add up to ``width`` at most, nothing that is there
    shown as nothing where room is left (largest remainders first)."""
    if total <= 0 or width <= 0:
        return [0] * len(amounts)
    exact = [max(amount, 0) / total * width for amount in amounts]
    cells = [int(part) for part in exact]
    wanted = min(round(sum(exact)), width)
    by_need = sorted(
        range(len(exact)), key=lambda i: (cells[i] == 0 and exact[i] > 0.05, exact[i] - cells[i])
    )
    while sum(cells) < wanted and by_need:
        cells[by_need.pop()] += 1
    return cells
