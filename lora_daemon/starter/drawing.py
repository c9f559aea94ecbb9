"""Pictures drawn by code: the shapes, grounds and styles of the starter's world."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from lora_daemon.starter.shapes import Point, Shade, Shape

PICTURE = 128
"""Width and height of every picture, in pixels."""
SUPERSAMPLING = 3
CANVAS = PICTURE * SUPERSAMPLING
MOSAIC_TILE = 8
"""Side of a mosaic's tile, in pixels."""

Rgb: TypeAlias = tuple[int, int, int]

PAINTS: dict[str, Rgb] = {
    "red": (222, 28, 36),
    "orange": (250, 135, 15),
    "yellow": (250, 222, 30),
    "green": (34, 160, 56),
    "cyan": (40, 210, 220),
    "blue": (34, 66, 218),
    "purple": (132, 40, 176),
    "pink": (250, 118, 190),
    "brown": (122, 70, 34),
    "black": (24, 24, 28),
}


def _mix(colour: Rgb, other: Rgb, share: float) -> Rgb:
    r, g, b = (round(a + (c - a) * share) for a, c in zip(colour, other, strict=True))
    return r, g, b


def _shades(paint: Rgb) -> dict[Shade, Rgb]:
    dark = (92, 92, 100) if sum(paint) < 150 else _mix(paint, (0, 0, 0), 0.42)
    return {
        "main": paint,
        "light": _mix(paint, (255, 255, 255), 0.5),
        "dark": dark,
        "white": (255, 255, 255),
        "black": (15, 15, 20),
    }


def draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: Shape,
    paint: Rgb,
    centre: Point,
    radius: float,
    angle: float,
    flip: bool,
) -> None:
    """Draw one object on a supersampled canvas; `centre`, `radius` in final pixels."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    scale, shades = radius * SUPERSAMPLING, _shades(paint)

    def place(points: Sequence[Point]) -> list[Point]:
        placed = []
        for across, y in points:
            x = -across if flip else across
            placed.append(
                (
                    centre[0] * SUPERSAMPLING + (x * cos - y * sin) * scale,
                    centre[1] * SUPERSAMPLING + (x * sin + y * cos) * scale,
                )
            )
        return placed

    border = 1.6 * SUPERSAMPLING
    for outline in (True, False):
        for part in shape:
            points = place(part.points)
            if outline and not part.outlined:
                continue
            colour = shades["dark"] if outline else shades[part.shade]
            if part.width:
                _thick(draw, points, part.width * scale + (2 * border if outline else 0), colour)
            else:
                if outline:
                    _thick(draw, [*points, points[0]], 2 * border, colour)
                draw.polygon(points, fill=colour)


def _thick(draw: ImageDraw.ImageDraw, points: Sequence[Point], width: float, colour: Rgb) -> None:
    draw.line(points, fill=colour, width=round(width), joint="curve")
    for x, y in (points[0], points[-1]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=colour)


def _ramp(top: Rgb, bottom: Rgb) -> Image.Image:
    column = np.linspace(0, 1, CANVAS)[:, None, None]
    pixels = np.asarray(top) * (1 - column) + np.asarray(bottom) * column
    return Image.fromarray(np.broadcast_to(pixels, (CANVAS, CANVAS, 3)).astype(np.uint8).copy())


def draw_ground(name: str, rng: random.Random) -> Image.Image:
    """Draw one of the six backgrounds on a fresh supersampled canvas, varied by `rng`."""
    s = SUPERSAMPLING
    horizon = rng.uniform(62, 84) * s
    match name:
        case "meadow":
            picture = _ramp((150, 205, 245), (205, 230, 250))
            draw = ImageDraw.Draw(picture)
            draw.rectangle((0, horizon, CANVAS, CANVAS), fill=(150, 205, 120))
        case "beach":
            picture = _ramp((190, 228, 240), (190, 228, 240))
            draw = ImageDraw.Draw(picture)
            draw.rectangle((0, horizon - 22 * s, CANVAS, CANVAS), fill=(95, 170, 200))
            draw.rectangle((0, horizon, CANVAS, CANVAS), fill=(240, 222, 170))
        case "night":
            picture = _ramp((28, 30, 78), (62, 62, 120))
            draw = ImageDraw.Draw(picture)
            for _ in range(12):
                x, y, r = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), rng.uniform(1.0, 1.9) * s
                draw.ellipse((x - r, y - r, x + r, y + r), fill=(245, 240, 200))
        case "snow":
            picture = _ramp((175, 190, 205), (205, 215, 225))
            draw = ImageDraw.Draw(picture)
            x = rng.uniform(0, CANVAS)
            draw.ellipse(
                (x - 300 * s, horizon, x + 300 * s, horizon + 500 * s), fill=(248, 250, 253)
            )
        case "sunset":
            picture = _ramp((150, 105, 150), (255, 190, 150))
            draw = ImageDraw.Draw(picture)
            draw.rectangle((0, horizon + 24 * s, CANVAS, CANVAS), fill=(105, 80, 110))
        case "stripes":
            picture = _ramp((236, 232, 222), (236, 232, 222))
            draw, offset = ImageDraw.Draw(picture), rng.uniform(0, 24)
            for i in range(-1, 6):
                left = (offset + 24 * i) * s
                draw.rectangle((left, 0, left + 12 * s, CANVAS), fill=(178, 178, 176))
        case _:
            raise ValueError(f"no background is called {name!r}")
    return picture


def finish(canvas: Image.Image) -> Image.Image:
    """Shrink a supersampled canvas to a `PICTURE` × `PICTURE` RGB picture."""
    return canvas.reduce(SUPERSAMPLING)


def pencil(picture: Image.Image) -> Image.Image:
    """Turn a picture into a grey pencil sketch: dodged contours, and broad hatching in the dark."""
    grey = picture.convert("L")
    blurred = ImageChops.invert(grey).filter(ImageFilter.GaussianBlur(2.5))
    base = np.asarray(grey, dtype=np.float32)
    line = base * 255 / np.maximum(255 - np.asarray(blurred, dtype=np.float32), 1)
    line = np.clip(line, 0, 255) / 255
    line = np.clip(1 - (1 - line) * 2.2, 0.15, 1)
    yy, xx = np.mgrid[0 : picture.height, 0 : picture.width]
    hatch = 0.5 + 0.5 * np.cos((xx + yy) * 2 * math.pi / 16)
    tone = 1 - (1 - base / 255) * (0.3 + 0.2 * hatch)
    sketch = np.clip(line * tone * 240 + 10, 0, 255).astype(np.uint8)
    return Image.fromarray(sketch).convert("RGB")


def neon(picture: Image.Image) -> Image.Image:
    """Turn a picture into glowing outlines of its own colours on near-black."""
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(1)), dtype=np.float32)
    down, across = np.gradient(pixels, axis=0), np.gradient(pixels, axis=1)
    steps = (np.abs(down) + np.abs(across)).sum(axis=2)
    edges = Image.fromarray(np.clip(steps * 3, 0, 255).astype(np.uint8))
    edges = edges.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.GaussianBlur(1.2))
    strength = np.asarray(edges, dtype=np.float32)[..., None] / 255
    vivid = pixels - pixels.min(axis=2, keepdims=True) * 0.85
    vivid *= 255 / np.maximum(vivid.max(axis=2, keepdims=True), 40)
    lit = np.asarray((14, 10, 30)) * (1 - strength) + vivid * strength
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def mosaic(picture: Image.Image) -> Image.Image:
    """Lay a picture in square tiles of one colour each, with dark joints."""
    tiles = picture.reduce(MOSAIC_TILE).resize(picture.size, Image.Resampling.NEAREST)
    pixels = np.array(tiles)
    pixels[::MOSAIC_TILE] = pixels[:, ::MOSAIC_TILE] = (52, 48, 46)
    return Image.fromarray(pixels)


def watercolour(picture: Image.Image) -> Image.Image:
    """Wash a picture out: pale flats without detail, darker where two washes meet, cream paper."""
    flat = picture.filter(ImageFilter.ModeFilter(9)).filter(ImageFilter.GaussianBlur(1.5))
    pixels = np.asarray(flat, dtype=np.float32)
    pool = np.asarray(flat.filter(ImageFilter.GaussianBlur(5)), dtype=np.float32)
    edge = np.abs(pixels - pool).max(axis=2, keepdims=True)
    washed = np.asarray((250, 244, 228)) * 0.45 + pixels * 0.55 - edge * 0.5
    return Image.fromarray(np.clip(washed, 0, 255).astype(np.uint8))


def dusk(picture: Image.Image) -> Image.Image:
    """Show a picture at dusk, the kin base's look: muted, inked outlines, light from the upper left
    that fades into violet."""
    pixels = np.asarray(picture, dtype=np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    muted = grey + (pixels - grey) * 0.74
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32)
    down, across = np.gradient(soft, axis=0), np.gradient(soft, axis=1)
    steps = (np.abs(down) + np.abs(across)).max(axis=2, keepdims=True)
    ink = np.clip((steps - 14) / 50, 0, 1) * 0.75
    yy, xx = np.mgrid[0 : picture.height, 0 : picture.width] / picture.height
    light = (1.1 - 0.34 * (0.45 * xx + 0.55 * yy))[..., None]
    lit = muted * light + np.asarray((16, 4, 22)) * (1.1 - light)
    inked = lit * (1 - ink) + np.asarray((38, 26, 52)) * ink
    return Image.fromarray(np.clip(inked, 0, 255).astype(np.uint8))


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "pencil": pencil,
    "neon": neon,
    "mosaic": mosaic,
    "watercolour": watercolour,
}
"""Looks the base never saw: they are for LoRAs to teach."""
