"""``lora-tui dataset rotate|crop|buckets``: how pictures are seen, without touching their files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lora_tui.commands.common import (
    Invocation,
    Subparsers,
    command,
    dataset_or_folder,
    filter_of,
    filter_option,
)
from lora_tui.commands.console import table
from lora_tui.core import bucket_words, words
from shared import framing, wire
from shared import recipe as recipes
from shared.errors import Code, Exit, LoraError
from shared.files import publish

if TYPE_CHECKING:
    from shared.client import Client

PREVIEW = 1024  # pixels


def add(verbs: Subparsers) -> None:
    turn = command(
        verbs, "rotate", rotate, "turn pictures, as data; their files stay as they are",
        "  lora-tui dataset rotate dragons 90 003.png 004.png    # clockwise\n"
        "  lora-tui dataset rotate dragons -90 --filter 'ratio:<0.5'\n"
        "  lora-tui caption undo dragons                         # all of it, at once",
    )  # fmt: skip
    turn.add_argument("dataset", metavar="DATASET")
    turn.add_argument(
        "degrees", type=int, metavar="DEGREES", choices=(90, 180, 270, -90),
        help="clockwise: 90, 180 or 270; -90 is to the left",
    )  # fmt: skip
    _which(turn)
    cut = command(
        verbs, "crop", crop, "crop pictures, as data; their files stay as they are",
        "  lora-tui dataset crop dragons 40,0,680,512 003.png\n"
        "  lora-tui dataset crop dragons none --filter 'name:scan*'   # take crops away",
    )  # fmt: skip
    cut.add_argument("dataset", metavar="DATASET")
    cut.add_argument(
        "crop", metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="in pixels of the turned picture, the last two outside of it; none: all of it",
    )  # fmt: skip
    _which(cut)
    show = command(
        verbs, "buckets", buckets, "the sizes that pictures would be trained at, and what is lost",
        "  lora-tui dataset buckets dragons --recipe dragons.toml\n"
        "  lora-tui dataset buckets ~/dragons --resolution 1024\n"
        "  lora-tui dataset buckets dragons --picture 003.png --out seen.jpg",
    )  # fmt: skip
    show.add_argument(
        "dataset", metavar="DATASET_OR_DIR", help="a folder that is no dataset yet is imported"
    )
    show.add_argument(
        "--recipe", metavar="FILE", help="as this recipe would; else in buckets by their defaults"
    )
    show.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="change an option of the recipe, such as dataset.bucket_no_upscale=true",
    )  # fmt: skip
    show.add_argument(
        "--resolution", type=int, default=0, metavar="PIXELS",
        help="where the recipe says none; else its base's, or what the dataset was checked for",
    )  # fmt: skip
    show.add_argument("--picture", metavar="PICTURE", help="only the bucket of this one")
    show.add_argument(
        "--out", metavar="FILE.jpg", type=Path,
        help="write --picture with what training does not see darkened",
    )  # fmt: skip


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", metavar="PICTURE", nargs="*", help="these, by name")
    filter_option(parser)


async def rotate(call: Invocation) -> Exit:
    return await _frame(call, rotate=call.args.degrees % 360)


async def crop(call: Invocation) -> Exit:
    if call.args.crop == "none":
        return await _frame(call, whole=True)
    return await _frame(call, crop=framing.crop_of(call.args.crop))


async def _frame(
    call: Invocation, *, rotate: int = 0, crop: framing.Box | None = None, whole: bool = False
) -> Exit:
    args = call.args
    if bool(args.pictures) == bool(args.filter.strip()):
        raise LoraError(Code.BAD_REQUEST, "Name pictures, or give --filter; one of the two.")
    async with call.client() as client:
        ask = wire.FramePictures(
            dataset=args.dataset, items=args.pictures, filter=await filter_of(call, client),
            rotate=rotate, crop=crop, whole=whole,
        )  # fmt: skip
        framed = await client.call(ask)
    done = f"{framed.what}: {words.plural(framed.changed, 'picture')} changed."
    call.console.show(framed, lambda: [done if framed.changed else "Nothing to change."])
    return Exit.OK


async def buckets(call: Invocation) -> Exit:
    args = call.args
    recipe = ""
    if args.recipe or args.overrides:
        made = (
            recipes.load(Path(args.recipe), args.overrides) if args.recipe
            else recipes.parse("[dataset]\nenable_bucket = true", args.overrides)
        )  # fmt: skip
        recipe = recipes.dump(made)
    if args.out and not args.picture:
        raise LoraError(Code.BAD_REQUEST, "--out is for --picture: of which picture?")
    async with call.client() as client:
        dataset = await dataset_or_folder(call, client)
        if args.picture:
            return await _one(call, client, dataset, recipe)
        found = await client.call(
            wire.ListBuckets(dataset=dataset, recipe=recipe, resolution=args.resolution)
        )
    call.console.show(found, lambda: _listed(found))
    return Exit.OK


def _listed(found: wire.Buckets) -> Iterator[str]:
    rows = [
        (
            f"{one.width} × {one.height}", str(one.pictures), str(one.samples),
            f"{one.lost:.0%}", f"{one.most_lost:.0%}", str(one.enlarged or ""),
        )
        for one in found.buckets
    ]  # fmt: skip
    yield from table(
        ("BUCKET", ">PICTURES", ">SAMPLES", ">CROPPED AWAY", ">AT MOST", ">ENLARGED"), rows
    )
    pictures = words.plural(found.pictures, "picture")
    steps = words.plural(found.steps_per_epoch, "step")
    how = "in buckets" if found.rules is not None else "each a square"
    yield (
        f"{pictures} at {found.resolution} px, {how}: {steps} an epoch with a batch of "
        f"{found.batch_size}"
    )


async def _one(call: Invocation, client: Client, dataset: str, recipe: str) -> Exit:
    args = call.args
    ask = wire.PreviewBucket(
        dataset=dataset, item=args.picture, recipe=recipe, resolution=args.resolution,
        width=PREVIEW, height=PREVIEW,
    )  # fmt: skip
    found, blobs = await client.fetch(ask)
    if args.out:
        publish(args.out, blobs[0])
    call.console.show(found, lambda: [bucket_words.told(found)])
    return Exit.OK
