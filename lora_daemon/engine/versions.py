"""Versions of a picture: each cropped at a place of its own and in colours of its own.

What a version is follows from the picture's content and the version's number, so that runs with
other seeds find the same ones in the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lora_daemon.engine.randomness import generator
from lora_daemon.pipe import Freeze
from shared.recipe_schema import Dataset

# YIQ from RGB (NTSC 1953): the first row is how bright a colour is seen, the others are its tint.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


class Colours(NamedTuple):
    """Factors of brightness, contrast and saturation, and how far the hue goes, in turns."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


class Version(NamedTuple):
    """``place``: of the crop in what hangs over, from 0 (left or top) to 1 (right or bottom)."""

    place: float = 0.5
    colours: Colours = Colours()


PLAIN = Version()


def versions_of(freeze: Freeze, dataset: Dataset) -> list[list[Version]]:
    """The versions of each picture in ``freeze.every``."""
    counts = freeze.versions or [1] * len(freeze.every)
    return [
        [drawn(picture.content, number, dataset) for number in range(count)]
        if count > 1
        else [PLAIN]
        for picture, count in zip(freeze.every, counts, strict=True)
    ]


def drawn(content: str, number: int, dataset: Dataset) -> Version:
    """A version of the picture with this SHA-256, as ``random_crop`` and ``color_jitter`` have
    it."""
    draws = torch.rand(5, generator=generator(0, "version", content, number), dtype=torch.float64)
    place, *moves = draws.tolist()
    jitter = dataset.color_jitter
    brightness, contrast, saturation, hue = ((2 * move - 1) * jitter for move in moves)
    return Version(
        place if dataset.random_crop else PLAIN.place,
        Colours(1 + brightness, 1 + contrast, 1 + saturation, hue / 4),
    )


def recoloured(pixels: Tensor, colours: Colours) -> Tensor:
    """Pixels, float32 (3, height, width) in -1 … 1, in other colours. Contrast is around the mean
    brightness, and the hue turns in YIQ, which leaves brightness as it is."""
    if colours == Colours():
        return pixels
    yiq = torch.tensor(_YIQ, dtype=torch.float64)
    turn = torch.tensor(colours.hue * 2 * torch.pi, dtype=torch.float64)
    change = torch.eye(3, dtype=torch.float64)
    change[1:, 1:] = colours.saturation * torch.stack(
        [torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])]
    )
    matrix = colours.brightness * (torch.linalg.inv(yiq) @ change @ yiq)
    rgb = (pixels + 1) / 2
    moved = torch.einsum("ij,jhw->ihw", matrix.float(), rgb)
    middle = torch.einsum("j,jhw->hw", yiq[0].float(), moved).mean()
    return ((moved - middle) * colours.contrast + middle).clamp(0, 1) * 2 - 1
