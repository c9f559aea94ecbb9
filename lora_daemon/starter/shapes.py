"""The shapes of the starter's world: each object as polygons and thick lines around the origin."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Point: TypeAlias = tuple[float, float]
Shade: TypeAlias = Literal["main", "light", "dark", "white", "black"]


@dataclass(frozen=True)
class Part:
    """A filled polygon, or with `width` > 0 a thick line, in the shape's units (-1 … 1, y down)."""

    points: tuple[Point, ...]
    shade: Shade = "main"
    width: float = 0.0
    outlined: bool = True


Shape: TypeAlias = list[Part]


def oval(
    x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360
) -> tuple[Point, ...]:
    """Return an ellipse's outline, or the arc from `start` to `end` degrees of it."""
    steps = max(8, round(abs(end - start) / 9))
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


def _poly(*coordinates: float) -> tuple[Point, ...]:
    return tuple(zip(coordinates[::2], coordinates[1::2], strict=True))


def _ball() -> Shape:
    return [
        Part(oval(0, 0, 0.85, 0.85)),
        Part(oval(-0.3, -0.35, 0.2, 0.15), "light", outlined=False),
    ]


def _box() -> Shape:
    return [
        Part(_poly(-0.85, -0.3, 0.4, -0.3, 0.4, 0.85, -0.85, 0.85)),
        Part(_poly(-0.85, -0.3, -0.4, -0.75, 0.85, -0.75, 0.4, -0.3), "light"),
        Part(_poly(0.4, -0.3, 0.85, -0.75, 0.85, 0.4, 0.4, 0.85), "dark"),
    ]


def _star() -> Shape:
    points = []
    for i in range(10):
        radius, angle = (1.0 if i % 2 == 0 else 0.45), math.radians(36 * i - 90)
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return [Part(tuple(points))]


def _heart() -> Shape:
    points = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3 * 0.95, -y / 17))
    return [Part(tuple(points))]


def _moon() -> Shape:
    outer, inner = oval(0, 0, 0.95, 0.95, 50, 310), oval(0.42, 0, 0.75, 0.75, 285, 75)
    return [Part(outer + inner)]


def _house() -> Shape:
    return [
        Part(_poly(-0.7, -0.1, 0.7, -0.1, 0.7, 0.85, -0.7, 0.85)),
        Part(_poly(-0.95, -0.1, 0, -0.95, 0.95, -0.1), "dark"),
        Part(_poly(-0.15, 0.3, 0.2, 0.3, 0.2, 0.85, -0.15, 0.85), "light", outlined=False),
    ]


def _tree() -> Shape:
    return [
        Part(_poly(-0.15, 0.5, 0.15, 0.5, 0.15, 1, -0.15, 1), "dark"),
        Part(_poly(-0.8, 0.65, 0, -0.15, 0.8, 0.65)),
        Part(_poly(-0.65, 0.15, 0, -0.6, 0.65, 0.15)),
        Part(_poly(-0.5, -0.35, 0, -1, 0.5, -0.35)),
    ]


def _fish() -> Shape:
    return [
        Part(_poly(0.35, 0, 1, -0.55, 0.85, 0, 1, 0.55)),
        Part(oval(-0.2, 0, 0.75, 0.5)),
        Part(oval(-0.55, -0.12, 0.13, 0.13), "white", outlined=False),
        Part(oval(-0.57, -0.12, 0.06, 0.06), "black", outlined=False),
    ]


def _mushroom() -> Shape:
    return [
        Part(_poly(-0.25, 0, 0.25, 0, 0.35, 0.9, -0.35, 0.9), "white"),
        Part(oval(0, 0.1, 0.95, 0.95, 180, 360)),
        Part(oval(-0.4, -0.2, 0.15, 0.15), "light", outlined=False),
        Part(oval(0.15, -0.5, 0.15, 0.15), "light", outlined=False),
        Part(oval(0.5, -0.12, 0.13, 0.13), "light", outlined=False),
    ]


def _cup() -> Shape:
    return [
        Part(oval(0.5, 0.0, 0.38, 0.4), width=0.18),
        Part(_poly(-0.8, -0.65, 0.55, -0.65, 0.4, 0.75, -0.65, 0.75)),
        Part(oval(-0.125, -0.65, 0.67, 0.16), "light"),
    ]


