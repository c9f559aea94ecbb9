"""``lora-tui dataset``: folders of pictures and their captions, by reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from lora_tui.commands import dataset_framing
from lora_tui.commands.common import (
    Invocation,
    Subparsers,
    command,
    dataset_or_folder,
    find_dataset,
    hub_options,
    items,
    noun,
)
from lora_tui.commands.console import pairs, table
from lora_tui.core import export_words, health_report, words
from shared import wire
from shared.errors import Code, Exit, LoraError
from shared.hub_ids import from_hub, is_hub


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "dataset", "folders of pictures and their captions")
    take = command(
        verbs,
        "import",
        import_it,
        "read a folder of pictures with their captions, or an archive or parquet file of them",
        "  lora-tui dataset import ~/dragons\n"
        "  lora-tui dataset import ~/dragons --name dragons   # again: only what changed\n"
        "  lora-tui dataset import pokemon.parquet --text-column en_text\n"
        "  lora-tui dataset import hf:lambdalabs/pokemon-blip-captions\n"
        "  lora-tui dataset import ~/dragons --captions meta_cap.json",
    )
    take.add_argument(
        "path",
        metavar="PATH",
        help="on the daemon's machine: a folder (by reference), or a .zip, .tar, .parquet or "
        ".arrow file (unpacked into the workspace); hf:OWNER/NAME is a dataset of the Hub",
    )
    take.add_argument(
        "--captions",
        metavar="FILE",
        default="",
        help="a table of captions: metadata.jsonl, metadata.csv or kohya's metadata JSON; those in "
        "the folder are found by themselves",
    )
    take.add_argument("--text-column", metavar="NAME", default="", help="a table's captions")
    take.add_argument("--image-column", metavar="NAME", default="", help="a table's pictures")
    take.add_argument("--copy", action="store_true", help="copy the pictures into the workspace")
    take.add_argument("--name", default="", help="call it so; else as the folder is called")
    hub_options(take, "only files whose path has this in it, such as data/train")
    command(verbs, "list", list_them, "list the datasets")
    show = command(verbs, "show", show_it, "show a dataset: counts, problems")
    show.add_argument("dataset", metavar="DATASET")
    out = command(
        verbs,
        "export",
        export_it,
        "write pictures and captions for other tools, without private metadata",
        "  lora-tui dataset export dragons ~/dragons.zip\n"
        "  lora-tui dataset export dragons ~/for-kohya --format kohya --filter 'state:accepted'",
    )
    out.add_argument("dataset", metavar="DATASET")
    out.add_argument("path", metavar="PATH", help="a new folder or file on the daemon's machine")
    out.add_argument(
        "--format",
        choices=get_args(wire.ExportFormat),
        help="folder (.txt files), imagefolder (metadata.jsonl), csv (metadata.csv), kohya "
        "(meta_cap.json), zip, tar, parquet; else as PATH's suffix says, else folder",
    )
    out.add_argument("--filter", metavar="FILTER", default="", help="only what this finds")
    out.add_argument(
        "--apply-framing", action="store_true",
        help="write pictures as they were turned and cropped here: a JPEG is made anew, others "
        "become PNG; else they are written as their files have them",
    )  # fmt: skip
    look = command(
        verbs,
        "health",
        health_of,
        "look for what is wrong with pictures and captions, and say what the set is good for",
        "  lora-tui dataset health ~/dragons --trigger sks --resolution 1024\n"
        "  lora-tui dataset health dragons --known          # measure nothing, tell what is known\n"
        "  lora-tui caption list dragons --filter 'issue:blur OR dup:near'\n"
        "  lora-tui caption reject dragons --filter dup:copy --dry-run",
    )
    look.add_argument(
        "dataset", metavar="DATASET_OR_DIR", help="a folder that is no dataset yet is imported"
    )
    look.add_argument(
        "--resolution", type=int, default=0, metavar="PIXELS",
        help="what it is to be trained at; kept (512)",
    )  # fmt: skip
    look.add_argument(
        "--trigger", metavar="WORD", help='the word every caption is to have; kept ("": none)'
    )
    look.add_argument("--known", action="store_true", help="only tell what was measured so far")
    dataset_framing.add(verbs)
    delete = command(
        verbs, "delete", delete_it, "forget a dataset; its pictures and caption files stay"
    )
    delete.add_argument("datasets", metavar="DATASET", nargs="+")


async def import_it(call: Invocation) -> Exit:
    args = call.args
    hub: wire.FromHub | None = None
    if is_hub(args.path):
        hub = from_hub(
            args.path, "dataset", revision=args.revision, file=args.file, mirror=args.mirror,
            offline=args.offline,
        )  # fmt: skip
        if hub is None:
            raise LoraError(Code.BAD_REQUEST, f"{args.path!r} is no Hub id: that is owner/name.")
    path = "" if hub is not None else call.daemon_path(args.path)
    async with call.client() as client:
        imported = await client.call(
            wire.ImportDataset(
                path=path,
                hub=hub,
                name=call.args.name,
                captions=call.daemon_path(call.args.captions) if call.args.captions else "",
                text_column=call.args.text_column,
                image_column=call.args.image_column,
                copy=call.args.copy,
            ),
            on_progress=call.report,
        )
    for problem, reason in imported.problems:
        call.console.say(f"{problem}: {reason}")
    for warning in imported.warnings:
        call.console.say(f"warning: {warning}")
    dataset = imported.dataset

    def lines() -> Iterator[str]:
        changed = f"{imported.added} new, {imported.updated} changed"
        bad = f", {words.plural(dataset.problems, 'cannot be used', 'cannot be used')}"
        pictures = words.plural(dataset.items, "picture")
        yield f"{dataset.name}: {pictures} ({changed}{bad if dataset.problems else ''})"

    call.console.show(imported, lines)
    return Exit.OK


async def export_it(call: Invocation) -> Exit:
    request = wire.ExportDataset(
        dataset=call.args.dataset,
        path=call.daemon_path(call.args.path),
        format=call.args.format,
        filter=call.args.filter,
        apply_framing=call.args.apply_framing,
    )
    async with call.client() as client:
        exported = await client.call(request, on_progress=call.report)
    for warning in exported.warnings:
        call.console.say(f"warning: {warning}")
    for here, there in exported.renamed:
        call.console.say(
            f"{here} is {there} there: the name was taken, but for its case or suffix."
        )
    if exported.framed:
        call.console.say(export_words.framed(exported, request.apply_framing, "--apply-framing"))
    call.console.show(exported, lambda: [export_words.where(exported)])
    return Exit.OK


async def health_of(call: Invocation) -> Exit:
    args = call.args
    async with call.client() as client:
        dataset = await dataset_or_folder(call, client)
        ask = wire.CheckHealth(
            dataset=dataset, resolution=args.resolution, trigger=args.trigger,
            measure=not args.known,
        )  # fmt: skip
        if args.known and not args.resolution and args.trigger is None:
            found = await client.call(wire.GetHealth(dataset=dataset))
        else:
            found = await client.call(ask, on_progress=call.report)
    for name, why in found.problems:
        call.console.say(f"{name}: {why}")
    call.console.show(found, lambda: health_report.lines(found.health))
    return Exit.OK


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        datasets = (await client.call(wire.GetState())).datasets

    def lines() -> list[str]:
        rows = [
            (d.name, str(d.items), str(_reviewed(d)), str(d.empty), str(d.problems), d.path)
            for d in datasets
        ]
        return table(("NAME", ">PICTURES", ">REVIEWED", ">EMPTY", ">PROBLEMS", "FOLDER"), rows)

    call.console.show({"datasets": datasets}, lines)
    return Exit.OK


async def show_it(call: Invocation) -> Exit:
    async with call.client() as client:
        dataset = await find_dataset(client, call.args.dataset)
        troubled = [item async for item in items(client, dataset.id) if item.problem]

    def lines() -> Iterator[str]:
        yield from pairs(
            [
                ("name", dataset.name),
                ("folder", dataset.path),
                ("pictures", str(dataset.items)),
                *((state, str(n)) for state, n in dataset.counts.items() if n),
                ("no caption", str(dataset.empty or "")),
                *((item.name, item.problem) for item in troubled),
            ]
        )

    problems = [{"name": item.name, "problem": item.problem} for item in troubled]
    call.console.show({"dataset": dataset, "problems": problems}, lines)
    return Exit.OK


async def delete_it(call: Invocation) -> Exit:
    async with call.client() as client:
        chosen = [await find_dataset(client, name) for name in call.args.datasets]
        names = ", ".join(f"{d.name} ({words.plural(d.items, 'picture')})" for d in chosen)
        call.console.confirm(f"Forget {names}? The pictures and caption files stay where they are.")
        for dataset in chosen:
            await client.call(wire.RemoveDataset(dataset=dataset.id))
    call.console.show({"deleted": [d.name for d in chosen]}, lambda: [d.name for d in chosen])
    return Exit.OK


def _reviewed(dataset: wire.Dataset) -> int:
    return dataset.items - dataset.counts.get("unreviewed", 0)
