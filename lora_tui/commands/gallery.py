"""``lora-tui gallery``: pictures of here and of other tools, and what each was made with."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from lora_tui.commands.common import Invocation, Subparsers, command, noun
from lora_tui.commands.console import pairs, table
from lora_tui.core import words
from lora_tui.core.exported import put
from lora_tui.core.shown_lines import about, imported
from shared import gallery, wire
from shared.errors import Code, Exit, LoraError
from shared.gallery import Shown

if TYPE_CHECKING:
    from shared.client import Client

FILTER = """\
a filter is words that must all occur (in prompts, model, LoRAs, tool or file name), and
  rating:4 (or more; 0: not rated)  from:made|sample|grid|imported  tool:comfyui  model:anything
  lora:ink  sampler:"euler a"  seed:1025  run:r0007; -word: not so"""


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "gallery", "pictures, with what they were made with")
    listing = command(
        verbs,
        "list",
        list_them,
        "list pictures",
        "  lora-tui gallery list 'dragon rating:4' --sort best\n"
        "  lora-tui gallery list from:imported tool:comfyui",
    )
    listing.epilog = f"{listing.epilog}\n{FILTER}"
    listing.add_argument("filter", nargs="*", metavar="FILTER", help="words and fields, see below")
    listing.add_argument("--sort", choices=list(gallery.ORDERS), default="newest")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="so many (50)")
    show = command(verbs, "show", show_it, "show what a picture was made with")
    show.add_argument("picture", metavar="PICTURE", help="an id, the beginning of one, or a path")
    rate = command(
        verbs, "rate", rate_them, "rate pictures from 1 to 5",
        "  lora-tui gallery rate 5 p1a2b3c4d5e6",
    )  # fmt: skip
    rate.add_argument("rating", type=_rating, metavar="1…5", help="0 takes a rating back")
    rate.add_argument("pictures", nargs="+", metavar="PICTURE")
    importing = command(
        verbs,
        "import",
        import_them,
        "show PNG and JPEG files of other tools where they lie (WebUI, ComfyUI, InvokeAI, NovelAI)",
        "  lora-tui gallery import ~/stable-diffusion-webui/outputs",
    )
    importing.add_argument("paths", nargs="+", metavar="FILE_OR_FOLDER")
    export = command(
        verbs,
        "export",
        export_them,
        "copy pictures into a folder here",
        "  lora-tui gallery export --filter rating:4 --to best\n"
        "  lora-tui gallery export p1a2b3c4d5e6 --to clean --bare",
    )
    export.add_argument("pictures", nargs="*", metavar="PICTURE")
    export.add_argument("--filter", default="", help="all pictures that pass it")
    export.add_argument("--to", required=True, metavar="FOLDER")
    export.add_argument(
        "--bare", action="store_true", help="without what is written in them; pixels stay the same"
    )
    remove = command(
        verbs, "remove", remove_them, "delete pictures made here; forget those of other tools"
    )
    remove.add_argument("pictures", nargs="+", metavar="PICTURE")


async def list_them(call: Invocation) -> Exit:
    args = call.args
    request = wire.ListGallery(
        filter=" ".join(args.filter), order=args.sort, limit=min(max(args.limit, 1), 500)
    )
    async with call.client() as client:
        page = await client.call(request)
    call.console.show(page, lambda: _listed(page))
    return Exit.OK


def _listed(page: wire.GalleryPage) -> Iterator[str]:
    rows = [
        [
            one.id, "★" * one.rating, one.origin, one.made.tool, f"{one.width}×{one.height}",
            one.problem or one.made.prompt.replace("\n", " ")[:60],
        ]
        for one in page.pictures
    ]  # fmt: skip
    yield from table(["id", "rating", "from", "tool", ">size", "prompt"], rows)
    if page.total > len(rows):
        yield f"… and {page.total - len(rows)} more: --limit"


async def show_it(call: Invocation) -> Exit:
    async with call.client() as client:
        found = await client.call(wire.GetGalleryPicture(picture=call.args.picture))
    call.console.show(found, lambda: [*pairs(about(found.picture)), *found.left])
    return Exit.OK


async def rate_them(call: Invocation) -> Exit:
    rating = call.args.rating
    async with call.client() as client:
        for picture in call.args.pictures:
            await client.call(wire.RatePicture(picture=picture, rating=rating))
    rated = {"rating": rating, "pictures": call.args.pictures}
    call.console.show(rated, lambda: [f"{words.plural(len(rated['pictures']), 'picture')} rated."])
    return Exit.OK


async def import_them(call: Invocation) -> Exit:
    paths = [call.daemon_path(path) for path in call.args.paths]
    async with call.client() as client:
        found = await client.call(wire.ImportPictures(paths=paths), on_progress=call.report)
    for one in found.skipped:
        call.console.say(f"{one.path}: {one.why}")
    call.console.show(found, lambda: [imported(found)])
    return Exit.OK


async def export_them(call: Invocation) -> Exit:
    args = call.args
    if bool(args.pictures) == bool(args.filter):
        raise LoraError(Code.BAD_REQUEST, "Say which pictures: some ids, or --filter.")
    written, failed = [], []
    async with call.client() as client:
        pictures = args.pictures or [one.id async for one in _every(client, args.filter)]
        for number, picture in enumerate(pictures, 1):
            try:
                request = wire.GetGalleryPicture(picture=picture, file=True, bare=args.bare)
                found, blobs = await client.fetch(request)
            except LoraError as error:
                if error.code not in (Code.INVALID_FILE, Code.TOO_LARGE):
                    raise
                failed.append(error.message)
                call.console.say(error.message)
                continue
            written.append(put(args.to, found, blobs[0]))
            call.report(number, len(pictures), "pictures")
    call.console.show({"written": written, "failed": failed}, lambda: written)
    return Exit.INVALID if failed else Exit.OK


async def _every(client: Client, filter: str) -> AsyncIterator[Shown]:
    """All pictures that pass a filter."""
    offset, total = 0, 1
    while offset < total:
        page = await client.call(wire.ListGallery(filter=filter, offset=offset, limit=500))
        if not page.pictures:
            return
        for one in page.pictures:
            yield one
        offset, total = offset + len(page.pictures), page.total


async def remove_them(call: Invocation) -> Exit:
    async with call.client() as client:
        found = [
            (await client.call(wire.GetGalleryPicture(picture=picture))).picture
            for picture in call.args.pictures
        ]
        own = [one for one in found if one.origin != "imported"]
        if own:
            call.console.confirm(f"Delete {words.plural(len(own), 'picture')} and their files?")
        for one in found:
            await client.call(wire.RemovePicture(picture=one.id))
    call.console.show(
        {"removed": [one.id for one in found]},
        lambda: [f"{words.plural(len(found), 'picture')} removed."],
    )
    return Exit.OK


def _rating(text: str) -> int:
    if text not in {str(number) for number in range(gallery.BEST + 1)}:
        raise argparse.ArgumentTypeError(f"not a rating: {text!r}; it is 1 to {gallery.BEST}")
    return int(text)
