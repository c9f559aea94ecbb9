"""``lora-tui lora affinity``: does a LoRA belong on a base? And the word of it elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.console import pairs
from lora_tui.commands.generate import lora_use
from shared import wire
from shared.affinity import Affinity
from shared.errors import Exit, LoraError

if TYPE_CHECKING:
    from shared.client import Client
    from shared.pictures import LoraUse

FEW = 3  # blocks named
HOW = {
    "run": "this library's own run",
    "hash": "the base's hash in the file",
    "name": "the base's name in the file",
    "weights": "its own directions",
}


def add(verbs: Subparsers) -> None:
    affinity = command(
        verbs, "affinity", check_it, "say what a LoRA was trained on and whether it fits a base",
        "  lora-tui lora affinity dragons --base anything-v5\n"
        "  lora-tui lora affinity dragons.safetensors --base sd15 --json | jq .fit",
    )  # fmt: skip
    affinity.add_argument("lora", metavar="FILE_OR_NAME")
    affinity.add_argument("--base", required=True, help="a base from `model list`, or its path")


async def check_it(call: Invocation) -> Exit:
    lora, base = lora_use(call, call.args.lora).lora, call.base(call.args.base)
    async with call.client() as client:
        found = (await client.call(wire.CheckAffinity(lora=lora, base=base, thorough=True))).found
    call.console.show(found, lambda: lines(found))
    return Exit.OK


def lines(found: Affinity) -> Iterator[str]:
    yield found.sentence
    yield ""
    rows = [
        ("fit", found.fit),
        ("trained on", found.trained_on or "unknown"),
        ("known by", HOW.get(found.how, "")),
        ("the file says", found.says),
    ]
    if (far := found.distance) is not None:
        worst = ", ".join(f"{one.block} {one.relative:.0%}" for one in far.blocks[:FEW])
        rows += [
            ("distance", f"{far.relative:.1%} of {far.of}'s weights, cosine {far.cosine:.3f}"),
            ("most in", worst),
        ]
    rows += [(f"along {base}", f"{one:.2f} times chance") for base, one in found.alignment.items()]
    yield from pairs(rows)


def base_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="", help="say whether it fits this base, too")


def _namesake(name: str, loras: Iterable[wire.Lora]) -> str:
    """What to say where a later run of that name has left its LoRA: under another one."""
    later = [one for one in loras if one.run and one.name == f"{name}-{one.run}"]
    if not later:
        return ""
    last = max(later, key=lambda one: one.created)
    return f"{name} is the LoRA of an earlier run; that of {last.run} is {last.name}."


async def warn(call: Invocation, client: Client, base: str, uses: Sequence[LoraUse]) -> list[str]:
    """Say beforehand which LoRAs may not work on a base, and why; never in the way."""
    said = []
    loras = (await client.call(wire.GetState())).loras if uses else []
    for use in uses:
        if namesake := _namesake(use.lora, loras):
            call.console.say(namesake)
        try:
            found = (await client.call(wire.CheckAffinity(lora=use.lora, base=base))).found
        except LoraError:  # what is wrong with the file is said by whoever uses it
            continue
        if found.warning:
            call.console.say(f"warning: {found.warning}")
            said.append(found.warning)
    return said
