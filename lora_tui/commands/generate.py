"""``lora-tui generate``: a picture from words, with LoRAs at their weights."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgspec

from lora_tui.commands.common import Invocation, Subparsers, command
from shared import lora_tags, regions, wire
from shared.errors import Code, Exit, LoraError, UsageError, in_words
from shared.lora_keys import file_of
from shared.mixes import MixSpec
from shared.pictures import (
    UPSCALERS,
    LoraUse,
    PictureSpec,
    SecondPass,
    Start,
    Variation,
    sampler_named,
)
from shared.recipe import Sampler

if TYPE_CHECKING:
    from shared.client import Client

Spec = TypeVar("Spec", PictureSpec, MixSpec, wire.LearnColumns, wire.WeighLora)
_WEIGHED = re.compile(r"(.+):([-+]?(?:\d+\.?\d*|\.\d+))", re.DOTALL)


def add(subparsers: Subparsers) -> None:
    generate = command(
        subparsers,
        "generate",
        generate_it,
        "make a picture",
        '  lora-tui generate --prompt "a red house" --out house.png\n'
        '  lora-tui generate --base sd15 --lora dragons:0.8 --prompt "a dragon" '
        '--sampler "Euler a"\n'
        "      --steps 20 --cfg 7 --seed 1025 --size 512x512 --out dragon.png\n"
        "  lora-tui generate --prompt 'a (red:1.3) house' --second 2 --redraw 0.3\n"
        "  lora-tui generate --from house.png --strength 0.5 --prompt 'a blue house'\n"
        "  lora-tui generate --again p1a2b3c4d5e6 --seed 7",
    )
    add_settings(generate, again=True)
    generate.add_argument(
        "--count", type=counted, default=1, metavar="N",
        help="so many pictures, each with the next seed (1)",
    )  # fmt: skip
    generate.add_argument(
        "--out", type=png_file, default="", metavar="FILE.png",
        help="write the PNG here, of several also FILE-2.png and so on; else print its path",
    )  # fmt: skip


def add_settings(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Everything that decides a picture. What is not given has no value: ``asked`` knows the
    defaults, which with ``again`` may be those of another picture."""
    default = PictureSpec()

    def add_one(flag: str, **options: Any) -> None:
        parser.add_argument(flag, default=None, **options)

    add_one("--prompt", required=not again, help="what to show; (word:1.3) counts more, [word] "
            "less; names of textual inversions are known (`embedding list`)")  # fmt: skip
    add_one("--negative", help="what not to show")
    add_one("--base", help=f"a base from `model list` ({default.base})")
    add_one(
        "--lora", action="append", metavar="FILE_OR_NAME[:WEIGHT]",
        help="a LoRA and its weight (1), or as the WebUI writes it in a prompt, where it is read "
        "too: '<lora:name:0.8:0.6>' (text encoder, UNet), also with :lbw=OUTD, :start=5:stop=15 "
        "(steps) and :where=left; @left behind it is the same: the part of the picture it acts in "
        "(left, right, top, bottom, 0.1,0.2,0.6,0.9 or mask.png; ~0.2: how soft its edge is). "
        ":guide=2.5 guides pictures so much further along what it adds. May be repeated",
    )  # fmt: skip
    add_one("--sampler", type=sampler, metavar="NAME",
            help=f"{', '.join(get_args(Sampler))} ({default.sampler})")  # fmt: skip
    add_one("--steps", type=int, help=f"denoising steps ({default.steps})")
    add_one("--cfg", type=float, help=f"guidance ({default.cfg:g})")
    add_one("--seed", type=int, help=f"same seed, same picture ({default.seed})")
    add_one("--size", type=size, metavar="WxH", help="pixels; else the base's own")
    add_one("--variation", type=variation, metavar="SEED:STRENGTH",
            help="mix another seed in: 0 is the picture as it is, 1 the other seed's")  # fmt: skip
    add_one("--from", dest="start", metavar="PICTURE",
            help="begin from a picture: a file, or an id of `gallery list`")  # fmt: skip
    add_one("--strength", type=float, metavar="0…1",
            help="how much of it is drawn anew (0.75)")  # fmt: skip
    add_second(parser)
    if again:
        add_one(
            "--again",
            metavar="PICTURE",
            help="an id of `gallery list`: what is not given is as in that picture",
        )


