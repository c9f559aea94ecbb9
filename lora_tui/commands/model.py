"""``lora-tui model``: the bases that LoRAs are trained on and used with."""

from __future__ import annotations

from lora_tui.commands.common import Invocation, Subparsers, command, find, noun
from lora_tui.commands.console import pairs, table
from lora_tui.core import words
from shared import wire
from shared.errors import Exit


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "model", "the bases that LoRAs are trained on")
    command(verbs, "list", list_them, "list the bases")
    take = command(
        verbs,
        "add",
        add_it,
        "add a diffusers folder as a base, by reference",
        "  lora-tui model add ~/models/stable-diffusion-v1-5 --name sd15",
    )
    take.add_argument("path", metavar="FOLDER", help="on the daemon's machine")
    take.add_argument("--name", default="", help="call it so; else as the folder is called")
    inspect = command(verbs, "inspect", inspect_it, "say what a base is, and what it lacks")
    inspect.add_argument("model", metavar="NAME")


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        bases = (await client.call(wire.GetState())).bases

    def lines() -> list[str]:
        rows = [
            (b.name, b.family, str(b.resolution), words.size(b.size), b.problem or "ok", b.path)
            for b in bases
        ]
        return table(("NAME", "FAMILY", ">PIXELS", ">DISK", "STATE", "FOLDER"), rows)

    call.console.show({"bases": bases}, lines)
    return Exit.OK


async def add_it(call: Invocation) -> Exit:
    path = call.daemon_path(call.args.path)
    async with call.client() as client:
        base = await client.call(wire.AddBase(path=path, name=call.args.name))
    call.console.show(base, lambda: _told(base))
    return Exit.OK


async def inspect_it(call: Invocation) -> Exit:
    async with call.client() as client:
        bases = (await client.call(wire.GetState())).bases
    base = find(bases, call.args.model, "base", "name")
    call.console.show(base, lambda: _told(base))
    return Exit.OK


def _told(base: wire.BaseModel) -> list[str]:
    return pairs(
        [
            ("name", base.name),
            ("folder", f"{base.path} ({words.size(base.size)})"),
            ("family", base.family),
            ("resolution", f"{base.resolution} pixels"),
            ("problem", base.problem),
        ]
    )
