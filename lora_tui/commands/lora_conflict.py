"""``lora-tui lora conflict``: where LoRAs fight, from their files alone or tried on a base."""

from __future__ import annotations

import argparse

from msgspec.structs import replace

from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.generate import checked, lora_use, png_file, write
from lora_tui.core import conflict_map, probe_table
from shared import company, wire
from shared.errors import Code, Exit, LoraError
from shared.pictures import LoraUse, PictureSpec


def add(verbs: Subparsers) -> None:
    conflict = command(
        verbs, "conflict", compare_them, "say where LoRAs fight at these weights",
        "  lora-tui lora conflict dragons:0.8 ink:0.6\n"
        "  lora-tui lora conflict dragons:0.8 ink:0.6 --probe --base sd15\n"
        "  lora-tui lora conflict dragons:0.8 ink:0.6 --losses --base sd15\n"
        "  lora-tui lora conflict dragons ink --weights 0.8 0.6 --png map.png\n"
        "  lora-tui lora conflict dragons ink --json | jq .sentence",
    )  # fmt: skip
    conflict.add_argument(
        "loras", metavar="FILE_OR_NAME[:WEIGHT]", nargs="+",
        help="two or more; also as '<lora:name:0.8:0.6:lbw=OUTD>'",
    )  # fmt: skip
    conflict.add_argument("--weights", type=float, nargs="+", metavar="W", help="one for each LoRA")
    conflict.add_argument(
        "--base", default="", help="whose blocks lbw= counts, and on which they are tried"
    )
    conflict.add_argument(
        "--png", type=png_file, default="", metavar="FILE.png", help="write the heat map here"
    )
    probing(conflict)


def probing(parser: argparse.ArgumentParser) -> None:
    """Options of what is tried on a base."""
    group = parser.add_argument_group("tried on the base")
    group.add_argument(
        "--probe", action="store_true",
        help="measure how much of each LoRA's effect on the noise prediction is left in the mix; "
        "what the base's modules are given is measured too, and weighs later comparisons",
    )  # fmt: skip
    group.add_argument(
        "--remedies", action="store_true", help="as --probe; work out other weights and try them"
    )
    group.add_argument(
        "--losses", type=pictures, nargs="?", const=company.PICTURES, default=0, metavar="PICTURES",
        help="as --probe; paint so many pictures of the base, of each LoRA alone and of the mix "
        f"({company.PICTURES}), and foretell how much each loses of what it shows alone",
    )  # fmt: skip
    group.add_argument(
        "--no-blocks", action="store_true", help="quicker: not each block of each LoRA by itself"
    )
    group.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT",
        help="what to ask the base for; else what the LoRAs learnt to show",
    )  # fmt: skip
    group.add_argument(
        "--instead", nargs="+", default=[], metavar="FILE_OR_NAME[:WEIGHT]",
        help="another mix, of files made from these, held against what these were to do",
    )  # fmt: skip
    group.add_argument("--cfg", type=float, default=7.0, help="guidance (7)")
    group.add_argument("--seed", type=int, default=1025, help="of the first picture (1025)")


def pictures(text: str) -> int:
    """How many to paint of each kind."""
    if not text.isdecimal() or not 0 < int(text) <= company.MOST:
        raise argparse.ArgumentTypeError(f"not 1 to {company.MOST} pictures: {text!r}")
    return int(text)


async def compare_them(call: Invocation) -> Exit:
    args = call.args
    uses = [lora_use(call, text) for text in args.loras]
    if args.weights is not None:
        if len(args.weights) != len(uses):
            raise LoraError(
                Code.BAD_REQUEST, f"{len(args.weights)} weights do not fit {len(uses)} LoRAs."
            )
        pairs = zip(uses, args.weights, strict=True)
        uses = [replace(use, weight=weight) for use, weight in pairs]
    uses = checked(PictureSpec(loras=uses)).loras
    if args.probe or args.remedies or args.losses or args.instead:
        return await _probe(call, uses)
    request = wire.CompareLoras(
        loras=uses, base=call.base(args.base), modules=call.console.as_json and len(uses) < 9
    )
    async with call.client() as client:
        told = (await client.call(request)).found
    of, by = conflict_map.shown_pair(told)
    if args.png:
        from lora_tui.core.conflict_picture import png

        write(args.png, png(told, of, by))
    call.console.show(
        told, lambda: ("".join(text for text, _ in row) for row in conflict_map.lines(told, of, by))
    )
    return Exit.OK


async def _probe(call: Invocation, uses: list[LoraUse]) -> Exit:
    args = call.args
    if not args.base:
        raise LoraError(Code.BAD_REQUEST, "LoRAs are tried on a base: say which with --base.")
    if args.png:
        raise LoraError(Code.BAD_REQUEST, "--png draws what the files say; leave --probe out.")
    request = wire.ProbeLoras(
        loras=uses, base=call.base(args.base), prompts=args.prompt, cfg=args.cfg, seed=args.seed,
        blocks=not args.no_blocks, remedies=args.remedies, losses=args.losses,
        instead=checked(PictureSpec(loras=[lora_use(call, text) for text in args.instead])).loras,
    )  # fmt: skip
    async with call.client() as client:
        found = (await client.call(request, on_progress=call.report)).found
    call.console.show(
        found, lambda: ("".join(text for text, _ in row) for row in probe_table.lines(found))
    )
    return Exit.OK