def add_second(parser: argparse.ArgumentParser) -> None:
    """What ``second_pass`` reads."""
    add_one = parser.add_argument
    add_one("--second", type=float, metavar="SCALE",
            help="enlarge the picture by so much, draw it anew in part; 1: not at all")  # fmt: skip
    add_one("--redraw", type=float, metavar="0…1", help="how much, in that second pass (0.3)")
    add_one("--second-steps", type=int, metavar="N", help="its steps (as the first pass)")
    add_one("--upscaler", metavar="NAME_OR_FILE",
            help=f"what enlarges it: {', '.join(UPSCALERS)} (Latent), or a network such as "
                 "4x-UltraSharp: a file in LORA_TUI_HOME/upscalers (`upscaler list`), or a "
                 "path")  # fmt: skip


async def generate_it(call: Invocation) -> Exit:
    args = call.args
    from lora_tui.commands.lora_affinity import warn

    if not args.again:
        if args.prompt is None:
            raise UsageError("Say what to show: --prompt, or --again PICTURE.")
        asked(call)  # mistakes are said before anything runs
    told: list[dict[str, Any]] = []
    async with call.client() as client:
        before, left = await _again(call, client)
        first = asked(call, before)
        warnings = await warn(call, client, first.base, [u for u in first.loras if u.weight])
        for number in range(args.count):
            spec = msgspec.structs.replace(first, seed=first.seed + number)
            request = wire.Generate(spec=spec, patient=args.count > 1)
            picture = await client.call(request, on_progress=call.report)
            for note in picture.notes:
                call.console.say(f"warning: {note}")
            path = picture.path
            if args.out:
                path = args.out if not number else _numbered(args.out, number + 1)
                _, blobs = await client.fetch(wire.GetPicture(picture=picture.id))
                write(path, blobs[0])
            told.append(
                {"path": path, "picture": picture, "warnings": [*left, *warnings, *picture.notes]}
            )
    call.console.show(told[0] if len(told) == 1 else told, lambda: [one["path"] for one in told])
    return Exit.OK


async def _again(call: Invocation, client: Client) -> tuple[PictureSpec, list[str]]:
    """What is not said otherwise, and what of another picture cannot be had again, in words."""
    if not call.args.again:
        return PictureSpec(), []
    found = await client.call(wire.GetGalleryPicture(picture=call.args.again))
    for text in found.left:
        call.console.say(f"warning: {text}")
    return found.spec, found.left


def asked(call: Invocation, before: PictureSpec | None = None) -> PictureSpec:
    """The picture that the arguments of ``add_settings`` ask for; what they do not say is as
    ``before``. Raises LoraError(BAD_REQUEST)."""
    args = call.args
    spec = before or PictureSpec()
    names = ("prompt", "negative", "sampler", "steps", "cfg", "seed", "variation")
    changed = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    spec = msgspec.structs.replace(spec, **changed)
    if args.base is not None:
        spec = msgspec.structs.replace(spec, base=call.base(args.base))
    if args.size is not None:
        spec = msgspec.structs.replace(spec, width=args.size[0], height=args.size[1])
    prompt, tags = lora_tags.taken(spec.prompt, spec.steps)
    loras = spec.loras if args.lora is None else []
    loras = [*loras, *(lora_use(call, text, spec.steps) for text in args.lora or ())]
    loras += [found(call, use) for use in tags]
    spec = msgspec.structs.replace(spec, prompt=prompt, loras=loras)
    return checked(_passes(call, spec))


def _passes(call: Invocation, spec: PictureSpec) -> PictureSpec:
    """The spec with what it begins from, and its second pass. Raises LoraError(BAD_REQUEST)."""
    args = call.args
    start = spec.start
    if args.start is not None:
        start = Start(picture=_picture(call, args.start))
    if args.strength is not None:
        if start is None:
            raise LoraError(Code.BAD_REQUEST, "--strength is of a picture to begin from: --from.")
        start = msgspec.structs.replace(start, strength=args.strength)
    return msgspec.structs.replace(spec, start=start, second=second_pass(call, spec.second))