def _flower() -> Shape:
    stem = Part(_poly(0, 0.2, 0, 1), "dark", width=0.12)
    petals = [
        Part(oval(0.48 * math.cos(a), 0.48 * math.sin(a) - 0.25, 0.36, 0.36))
        for a in (math.radians(60 * i) for i in range(6))
    ]
    return [stem, *petals, Part(oval(0, -0.25, 0.24, 0.24), "white", outlined=False)]


def _boat() -> Shape:
    return [
        Part(_poly(0, -0.95, 0, 0.4), "dark", width=0.1),
        Part(_poly(0.12, -0.85, 0.8, 0.2, 0.12, 0.2), "light"),
        Part(_poly(-0.1, -0.6, -0.1, 0.2, -0.6, 0.2), "light"),
        Part(_poly(-0.98, 0.35, 0.98, 0.35, 0.6, 0.9, -0.6, 0.9)),
    ]


def _car() -> Shape:
    return [
        Part(_poly(-0.55, -0.05, -0.3, -0.55, 0.35, -0.55, 0.6, -0.05)),
        Part(_poly(-0.98, -0.1, 0.9, -0.1, 0.98, 0.4, -0.98, 0.4)),
        Part(_poly(-0.35, -0.1, -0.2, -0.4, 0.25, -0.4, 0.4, -0.1), "white", outlined=False),
        Part(oval(-0.5, 0.42, 0.24, 0.24), "dark"),
        Part(oval(0.5, 0.42, 0.24, 0.24), "dark"),
    ]


def _umbrella() -> Shape:
    handle = _poly(0, -0.9, 0, 0.7) + oval(0.17, 0.7, 0.17, 0.2, 180, 20)
    return [
        Part(handle, "dark", width=0.1),
        Part(
            oval(0, 0.05, 0.98, 0.9, 180, 360)
            + oval(0.66, 0.05, 0.32, 0.15, 0, -180)[1:]
            + oval(0, 0.05, 0.34, 0.15, 0, -180)[1:]
            + oval(-0.66, 0.05, 0.32, 0.15, 0, -180)[1:]
        ),
    ]


def _rocket() -> Shape:
    return [
        Part(_poly(-0.35, 0.2, -0.8, 0.8, -0.3, 0.65), "dark"),
        Part(_poly(0.35, 0.2, 0.8, 0.8, 0.3, 0.65), "dark"),
        Part(oval(0, -0.1, 0.42, 0.9)),
        Part(oval(0, -0.3, 0.2, 0.2), "white", outlined=False),
    ]


def _crown() -> Shape:
    zigzag = _poly(-0.9, -0.6, -0.45, 0, 0, -0.8, 0.45, 0, 0.9, -0.6, 0.75, 0.7, -0.75, 0.7)
    tips = [Part(oval(x, y, 0.13, 0.13)) for x, y in ((-0.9, -0.65), (0, -0.85), (0.9, -0.65))]
    return [
        Part(zigzag),
        *tips,
        Part(_poly(-0.78, 0.42, 0.78, 0.42, 0.75, 0.7, -0.75, 0.7), "light"),
    ]


def _key() -> Shape:
    return [
        Part(_poly(-0.05, 0, 0.95, 0), width=0.24),
        Part(_poly(0.55, 0, 0.55, 0.4), width=0.22),
        Part(_poly(0.88, 0, 0.88, 0.4), width=0.22),
        Part(oval(-0.5, 0, 0.36, 0.36), width=0.26),
    ]


def _butterfly() -> Shape:
    wings = [Part(oval(s * 0.5, -0.35, 0.46, 0.46)) for s in (-1, 1)]
    wings += [Part(oval(s * 0.4, 0.42, 0.34, 0.36)) for s in (-1, 1)]
    spots = [Part(oval(s * 0.52, -0.37, 0.18, 0.18), "light", outlined=False) for s in (-1, 1)]
    feelers = [
        Part(_poly(0, -0.4, s * 0.25, -0.95), "dark", width=0.07, outlined=False) for s in (-1, 1)
    ]
    return [*wings, *spots, *feelers, Part(oval(0, 0.05, 0.11, 0.65), "dark", outlined=False)]


