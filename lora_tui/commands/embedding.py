"""``lora-tui embedding``: the textual inversions that prompts may name."""

from __future__ import annotations

from collections.abc import Iterator

from lora_tui.commands.common import Invocation, Subparsers, command, noun
from lora_tui.commands.console import table
from shared import wire
from shared.errors import Exit


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "embedding", "textual inversions, named in a prompt by their files")
    command(
        verbs,
        "list",
        list_them,
        "list the embeddings in the workspace's folder, where they are put as files",
        "  cp easynegative.safetensors ~/.local/share/lora-tui/embeddings/\n"
        "  lora-tui generate --prompt 'a house' --negative easynegative",
    )


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        found = await client.call(wire.ListEmbeddings())
    call.console.show(found, lambda: _told(found))
    return Exit.OK


def _told(found: wire.EmbeddingsFound) -> Iterator[str]:
    if not found.embeddings:
        yield f"There are none. Put .safetensors files into {found.folder}."
        return
    rows = [
        [one.name, one.problem or f"{one.vectors} × {' + '.join(map(str, one.widths))}"]
        for one in found.embeddings
    ]
    yield from table(["NAME", "VECTORS"], rows)
