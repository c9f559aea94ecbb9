"""``lora-tui lora``: the library, and what a LoRA file says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_tui.commands import lora_affinity, lora_card, lora_conflict, lora_make
from lora_tui.commands.common import Invocation, Subparsers, command, find, noun
from lora_tui.commands.console import pairs, table
from lora_tui.commands.generate import lora_use
from lora_tui.core import words
from shared import wire
from shared.errors import Exit
from shared.lora_keys import file_of


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "lora", "LoRA files")
    command(verbs, "list", list_them, "list the LoRAs of the library")
    inspect = command(
        verbs,
        "inspect",
        inspect_it,
        "say what a LoRA file is: dialect, rank, base, trigger; a local file needs no daemon",
        "  lora-tui lora inspect dragons.safetensors\n"
        "  lora-tui lora inspect dragons --json | jq .metadata",
    )
    inspect.add_argument("lora", metavar="FILE_OR_NAME")
    lora_affinity.base_option(inspect)
    lora_card.add(verbs)
    lora_affinity.add(verbs)
    lora_conflict.add(verbs)
    lora_make.add(verbs)
    delete = command(verbs, "delete", delete_it, "delete LoRAs from the library and the disk")
    delete.add_argument("loras", metavar="NAME", nargs="+")


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        loras = (await client.call(wire.GetState())).loras
        if any(one.folder for one in loras):  # in folders of the person's own, where files change
            await client.call(wire.IndexLoras())
            loras = (await client.call(wire.GetState())).loras
    for one in loras:
        if one.problem:
            call.console.say(f"warning: {one.name}: {one.problem}")

    def lines() -> list[str]:
        rows = [
            (one.name, str(one.rank), one.base, one.trigger, one.run, str(one.step or ""),
             words.size(one.size), one.path)
            for one in loras
        ]  # fmt: skip
        head = ("NAME", ">RANK", "BASE", "TRIGGER", "RUN", ">STEP", ">DISK", "FILE")
        return table(head, rows)

    call.console.show({"loras": loras}, lines)
    return Exit.OK


async def inspect_it(call: Invocation) -> Exit:
    info: Any = _inspect_here(call.args.lora)
    if info is None:
        async with call.client() as client:
            info = await client.call(wire.InspectLora(lora=call.args.lora))

    if call.args.base:
        async with call.client() as client:
            use = lora_use(call, call.args.lora)
            await lora_affinity.warn(call, client, call.base(call.args.base), [use])

    def lines() -> Iterator[str]:
        ranks = info.rank if isinstance(info.rank, list) else info.ranks
        alphas = info.alpha if isinstance(info.alpha, list) else [info.alpha]
        yield from pairs(
            [
                ("file", f"{info.path} ({words.size(info.size)})"),
                ("title", info.title),
                ("naming", info.dialect),
                ("rank", ", ".join(map(str, ranks))),
                ("alpha", ", ".join(f"{alpha:g}" for alpha in alphas)),
                *(("modules", f"{part}: {number}") for part, number in info.modules.items()),
                ("base", info.base_version or "the file does not say"),
                ("trained on", info.metadata.get("ss_sd_model_name", "")),
                ("trigger", info.trigger),
                ("steps", str(info.steps or "")),
                ("epochs", str(info.epochs or "")),
                ("sha256", info.sha256),
            ]
        )

    call.console.show(info, lines)
    return Exit.OK


def _inspect_here(name: str) -> Any:
    """A file of this machine, read without the daemon; None if there is no such file."""
    from shared.lora_info import inspect

    path = file_of(Path(name).expanduser())
    if not path.is_file():
        return None

    return inspect(path)


async def delete_it(call: Invocation) -> Exit:
    async with call.client() as client:
        library = (await client.call(wire.GetState())).loras
        chosen = [find(library, name, "LoRA", "name") for name in call.args.loras]
        names = ", ".join(f"{one.name} ({words.size(one.size)})" for one in chosen)
        call.console.confirm(f"Delete {names} from the disk?")
        for one in chosen:
            await client.call(wire.RemoveLora(lora=one.name))
    call.console.show({"deleted": [o.name for o in chosen]}, lambda: [o.name for o in chosen])
    return Exit.OK
