"""``lora-tui upscaler``: what can enlarge a picture before its second pass."""

from __future__ import annotations

from collections.abc import Iterator

from lora_tui.commands.common import Invocation, Subparsers, command, noun
from lora_tui.commands.console import table
from shared import wire
from shared.errors import Exit
from shared.pictures import UPSCALERS


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "upscaler", "networks that enlarge pictures for a second pass")
    command(
        verbs,
        "list",
        list_them,
        "list the networks in the workspace's folder, where they are put as files",
        "  cp 4x-UltraSharp.safetensors ~/.local/share/lora-tui/upscalers/\n"
        "  lora-tui generate --prompt 'a house' --second 2 --upscaler 4x-UltraSharp",
    )


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        found = await client.call(wire.ListUpscalers())
    call.console.show(found, lambda: _told(found))
    return Exit.OK


def _told(found: wire.UpscalersFound) -> Iterator[str]:
    if not found.upscalers:
        yield (
            f"There are no networks; {' and '.join(UPSCALERS)} need none. "
            f"Put .safetensors files into {found.folder}."
        )
        return
    yield from table(["NAME", "FILE"], [[one.name, one.problem or one.path]
                                        for one in found.upscalers])  # fmt: skip