def _creature() -> Shape:
    """A round imp with one huge eye, white horns, two fangs and small feet."""
    shape = [Part(_poly(s * 0.72, -0.3, s * 0.8, -1.05, s * 0.2, -0.62), "white") for s in (-1, 1)]
    shape += [Part(oval(s * 0.36, 0.88, 0.26, 0.16), "dark") for s in (-1, 1)]
    shape += [Part(oval(0, 0.12, 0.82, 0.78))]
    shape += [Part(oval(0, -0.12, 0.4, 0.4), "white", outlined=False)]
    shape += [Part(oval(0, -0.1, 0.19, 0.21), "black", outlined=False)]
    shape += [Part(oval(0, 0.42, 0.46, 0.32, 0, 180), "black", outlined=False)]
    shape += [
        Part(_poly(s * 0.36, 0.42, s * 0.08, 0.42, s * 0.22, 0.66), "white", outlined=False)
        for s in (-1, 1)
    ]
    return shape


def _robot() -> Shape:
    """A square head with an aerial on a square body, eyes lit white."""
    shape = [Part(_poly(0, -1, 0, -0.75), "dark", width=0.1), Part(oval(0, -1, 0.12, 0.12))]
    shape += [Part(_poly(s * 0.28, 0.7, s * 0.28, 1), "dark", width=0.22) for s in (-1, 1)]
    shape += [Part(_poly(s * 0.6, 0.2, s * 0.9, 0.5), "dark", width=0.18) for s in (-1, 1)]
    shape += [Part(_poly(-0.55, 0.05, 0.55, 0.05, 0.55, 0.8, -0.55, 0.8), "light")]
    shape += [Part(_poly(-0.7, -0.75, 0.7, -0.75, 0.7, 0.1, -0.7, 0.1))]
    shape += [
        Part(_poly(s * 0.48, -0.58, s * 0.12, -0.58, s * 0.12, -0.28, s * 0.48, -0.28), "white")
        for s in (-1, 1)
    ]
    shape += [Part(_poly(-0.4, -0.1, 0.4, -0.1), "black", width=0.12, outlined=False)]
    return shape


def _ghost() -> Shape:
    """A sheet with a wavy hem, two dark eyes and a round mouth."""
    hem = _poly(0.75, 0.9, 0.5, 0.62, 0.25, 0.9, 0, 0.62, -0.25, 0.9, -0.5, 0.62, -0.75, 0.9)
    shape = [Part(oval(0, -0.2, 0.75, 0.78, 180, 360) + hem)]
    shape += [Part(oval(s * 0.28, -0.3, 0.16, 0.24), "black", outlined=False) for s in (-1, 1)]
    shape += [Part(oval(0, 0.2, 0.16, 0.18), "black", outlined=False)]
    return shape


def _dragon() -> Shape:
    """A long neck and tail, a spiked back, a wing and a white eye, seen from the side."""
    spikes = [
        Part(_poly(x - 0.16, y, x, y - 0.38, x + 0.16, y), "light")
        for x, y in ((-0.12, 0.12), (0.2, 0.1), (0.52, 0.24))
    ]
    legs = [Part(_poly(x, 0.5, x, 0.92), "dark", width=0.22) for x in (-0.15, 0.4)]
    return [
        Part(_poly(0.5, 0.4, 0.85, 0.55, 1, 0.2), width=0.18),
        *legs,
        *spikes,
        Part(_poly(-0.25, 0.3, -0.5, -0.55), width=0.32),
        Part(oval(0.12, 0.35, 0.58, 0.36)),
        Part(_poly(-0.3, -0.85, -0.3, -0.4, -1, -0.4, -1, -0.6)),
        Part(oval(-0.48, -0.64, 0.1, 0.1), "white", outlined=False),
    ]


SHAPES: dict[str, Callable[[], Shape]] = {
    "ball": _ball, "box": _box, "star": _star, "heart": _heart, "moon": _moon, "house": _house,
    "tree": _tree, "fish": _fish, "mushroom": _mushroom, "cup": _cup, "flower": _flower,
    "boat": _boat, "car": _car, "umbrella": _umbrella, "rocket": _rocket, "crown": _crown,
    "key": _key, "butterfly": _butterfly, "creature": _creature, "robot": _robot,
    "ghost": _ghost, "dragon": _dragon,
}  # fmt: skip