def second_pass(call: Invocation, second: SecondPass | None) -> SecondPass | None:
    """The second pass that the arguments of ``add_second`` ask for; what they do not say is as it
    is. Raises LoraError(BAD_REQUEST)."""
    args = call.args
    if args.second is not None:
        second = SecondPass(scale=args.second) if args.second != 1 else None
    names = {"redraw": "strength", "second_steps": "steps", "upscaler": "upscaler"}
    values = {name: getattr(args, flag) for flag, name in names.items()
              if getattr(args, flag) is not None}  # fmt: skip
    if values and second is None:
        raise LoraError(
            Code.BAD_REQUEST,
            "--redraw, --second-steps and --upscaler are of a second pass: --second 2.",
        )
    if values.get("upscaler", UPSCALERS[0]) not in UPSCALERS:
        values["upscaler"] = _picture(call, values["upscaler"])
    return msgspec.structs.replace(second, **values) if second is not None else None


def _picture(call: Invocation, text: str) -> str:
    """A file that is there by its whole path, else as it is: an id."""
    if not call.remote and Path(text).expanduser().is_file():
        return call.daemon_path(text)
    return text


def lora_use(call: Invocation, text: str, steps: int = lora_tags.STEPS) -> LoraUse:
    """``FILE_OR_NAME:0.7``, with ``@left`` behind it in a region, or the WebUI's ``<lora:…>``, in
    a picture of so many steps. Raises LoraError(BAD_REQUEST)."""
    if text.startswith("<lora:") and text.endswith(">"):
        return found(call, lora_tags.read(text, steps))
    name, weight, region = text, 1.0, None
    if not Path(text).exists():
        before, mark, where = text.rpartition("@")
        try:
            if mark:
                name, region = before, regions.read(where)
        except LoraError:
            if _WEIGHED.fullmatch(before) or Path(before).expanduser().is_file():
                raise
            name = text  # an @ of its own
        if (match := _WEIGHED.fullmatch(name)) and not Path(name).exists():
            name, weight = match[1], float(match[2])
    return found(call, LoraUse(lora=name, weight=weight, region=region))


def found(call: Invocation, use: LoraUse) -> LoraUse:
    """A file that is there is given to the daemon by its whole path, and so is a mask."""
    if use.region is not None and use.region.picture and not call.remote:
        mask = call.daemon_path(use.region.picture)
        region = msgspec.structs.replace(use.region, picture=mask)
        use = msgspec.structs.replace(use, region=region)
    if not call.remote and file_of(Path(use.lora).expanduser()).is_file():
        return msgspec.structs.replace(use, lora=call.daemon_path(use.lora))
    return use


def checked(spec: Spec) -> Spec:
    """The spec, if every value is within its bounds. Raises LoraError(BAD_REQUEST)."""
    try:
        return msgspec.convert(msgspec.to_builtins(spec), type(spec))
    except msgspec.ValidationError as error:
        raise LoraError(Code.BAD_REQUEST, f"That cannot be made: {in_words(error)}.") from None


def write(path: str, content: bytes) -> None:
    """Put a picture where it was asked for, whole or not at all. Raises LoraError(STORAGE)."""
    from shared.files import publish

    publish(Path(path).expanduser(), content, mode=0o644)


def counted(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f"not a number of pictures: {text!r}")
    return int(text)


def sampler(text: str) -> str:
    try:
        return sampler_named(text)
    except LoraError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def png_file(text: str) -> str:
    """Where a picture can be put, which is better known before it is painted."""
    place = Path(text).expanduser()
    if text and not place.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {place.parent}")
    if text and place.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file in it")
    if place.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        raise argparse.ArgumentTypeError(f"{text} would be a PNG: name it {place.stem}.png")
    return text


def variation(text: str) -> Variation:
    match = re.fullmatch(r"(\d{1,18}):(\d*\.?\d+)", text)
    if not match or float(match[2]) > 1:
        raise argparse.ArgumentTypeError(f"not a variation: {text!r}; write it as 7:0.3")
    return Variation(seed=int(match[1]), strength=float(match[2]))


def _numbered(path: str, number: int) -> str:
    place = Path(path)
    return str(place.with_stem(f"{place.stem}-{number}"))


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text!r}; write it as 512x512")
    return int(match[1]), int(match[2])
