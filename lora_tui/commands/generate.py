"""``lora-tui generate``: a picture from words, with LoRAs at their weights."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TypeVar, get_args

import msgspec

from lora_tui.commands.common import Invocation, Subparsers, command
from shared import lora_tags, wire
from shared.errors import Code, Exit, LoraError
from shared.mixes import MixSpec
from shared.pictures import LoraUse, PictureSpec
from shared.recipe import Sampler

Spec = TypeVar("Spec", PictureSpec, MixSpec)


def add(subparsers: Subparsers) -> None:
    generate = command(
        subparsers,
        "generate",
        generate_it,
        "make a picture",
        '  lora-tui generate --prompt "a red house" --out house.png\n'
        '  lora-tui generate --base sd15 --lora dragons:0.8 --prompt "a dragon" '
        '--sampler "Euler a"\n'
        "      --steps 20 --cfg 7 --seed 1025 --size 512x512 --out dragon.png",
    )
    add_settings(generate)
    generate.add_argument(
        "--out", default="", metavar="FILE.png", help="write the PNG here; else print its path"
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Everything that decides a picture."""
    default = PictureSpec()
    add_one = parser.add_argument
    add_one("--prompt", required=True, help="what to show")
    add_one("--negative", default="", help="what not to show")
    add_one("--base", default=default.base, help=f"a base from `model list` ({default.base})")
    add_one(
        "--lora", action="append", default=[], metavar="FILE_OR_NAME[:WEIGHT]",
        help="a LoRA and its weight (1), or as the WebUI writes it in a prompt, where it is read "
        "too: '<lora:name:0.8:0.6>' (text encoder, UNet), also with :lbw=OUTD and :start=5:stop=15 "
        "(steps); may be repeated",
    )  # fmt: skip
    add_one("--sampler", default=default.sampler, choices=get_args(Sampler), metavar="NAME",
            help=f"{', '.join(get_args(Sampler))} ({default.sampler})")  # fmt: skip
    add_one("--steps", type=int, default=default.steps, help=f"denoising steps ({default.steps})")
    add_one("--cfg", type=float, default=default.cfg, help=f"guidance ({default.cfg:g})")
    add_one(
        "--seed", type=int, default=default.seed, help=f"same seed, same picture ({default.seed})"
    )
    add_one("--size", type=size, default=(0, 0), metavar="WxH", help="pixels; else the base's own")


async def generate_it(call: Invocation) -> Exit:
    args = call.args
    spec = asked(call)
    from lora_tui.commands.lora_affinity import warn

    async with call.client() as client:
        warnings = await warn(call, client, spec.base, [u for u in spec.loras if u.weight])
        picture = await client.call(wire.Generate(spec=spec), on_progress=call.report)
        if args.out:
            _, blobs = await client.fetch(wire.GetPicture(picture=picture.id))
            write(args.out, blobs[0])
    path = args.out or picture.path
    told = {"path": path, "picture": picture, "warnings": warnings}
    call.console.show(told, lambda: [path])
    return Exit.OK


def asked(call: Invocation) -> PictureSpec:
    """The picture that the arguments of ``add_settings`` ask for. Raises LoraError(BAD_REQUEST)."""
    args = call.args
    width, height = args.size
    prompt, tags = lora_tags.taken(args.prompt, args.steps)
    return checked(
        PictureSpec(
            base=call.base(args.base), prompt=prompt, negative=args.negative,
            sampler=args.sampler, steps=args.steps, cfg=args.cfg, seed=args.seed,
            width=width, height=height,
            loras=[lora_use(call, text, args.steps) for text in args.lora]
            + [found(call, use) for use in tags],
        )
    )  # fmt: skip


def lora_use(call: Invocation, text: str, steps: int = lora_tags.STEPS) -> LoraUse:
    """``FILE_OR_NAME:0.7`` or the WebUI's ``<lora:…>``, in a picture of so many steps."""
    if text.startswith("<lora:") and text.endswith(">"):
        return found(call, lora_tags.read(text, steps))
    name, weight = text, 1.0
    match = re.fullmatch(r"(.+):([-+]?(?:\d+\.?\d*|\.\d+))", text, re.DOTALL)
    if match and not Path(text).exists():
        name, weight = match[1], float(match[2])
    return found(call, LoraUse(lora=name, weight=weight))


def found(call: Invocation, use: LoraUse) -> LoraUse:
    """A file that is there is given to the daemon by its whole path."""
    if not call.remote and Path(use.lora).expanduser().is_file():
        return msgspec.structs.replace(use, lora=call.daemon_path(use.lora))
    return use


def checked(spec: Spec) -> Spec:
    """The spec, if every value is within its bounds. Raises LoraError(BAD_REQUEST)."""
    try:
        return msgspec.convert(msgspec.to_builtins(spec), type(spec))
    except msgspec.ValidationError as error:
        what = str(error).replace("`", "").replace("Expected", "expected").replace("$.", "")
        raise LoraError(Code.BAD_REQUEST, f"That cannot be made: {what}.") from None


def write(path: str, content: bytes) -> None:
    """Put a picture where it was asked for, whole or not at all. Raises LoraError(STORAGE)."""
    from shared.files import publish

    publish(Path(path).expanduser(), content, mode=0o644)


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text!r}; write it as 512x512")
    return int(match[1]), int(match[2])
