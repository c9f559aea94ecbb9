"""``lora-tui lora conflict``: where LoRAs fight, from their files alone."""

from __future__ import annotations

from msgspec.structs import replace

from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.generate import checked, lora_use, write
from lora_tui.core import conflict_map
from shared import wire
from shared.errors import Code, Exit, LoraError
from shared.pictures import PictureSpec


def add(verbs: Subparsers) -> None:
    conflict = command(
        verbs, "conflict", compare_them, "say where LoRAs fight at these weights",
        "  lora-tui lora conflict dragons:0.8 ink:0.6\n"
        "  lora-tui lora conflict dragons ink --weights 0.8 0.6 --png map.png\n"
        "  lora-tui lora conflict dragons ink --json | jq .sentence",
    )  # fmt: skip
    conflict.add_argument(
        "loras", metavar="FILE_OR_NAME[:WEIGHT]", nargs="+",
        help="two or more; also as '<lora:name:0.8:0.6:lbw=OUTD>'",
    )  # fmt: skip
    conflict.add_argument("--weights", type=float, nargs="+", metavar="W", help="one for each LoRA")
    conflict.add_argument("--base", default="", help="whose blocks lbw= counts")
    conflict.add_argument("--png", default="", metavar="FILE.png", help="write the heat map here")


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
