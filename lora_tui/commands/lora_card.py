"""``lora-tui lora index``, ``card`` and ``duplicates``: folders of LoRAs, and what each is."""

from __future__ import annotations

from collections.abc import Iterator

from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.generate import checked, lora_use
from lora_tui.core import card_lines
from shared import weighing, wire
from shared.errors import Code, Exit, LoraError

FEW = 10  # skipped files that are named


def add(verbs: Subparsers) -> None:
    index = command(
        verbs, "index", index_them,
        "list the LoRAs of folders in the library, by their headers alone; without DIR, look again",
        "  lora-tui lora index ~/stable-diffusion-webui/models/Lora\n"
        "  lora-tui lora index\n"
        "  lora-tui lora index ~/old-loras --forget",
    )  # fmt: skip
    index.add_argument("folders", metavar="DIR", nargs="*")
    index.add_argument(
        "--forget", action="store_true", help="list them no longer; the files stay as they are"
    )
    card = command(
        verbs, "card", show_card,
        "say what a LoRA is: trigger, tags, how it was trained, and which of its rank is used",
        "  lora-tui lora card dragons\n"
        "  lora-tui lora card ~/loras/ink.safetensors --json | jq .spectrum.effective",
    )  # fmt: skip
    card.add_argument("lora", metavar="FILE_OR_NAME")
    card.add_argument(
        "--no-spectrum", action="store_true", help="quicker: the header alone, no tensor is read"
    )
    weigh = command(
        verbs, "weigh", weigh_it,
        "measure which weight to begin with, and what shows without the trigger; kept on the card",
        "  lora-tui lora weigh dragons\n"
        "  lora-tui lora weigh dragons --base anything-v5 --weights 0.4 0.6 0.8 1\n"
        "  lora-tui lora weigh ink.safetensors --base sd15 --prompt 'a cat, ink drawing'",
    )  # fmt: skip
    weigh.add_argument("lora", metavar="FILE_OR_NAME")
    weigh.add_argument("--base", default="", help="to try it on; else the one it was trained on")
    weigh.add_argument(
        "--weights", type=float, nargs="+", default=[], metavar="W",
        help=f"to try ({', '.join(f'{one:g}' for one in weighing.WEIGHTS)})",
    )  # fmt: skip
    weigh.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT",
        help="what it shows; else what it learnt to show",
    )  # fmt: skip
    weigh.add_argument(
        "--trigger", default="", metavar="WORD",
        help="the word that calls for it: how much shows without it is measured too; else as the "
        "library or the file has it",
    )  # fmt: skip
    weigh.add_argument("--seed", type=int, default=1025, help="of the first picture (1025)")
    command(
        verbs, "duplicates", find_duplicates,
        "say which LoRAs of the library are the same, whatever their names and metadata",
    )  # fmt: skip


async def index_them(call: Invocation) -> Exit:
    args = call.args
    if args.forget and not args.folders:
        raise LoraError(Code.BAD_REQUEST, "Say which folder to list no longer: --forget DIR.")
    folders = [call.daemon_path(folder) for folder in args.folders] or [""]
    async with call.client() as client:
        found = [
            await client.call(wire.IndexLoras(folder=folder, forget=args.forget))
            for folder in folders
        ]
    for one in found:
        for skipped in one.skipped[:FEW]:
            call.console.say(f"skipped: {skipped.why}")
        if len(one.skipped) > FEW:
            call.console.say(f"… and {len(one.skipped) - FEW} more; --json names them all.")

    def lines() -> Iterator[str]:
        for one in found:
            if not one.folders:
                yield "No folder is indexed: lora-tui lora index DIR."
                continue
            yield (
                f"{', '.join(one.folders)}: {len(one.added)} new, {len(one.changed)} changed, "
                f"{len(one.gone)} gone, {one.same} as they were, {len(one.skipped)} skipped"
            )

    call.console.show({"indexed": found}, lines)
    return Exit.OK


async def show_card(call: Invocation) -> Exit:
    request = wire.GetLoraCard(
        lora=lora_use(call, call.args.lora).lora,
        spectrum=not call.args.no_spectrum,
        modules=call.console.as_json,
    )
    async with call.client() as client:
        found = (await client.call(request)).found
    call.console.show(
        found, lambda: ("".join(text for text, _ in row) for row in card_lines.lines(found))
    )
    return Exit.OK


async def weigh_it(call: Invocation) -> Exit:
    args = call.args
    request = wire.WeighLora(
        lora=lora_use(call, args.lora).lora, base=call.base(args.base) if args.base else "",
        prompts=args.prompt, weights=args.weights, seed=args.seed,
        trigger=args.trigger,
    )  # fmt: skip
    async with call.client() as client:
        found = await client.call(checked(request), on_progress=call.report)
    if not found.kept:
        call.console.say(f"{found.lora} is not in the library (`lora index`): not kept.")

    def lines() -> Iterator[str]:
        yield f"{found.lora}: begin with {found.advised.weight:g} on {found.advised.base}"
        yield from ("".join(text for text, _ in row) for row in card_lines.weighed(found.advised))

    call.console.show(found, lines)
    return Exit.OK


async def find_duplicates(call: Invocation) -> Exit:
    async with call.client() as client:
        found = await client.call(wire.FindDuplicates(), on_progress=call.report)
    for one in found.unread:
        call.console.say(f"left out: {one.why}")
    call.console.show(
        found,
        lambda: (
            (" = ".join(group) for group in found.groups)
            if found.groups
            else ["No two LoRAs of the library are the same."]
        ),
    )
    return Exit.OK
