"""``lora-tui demo --full``: the lesson's two tests on the starter, after the demo itself.

Test 1: a content and a style together, at several weights and on both of their prompts. Test 2: the
same LoRAs on a base that is kin to theirs and on a foreign one, with what is known beforehand said.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from lora_tui.commands import demo
from lora_tui.commands import recipe as recipes
from lora_tui.commands.common import Invocation
from lora_tui.commands.follow import followed
from shared import recipe, wire
from shared.affinity import Affinity
from shared.client import Client
from shared.pictures import LoraUse, PictureSpec

PENCIL = "pencil"
PROMPTS = ("a red creature in a meadow", "a pencil drawing of a house in a meadow")
MIXED = (0.8, 0.8)  # weights of creatures and pencil, counted together
BASES = ("starter", "starter-kin", "starter-foreign")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. ``both``, ``alone``: asked for creatures in pencil, with both LoRAs at
    ``MIXED`` and with the creatures' alone. ``on_bases``: asked for creatures, with theirs."""

    first: demo.Result  # the demo itself
    pencil: str  # the run of the pencil drawings
    mixed: str  # the sheet of both at several weights, on both prompts
    elsewhere: str  # the sheet of each on three bases
    both: demo.Seen
    alone: demo.Seen
    on_bases: dict[str, demo.Seen]
    affinities: dict[str, Affinity]  # of the creatures' LoRA to each base


async def make(call: Invocation, first: demo.Result) -> Result:
    """Everything after the demo, each stage unless it is done."""
    async with call.client(subscribe=True) as client:
        run = await _pencil(call, client)
        files = {lora.name: lora.path for lora in client.state.loras}
        content = next(name for name, path in files.items() if path == first.lora)
        spec = replace(
            demo.SETTINGS, prompt=PROMPTS[0], loras=[LoraUse(lora=content), LoraUse(lora=run.lora)]
        )
        named = f"{first.run} {run.id}"
        weights = [f"weight:{name}=0,0.5,1" for name in (content, run.lora)]
        prompts = f"prompt={','.join(PROMPTS)}"
        mixed = await _grid(call, client, spec, [*weights, prompts], f"test 1 {named}")
        affinities = {name: await _affinity(client, content, name) for name in BASES}
        for found in affinities.values():
            call.console.say(found.warning or found.sentence)
        either = [f"weight:{name}=0,1" for name in (content, run.lora)]
        elsewhere = await _grid(
            call, client, spec, [f"base={','.join(BASES)}", *either], f"test 2 {named}"
        )
    asked: list[dict[str, Any]] = [
        {"style": PENCIL, "loras": [(first.lora, MIXED[0]), (files[run.lora], MIXED[1])]},
        {"style": PENCIL, "loras": [(first.lora, MIXED[0])]},
    ]
    asked += [{"base": name, "loras": [(first.lora, 1.0)]} for name in BASES]
    both, alone, *on_bases = await demo.counted(call, asked)
    return Result(
        first=first, pencil=run.id, mixed=mixed, elsewhere=elsewhere, both=both, alone=alone,
        on_bases=dict(zip(BASES, on_bases, strict=True)), affinities=affinities,
    )  # fmt: skip


async def _pencil(call: Invocation, client: Client) -> wire.Run:
    """The finished run of the pencil drawings, which the built-in captioner captions first."""
    dataset = await demo.dataset_of(call, client, PENCIL)
    ask = wire.CaptionPictures(dataset=dataset, model="starter", accept=True)
    done = await client.call(ask, on_progress=call.report)
    if done.written:
        call.console.say(f"{done.written} pencil drawings captioned.")
    loaded = recipe.load(recipes.shipped()[PENCIL], call.args.overrides)
    loaded = replace(loaded, dataset=replace(loaded.dataset, name=dataset))
    text = recipe.dump(loaded)
    run = await client.call(
        wire.StartRun(recipe=text, name=PENCIL), key=f"demo --full {dataset} {text}"
    )
    return await followed(call, client, run.id)


async def _grid(
    call: Invocation, client: Client, spec: PictureSpec, axes: list[str], name: str
) -> str:
    ask = wire.PaintGrid(spec=spec, axes=axes, name=name)
    return (await client.call(ask, on_progress=call.report)).picture.path


async def _affinity(client: Client, lora: str, base: str) -> Affinity:
    return (await client.call(wire.CheckAffinity(lora=lora, base=base))).found


def told(result: Result) -> Iterator[str]:
    both, alone = result.both.both, result.alone.both
    yield f"creatures in pencil, both LoRAs at {MIXED[0]:g}: {both}"
    yield f"the creatures' LoRA alone, asked for the same: {alone}"
    for name, seen in result.on_bases.items():
        yield f"creatures on {name}: {seen.creature}"
    yield f"test 1, both at several weights on both prompts: {result.mixed}"
    yield f"test 2, on three bases: {result.elsewhere}"
