"""``lora-tui mix remedy``: win back what the LoRAs of the live mix lose to each other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lora_tui.commands.common import Invocation, Subparsers, command, find
from lora_tui.commands.generate import write
from lora_tui.commands.lora_conflict import pictures
from lora_tui.core import mix_probe, probe_table
from shared import company, mixes, probes, wire
from shared.errors import Exit
from shared.mixes import MixSpec

if TYPE_CHECKING:
    from shared.client import Client


def add(verbs: Subparsers) -> None:
    remedy = command(
        verbs, "remedy", remedy_it, "win back what the LoRAs lose to each other, tried on the base",
        "  lora-tui mix remedy              # the best of all; `mix flip` takes it back\n"
        "  lora-tui mix remedy steps --pictures before-after\n"
        "  lora-tui mix remedy --dry-run",
    )  # fmt: skip
    remedy.add_argument(
        "kind", nargs="?", choices=probes.KINDS,
        help="weights: one factor a LoRA; blocks: one a block of each; steps: each LoRA in its "
        "part of the steps; guidance: pictures guided further along one or all, which takes "
        "longer; else whichever measures best",
    )  # fmt: skip
    remedy.add_argument("--prompt", action="append", default=[], metavar="TEXT",
                        help="what to try it on; else the mix's own prompt")  # fmt: skip
    remedy.add_argument(
        "--losses", type=pictures, nargs="?", const=company.PICTURES, default=0, metavar="PICTURES",
        help="paint so many pictures of each remedy, and take the one in which the LoRA that is "
        f"recognised least keeps most ({company.PICTURES}); plain weights are tried too",
    )  # fmt: skip
    remedy.add_argument("--dry-run", action="store_true", help="only say what would help")
    remedy.add_argument("--pictures", default="", metavar="DIR",
                        help="paint before.png and after.png there")  # fmt: skip


async def remedy_it(call: Invocation) -> Exit:
    args = call.args
    async with call.client() as client:
        known = (await client.call(wire.GetState())).mixes
        live = find([mix for mix in known if not mix.name], "", "mix", "name")
        request = mix_probe.wanted(
            live.spec, blocks=args.kind in (None, "blocks"), prompts=args.prompt,
            losses=args.losses,
        )  # fmt: skip
        found = (await client.call(request, on_progress=call.report)).found
        fitting = [one for one in found.remedies if args.kind in (None, one.kind)]
        applied = None
        if fitting and not args.dry_run:
            after = mixes.remedied(live.spec, fitting[0].loras)
            other = await client.call(wire.FlipMix(if_rev=live.rev))
            applied = await client.call(wire.ChangeMix(before=other.spec, after=after))
        painted = []
        if fitting and args.pictures:
            after = mixes.remedied(live.spec, fitting[0].loras)
            painted = [
                await _painted(call, client, spec, f"{args.pictures}/{name}.png")
                for name, spec in (("before", live.spec), ("after", after))
            ]
    said = "Nothing that was tried wins anything back."
    if found.remedies:
        said = f"Of that kind nothing wins anything back; {found.remedies[0].kind} does."
    if fitting:
        said = f"Best: {probe_table.TITLES[fitting[0].kind]}."
        if applied is not None:
            said += " It is in the mix; `lora-tui mix flip` takes it back."
    table = ["".join(text for text, _ in row) for row in probe_table.lines(found)]
    value = msgspec.to_builtins(found)
    call.console.show(
        {**value, "applied": fitting[0].kind if applied else "", "pictures": painted},
        lambda: [*table, "", said, *painted],
    )
    return Exit.OK


async def _painted(call: Invocation, client: Client, spec: MixSpec, path: str) -> str:
    painted = await client.call(wire.Generate(spec=mixes.picture(spec)), on_progress=call.report)
    _, blobs = await client.fetch(wire.GetPicture(picture=painted.id))
    await asyncio.to_thread(_placed, path, blobs[0])
    return path


def _placed(path: str, picture: bytes) -> None:
    Path(path).expanduser().parent.mkdir(parents=True, exist_ok=True)
    write(path, picture)
