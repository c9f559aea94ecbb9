"""Which bucket each picture of a dataset is trained in, and what of the picture is seen there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from lora_daemon import pictures
from lora_daemon.catalog import Catalog
from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from shared import buckets, framing, wire
from shared import recipe as recipes
from shared.buckets import Rules
from shared.errors import Code, LoraError
from shared.framing import Framing, Size
from shared.recipe import Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

RESOLUTION = 512  # where neither a recipe nor a check of the dataset says one
UNSEEN = 0.3  # brightness that is left of what training does not see


class Bucketing:
    """Answers ListBuckets and PreviewBucket."""

    def __init__(self, daemon: Daemon, catalog: Catalog, library: Library) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self._library = library

    async def list(self, context: Context, request: wire.ListBuckets) -> wire.Buckets:
        """Raises LoraError: NOT_FOUND, INVALID_RECIPE."""
        row = self._catalog.row(request.dataset)
        recipe, resolution = await self._recipe(row["id"], request.recipe, request.resolution)
        rules = buckets.rules_of(recipe.dataset, resolution)
        square = recipe.dataset.resolution or resolution
        found: dict[Size, list[Size]] = {}
        for one in self._store.query(
            "SELECT width, height, framing FROM items WHERE dataset = ? AND problem = ''"
            " AND state <> 'rejected'", (row["id"],),
        ):  # fmt: skip
            size = framing.read(one["framing"]).size(one["width"], one["height"])
            found.setdefault(bucket(size, rules) or (square, square), []).append(size)
        repeats = recipe.dataset.repeats
        shown = [len(sizes) * repeats for sizes in found.values()]
        trained = sum(map(len, found.values()))
        return wire.Buckets(
            resolution=square,
            rules=rules,
            buckets=[_bucket(size, sizes, repeats) for size, sizes in sorted(found.items())],
            pictures=trained,
            batch_size=recipe.training.batch_size,
            steps_per_epoch=recipes.steps_per_epoch(recipe, trained, shown) if trained else 0,
        )

    async def preview(
        self, context: Context, request: wire.PreviewBucket
    ) -> wire.BucketPreview:  # fmt: skip
        """Raises LoraError: NOT_FOUND, INVALID_RECIPE, INVALID_FILE, BAD_REQUEST."""
        row = self._catalog.item_row(request.dataset, request.item)
        if row["problem"]:
            raise LoraError(Code.INVALID_FILE, f"{row['name']} {row['problem']}.")
        if request.width < 1 or request.height < 1:
            raise LoraError(Code.BAD_REQUEST, "A preview has at least 1 × 1 pixels.")
        recipe, resolution = await self._recipe(row["dataset"], request.recipe, request.resolution)
        full = (row["width"], row["height"])
        seen = request.framing or framing.read(row["framing"])
        size = seen.size(*full)
        square = recipe.dataset.resolution or resolution
        chosen = bucket(size, buckets.rules_of(recipe.dataset, resolution)) or (square, square)
        box, turned = seen.box(*full), seen.turned_size(*full)
        left, top, right, bottom = buckets.seen(size, chosen)
        across, down = box[2] - box[0], box[3] - box[1]
        shown = (
            round(box[0] + left * across), round(box[1] + top * down),
            round(box[0] + right * across), round(box[1] + bottom * down),
        )  # fmt: skip
        path = self._catalog.path(row)
        limits = (min(request.width, wire.MAX_PREVIEW), min(request.height, wire.MAX_PREVIEW))
        data, *drawn = await asyncio.to_thread(
            _drawn, path, row["name"], Framing(turn=seen.turn), limits, turned, shown
        )
        context.blobs.append(data)
        return wire.BucketPreview(
            width=drawn[0], height=drawn[1], media_type="image/jpeg", turned=turned, crop=box,
            bucket=chosen, shown=shown, lost=buckets.lost(size, chosen),
            enlarged=max(chosen[0] / size[0], chosen[1] / size[1]),
        )  # fmt: skip

    async def _recipe(self, dataset: str, text: str, resolution: int) -> tuple[Recipe, int]:
        """The recipe, and the resolution where it says none. Without one: buckets, at the
        resolution that the dataset is to be trained at."""
        if text:
            recipe = recipes.parse(text)
            base = await self._library.base(recipe.base.name)
            return recipe, resolution or base.resolution
        checks = self._store.query("SELECT resolution FROM checks WHERE dataset = ?", (dataset,))
        side = resolution or (int(checks[0]["resolution"]) if checks else RESOLUTION)
        return recipes.convert({"dataset": {"enable_bucket": True, "resolution": side}}), side


def bucket(size: Size, rules: Rules | None) -> Size | None:
    """The bucket of a picture that is seen at this size; None: a square."""
    return buckets.bucket_of(size, rules) if rules is not None and min(size) else None


def _bucket(size: Size, sizes: list[Size], repeats: int) -> wire.Bucket:
    lost = [buckets.lost(one, size) for one in sizes]
    return wire.Bucket(
        width=size[0],
        height=size[1],
        pictures=len(sizes),
        samples=len(sizes) * repeats,
        lost=sum(lost) / len(lost),
        most_lost=max(lost),
        enlarged=sum(max(size[0] / one[0], size[1] / one[1]) > 1 for one in sizes),
    )


def _drawn(
    path: Path, name: str, turned: Framing, limits: Size, full: Size, shown: framing.Box
) -> tuple[bytes, int, int]:
    """The turned picture as a JPEG, dimmed where training does not see it, and its size."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoraError(
            Code.INVALID_FILE, f"{name} cannot be read ({error.strerror or error})."
        ) from None
    return pictures.jpeg(dimmed(pictures.small(data, *limits, turned), full, shown))


def dimmed(picture: Image, full: Size, shown: framing.Box) -> Image:
    """A picture, ``full`` pixels in its file, dark outside of ``shown``, which has a light edge."""
    from PIL import ImageDraw, ImageEnhance

    across, down = picture.width / full[0], picture.height / full[1]
    left, right = (round(side * across) for side in (shown[0], shown[2]))
    top, bottom = (round(side * down) for side in (shown[1], shown[3]))
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    dark = ImageEnhance.Brightness(picture).enhance(UNSEEN)
    dark.paste(picture.crop(box), box[:2])
    if box != (0, 0, *picture.size):
        edge = (box[0], box[1], box[2] - 1, box[3] - 1)
        ImageDraw.Draw(dark).rectangle(edge, outline="white", width=1)
    return dark
