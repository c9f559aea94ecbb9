"""Aspect-ratio buckets: the sizes that pictures of many shapes are trained at, and who has which.

The rules are kohya's, so that a file of its options gives the same buckets. Sizes are (width,
height) in pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from shared.framing import Size
from shared.recipe_schema import Dataset, Recipe

STEP = 64  # pixels, the most that bucket_reso_steps is by itself


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How buckets are made; see the recipe's options of the same names."""

    resolution: int
    least: int
    most: int
    step: int
    no_upscale: bool = False


def rules_of(dataset: Dataset, resolution: int) -> Rules | None:
    """The rules of a recipe on a base of this resolution; None: each picture becomes a square."""
    if not dataset.enable_bucket:
        return None
    resolution = dataset.resolution or resolution
    step = dataset.bucket_reso_steps or min(STEP, max(8, resolution // 64 * 8))
    least = dataset.min_bucket_reso or resolution // 2
    most = dataset.max_bucket_reso or resolution * 2
    return Rules(
        resolution=resolution,
        least=max(step, least - least % step),
        most=most + -most % step,
        step=step,
        no_upscale=dataset.bucket_no_upscale,
    )


def sizes(rules: Rules) -> list[Size]:
    """The buckets there may be, unless pictures are never enlarged: multiples of the step with at
    most resolution² pixels, sides within the bounds."""
    area = rules.resolution**2
    square = rules.resolution // rules.step * rules.step
    found = {(square, square)} if square else set()
    for width in range(rules.least, rules.most + 1, rules.step):
        height = min(rules.most, area // width // rules.step * rules.step)
        if height >= rules.least:
            found |= {(width, height), (height, width)}
    return sorted(found)


def bucket_of(picture: Size, rules: Rules) -> Size:
    """The bucket of a picture: the one of the nearest aspect ratio; without enlarging, the
    picture's own size rounded down to the step, made smaller first if its area is too large."""
    width, height = picture
    if rules.no_upscale:
        return _own(width, height, rules)
    known = sizes(rules)
    if picture in known:
        return picture
    ratio = width / height
    return min(known, key=lambda size: abs(size[0] / size[1] - ratio))


def _own(width: int, height: int, rules: Rules) -> Size:
    def down(side: float) -> int:
        return max(rules.step, int(side + 0.5) // rules.step * rules.step)

    area, ratio = rules.resolution**2, width / height
    if width * height > area:
        wide, high = math.sqrt(area * ratio), math.sqrt(area / ratio)
        by_width = (down(wide), down(down(wide) / ratio))
        by_height = (down(down(high) * ratio), down(high))

        def error(size: Size) -> float:
            return abs(size[0] / size[1] - ratio)

        if error(by_width) < error(by_height):
            width, height = by_width[0], int(by_width[0] / ratio + 0.5)
        else:
            width, height = int(by_height[1] * ratio + 0.5), by_height[1]
    return (max(rules.step, width - width % rules.step),
            max(rules.step, height - height % rules.step))  # fmt: skip


def resized(picture: Size, bucket: Size) -> tuple[float, float]:
    """Width and height of a picture that just covers its bucket, before what hangs over is cropped
    away evenly."""
    scale = max(bucket[0] / picture[0], bucket[1] / picture[1])
    return (picture[0] * scale, picture[1] * scale)


def over(picture: Size, bucket: Size) -> tuple[int, int]:
    """Pixels that hang over its bucket across and down, which are cropped away."""
    across, down = resized(picture, bucket)
    return (round(across) - bucket[0], round(down) - bucket[1])


def seen(picture: Size, bucket: Size) -> tuple[float, float, float, float]:
    """The part of a picture that its bucket shows: left, top, right, bottom as shares, 0 … 1."""
    width, height = resized(picture, bucket)
    across, down = bucket[0] / width, bucket[1] / height
    return ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)


def lost(picture: Size, bucket: Size) -> float:
    """The share of a picture that its bucket crops away, 0 … 1."""
    left, top, right, bottom = seen(picture, bucket)
    return 1 - (right - left) * (bottom - top)


def in_epoch(trained: int, regular: int, repeats: int) -> list[int]:
    """The samples of an epoch, by the pictures' places: each trained one ``repeats`` times, then as
    many of those for regularisation, in turn."""
    count = trained * repeats
    samples = [number % trained for number in range(count)]
    return samples + [trained + number % regular for number in range(count) if regular]


def shown(
    recipe: Recipe, trained: Sequence[Size | None], regular: Sequence[Size | None] = ()
) -> list[int]:
    """How many samples each bucket has in an epoch, given the buckets of the pictures (None: the
    square)."""
    every = [*trained, *regular]
    places = in_epoch(len(trained), len(regular), recipe.dataset.repeats)
    return list(Counter(every[place] for place in places).values())
