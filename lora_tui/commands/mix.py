"""``lora-tui mix``: the live mix that every client sees, from a script."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
from msgspec.structs import replace

from lora_tui.commands import mix_remedy
from lora_tui.commands.common import Invocation, Subparsers, command, find, noun
from lora_tui.commands.console import pairs, table
from lora_tui.commands.generate import (
    add_second,
    checked,
    found,
    lora_use,
    png_file,
    sampler,
    second_pass,
    size,
    write,
)
from lora_tui.commands.lora_affinity import warn
from lora_tui.core import words
from shared import distilled, lora_tags, mixes, wire
from shared.distilled import Preview
from shared.errors import Code, Exit, LoraError
from shared.mixes import Decoder, MixLora, MixSpec
from shared.pictures import LoraUse, stem

if TYPE_CHECKING:
    from shared.client import Client


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "mix", "LoRAs mixed at their weights, the same for every client")
    show = command(verbs, "show", show_it, "show the live mix, or a saved one")
    show.add_argument("name", metavar="NAME", nargs="?", default="")
    change = command(
        verbs,
        "set",
        set_it,
        "change the live mix; what is not named stays",
        "  lora-tui mix set dragons:0.8 ink:-0.3 --prompt 'a red dragon'\n"
        "  lora-tui mix set '<lora:ink:0.5:lbw=OUTD>' --mute dragons --seed 7\n"
        "  lora-tui mix set dragons:0.8@left ink:0.8@right\n"
        "  lora-tui mix set --remove ink --steps 30\n"
        "  lora-tui mix set --second 2 --redraw 0.3 --upscaler Lanczos --decoder cheap",
    )
    _settings(change)
    paint = command(
        verbs,
        "paint",
        paint_it,
        "paint the live mix, as it is when the picture is there",
        "  lora-tui mix set dragons:0.6 && lora-tui mix paint --out six.png",
    )
    paint.add_argument(
        "--out", type=png_file, required=True, metavar="FILE.png", help="write the PNG here"
    )
    command(verbs, "prompt", prompt_of, "print the live mix as a WebUI prompt")
    command(verbs, "flip", flip_it, "to the mix's other side, and back: takes back a remedy")
    mix_remedy.add(verbs)
    command(verbs, "list", list_them, "list the saved mixes")
    for verb, run, text in (
        ("save", save_it, "keep the live mix under a name"),
        ("load", load_it, "make a saved mix the live one"),
    ):
        command(verbs, verb, run, text).add_argument("name", metavar="NAME")
    delete = command(verbs, "delete", delete_them, "forget saved mixes; the LoRAs stay")
    delete.add_argument("names", metavar="NAME", nargs="+")


def _settings(parser: argparse.ArgumentParser) -> None:
    add_one = parser.add_argument
    add_one("loras", nargs="*", metavar="FILE_OR_NAME[:WEIGHT][@REGION]",
            help="LoRAs to add or turn, also as '<lora:name:0.8:0.6>'")  # fmt: skip
    for name, text in (
        ("remove", "take it out"),
        ("mute", "leave it out for now"),
        ("unmute", "take it in again"),
        ("solo", "only it, and others that are solo"),
        ("unsolo", "no longer"),
    ):
        add_one(f"--{name}", action="append", default=[], metavar="LORA", help=text)
    add_one("--prompt", help="what to show; <lora:…> in it is read too")
    add_one("--negative", help="what not to show")
    add_one("--base", help="a base from `model list`")
    add_one("--sampler", type=sampler, metavar="NAME", help="as in `generate`")
    add_one("--steps", type=int, help="denoising steps")
    add_one("--cfg", type=float, help="guidance")
    add_one("--seed", type=int, help="same seed, same picture")
    add_one("--size", type=size, metavar="WxH", help="pixels; 0x0: the base's own")
    add_second(parser)
    add_one("--decoder", choices=get_args(Decoder),
            help="what decodes previews: cheap, an approximation that also shows pictures on their "
            "way; full, the base's VAE, which shows none; auto, cheap where the VAE would keep one "
            "waiting. The whole picture is always the VAE's")  # fmt: skip
    add_one("--preview", metavar="'LORA[:WEIGHT] [STEPS [SAMPLER]]'",
            help="a distilled LoRA (LCM, Lightning, DMD2) for previews, at guidance 1: 'lcm-lora', "
            "'lcm-lora:1 4 LCM'; '': none. The whole picture is without it")  # fmt: skip


async def show_it(call: Invocation) -> Exit:
    async with call.client() as client:
        mix = await _mix(client, call.args.name)
        warnings = await warn(call, client, mix.spec.base, mixes.heard(mix.spec))
    _show(call, mix, warnings)
    return Exit.OK


async def set_it(call: Invocation) -> Exit:
    async with call.client() as client:
        before = (await _mix(client)).spec
        after = checked(_changed(call, before))
        mix = await client.call(wire.ChangeMix(before=before, after=after))
        warnings = await warn(call, client, mix.spec.base, mixes.heard(mix.spec))
    _show(call, mix, warnings)
    return Exit.OK


def _changed(call: Invocation, spec: MixSpec) -> MixSpec:
    """The mix as the command line wants it. Raises LoraError."""
    args = call.args
    names = ("prompt", "negative", "base", "sampler", "steps", "cfg", "seed", "decoder")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    steps = spec.steps if args.steps is None else args.steps
    uses = [lora_use(call, text, steps) for text in args.loras]
    if "base" in settings:
        settings["base"] = call.base(settings["base"])
    if "prompt" in settings:
        settings["prompt"], tags = lora_tags.taken(settings["prompt"], steps)
        uses += [found(call, use) for use in tags]
    if args.size is not None:
        settings["width"], settings["height"] = args.size
    settings["second"] = second_pass(call, spec.second)
    if args.preview is not None:
        settings["preview"] = _preview(call, args.preview) if args.preview.strip() else None
    spec = replace(spec, **settings)
    spec = mixes.without(spec, [_row(call, spec, name).lora for name in args.remove])
    named = [use.lora for use in uses]
    if twice := next((name for name in named if named.count(name) > 1), ""):
        raise LoraError(
            Code.BAD_REQUEST, f"{stem(twice)} is named twice; a mix has each LoRA once."
        )
    for use in uses:
        present = _in(spec, use.lora) or MixLora(lora=use.lora)
        fields = {name: getattr(use, name) for name in use.__struct_fields__ if name != "lora"}
        spec = mixes.with_lora(spec, replace(present, **fields))
    for verb, change in (
        ("mute", {"muted": True}),
        ("unmute", {"muted": False}),
        ("solo", {"solo": True}),
        ("unsolo", {"solo": False}),
    ):
        for name in getattr(args, verb):
            spec = mixes.with_lora(spec, replace(_row(call, spec, name), **change))
    return spec


def _preview(call: Invocation, text: str) -> Preview:
    """Raises LoraError(BAD_REQUEST)."""
    preview = distilled.read(text)
    return replace(preview, lora=found(call, LoraUse(lora=preview.lora)).lora)


def _row(call: Invocation, spec: MixSpec, name: str) -> MixLora:
    """Raises LoraError(NOT_FOUND)."""
    wanted = found(call, MixLora(lora=name)).lora
    return _in(spec, wanted) or find(spec.loras, wanted, "LoRA of the mix", "lora")


def _in(spec: MixSpec, name: str) -> MixLora | None:
    """The LoRA of the mix that has this name, or whose file has."""
    named = [one for one in spec.loras if one.lora == name]
    named += [one for one in spec.loras if stem(one.lora) == name]
    return named[0] if named else None


async def paint_it(call: Invocation) -> Exit:
    async with call.client() as client:
        rev = (await _mix(client)).rev
        view = await client.call(wire.WatchMix(again=True))
        while view.stage != "done" or view.rev < rev:
            if view.failure is not None and view.rev >= rev:
                raise LoraError.of(view.failure)
            if view.steps:
                call.report(view.step, view.steps, view.stage)
            view = await client.call(wire.WatchMix(seen=view.token, have=view.picture))
        view, blobs = await client.fetch(wire.WatchMix())
        if not blobs:
            raise LoraError(Code.INVALID_FILE, "The picture is gone from the cache: try again.")
    write(call.args.out, blobs[0])
    for note in view.notes:
        call.console.say(note)
    path = str(Path(call.args.out))
    call.console.show({"path": path, "rev": view.picture_rev, "notes": view.notes}, lambda: [path])
    return Exit.OK


async def flip_it(call: Invocation) -> Exit:
    async with call.client() as client:
        mix = await client.call(wire.FlipMix(if_rev=(await _mix(client)).rev))
    _show(call, mix, [])
    return Exit.OK


async def prompt_of(call: Invocation) -> Exit:
    async with call.client() as client:
        spec = (await _mix(client)).spec
    text = mixes.webui(spec)
    call.console.show({"prompt": text, "negative": spec.negative}, lambda: [text])
    return Exit.OK


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        saved = [mix for mix in (await client.call(wire.GetState())).mixes if mix.name]

    def lines() -> list[str]:
        rows = [(mix.name, mix.spec.base, mixes.webui(mix.spec), mix.by) for mix in saved]
        return table(("NAME", "BASE", "PROMPT", "BY"), rows)

    call.console.show({"mixes": saved}, lines)
    return Exit.OK


async def save_it(call: Invocation) -> Exit:
    async with call.client() as client:
        mix = await client.call(wire.SaveMix(name=call.args.name))
    call.console.show(mix, lambda: [mix.name])
    return Exit.OK


async def load_it(call: Invocation) -> Exit:
    async with call.client() as client:
        wanted, live = await _mix(client, call.args.name), await _mix(client)
        mix = await client.call(wire.ChangeMix(before=live.spec, after=wanted.spec))
        warnings = await warn(call, client, mix.spec.base, mixes.heard(mix.spec))
    _show(call, mix, warnings)
    return Exit.OK


async def delete_them(call: Invocation) -> Exit:
    async with call.client() as client:
        saved = [mix for mix in (await client.call(wire.GetState())).mixes if mix.name]
        names = [find(saved, name, "mix", "name").name for name in call.args.names]
        for name in names:
            await client.call(wire.RemoveMix(name=name))
    call.console.show({"deleted": names}, lambda: names)
    return Exit.OK


async def _mix(client: Client, name: str = "") -> wire.Mix:
    """The live mix, or a saved one. Raises LoraError(NOT_FOUND)."""
    known = (await client.call(wire.GetState())).mixes
    return find([mix for mix in known if bool(mix.name) == bool(name)], name, "mix", "name")


def _show(call: Invocation, mix: wire.Mix, warnings: list[str]) -> None:
    spec = mix.spec

    def lines() -> Iterator[str]:
        size = f"{spec.width}x{spec.height}" if spec.width or spec.height else ""
        yield from pairs(
            [
                ("base", spec.base),
                ("prompt", spec.prompt),
                ("negative", spec.negative),
                ("picture", f"seed {spec.seed}, {spec.sampler}, {spec.steps} steps, "
                            f"cfg {spec.cfg:g} {size}".rstrip()),
                ("second pass", words.second_pass(spec.second) if spec.second else ""),
                ("preview", "" if spec.preview is None else distilled.said(spec.preview)),
                ("decoder", "" if spec.decoder == "auto" else spec.decoder),
            ]
        )  # fmt: skip
        if spec.loras:
            heard = mixes.heard(spec)
            yield ""
            yield from table(
                ("LORA", ">WEIGHT", ">TEXT", "BLOCKS", "STEPS", "WHERE", ">GUIDE", ""),
                [(one.lora, f"{one.weight:g}",
                  "" if one.text_weight is None else f"{one.text_weight:g}",
                  ",".join(f"{block:g}" for block in one.blocks), mixes.parts_of_steps(one),
                  mixes.part_of_picture(one), f"{one.guidance:g}" if one.guidance else "",
                  " ".join(word for word, on in (("muted", one.muted), ("solo", one.solo),
                                                 ("left out", one not in heard)) if on))
                 for one in spec.loras],
            )  # fmt: skip

    value: dict[str, Any] = msgspec.to_builtins(mix)
    call.console.show({**value, "webui": mixes.webui(spec), "warnings": warnings}, lines)
