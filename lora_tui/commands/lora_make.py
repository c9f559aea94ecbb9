"""``lora-tui lora merge``, ``resize`` and ``convert``: LoRA files made from others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, get_args

import msgspec

from lora_tui.commands import process
from lora_tui.commands.common import Invocation, Subparsers, base_path, command, find
from lora_tui.commands.console import pairs
from lora_tui.commands.generate import checked, lora_use
from lora_tui.core import words
from shared import wire, zipping
from shared.errors import Code, Exit, LoraError, misfit
from shared.filenames import to_text, typed
from shared.lora_keys import Dialect
from shared.lora_orders import (
    METHODS,
    PRECISIONS,
    Baked,
    BakeOrder,
    Merged,
    MergeOrder,
    Source,
    source,
)
from shared.pictures import stem

Answer = TypeVar("Answer", Merged, Baked)
WORST = 3  # modules named in the summary


def add(verbs: Subparsers) -> None:
    merge = command(
        verbs, "merge", merge_them, "merge LoRAs into one file, each at its weight",
        "  lora-tui lora merge dragons:0.8 ink:0.6 --out both.safetensors\n"
        "  lora-tui lora merge dragons:0.8 ink:0.6 --rank 32 --out both.safetensors\n"
        "  lora-tui lora merge dragons ink --method ties --density 0.3 --rank 64 --out b\n"
        "  lora-tui lora merge ink dragons --method orthogonal --base sd15 --out ink2.safetensors\n"
        "  lora-tui lora merge ink:0.8 dragons --method ziplora --base sd15 --out b.safetensors",
    )  # fmt: skip
    merge.add_argument(
        "loras", metavar="FILE_OR_NAME[:WEIGHT]", nargs="+",
        help="a LoRA and its weight (1), or '<lora:name:0.8:0.6>' (text encoder, UNet)",
    )  # fmt: skip
    merge.add_argument(
        "--method", choices=METHODS, default="",
        help="exact: the sum, rank by rank; svd: its best approximation; ties, dare: on the true "
        "change of the weights; orthogonal: the first alone, without what it does where the others "
        "act (exact, or svd with --rank or --error); ziplora: the sum, each column times what was "
        "learnt on the base, so that each keeps its effect on its own prompts",
    )  # fmt: skip
    merge.add_argument(
        "--density", type=float, default=0.5, help="what ties and dare keep of each (0.5)"
    )
    merge.add_argument("--seed", type=int, default=0, help="of dare's draw, ziplora's pictures (0)")
    zipped = merge.add_argument_group("ziplora")
    zipped.add_argument(
        "--prompt", action="append", default=[], metavar="[NAME=]TEXT",
        help="what a LoRA shows, or all of them; else what each learnt to show",
    )  # fmt: skip
    zipped.add_argument("--steps", type=int, default=zipping.STEPS,
                        help=f"of learning ({zipping.STEPS})")  # fmt: skip
    zipped.add_argument("--learning-rate", type=float, default=zipping.RATE, metavar="RATE",
                        help=f"of the coefficients ({zipping.RATE:g})")  # fmt: skip
    zipped.add_argument("--penalty", type=float, default=zipping.PENALTY, metavar="λ",
                        help=f"of columns that two both read ({zipping.PENALTY:g})")  # fmt: skip
    resize = command(
        verbs, "resize", resize_it,
        "bring a LoRA to another rank; makes plain pairs of a LoHa, LoKr or DoRA",
        "  lora-tui lora resize dragons.safetensors --rank 8 --out small.safetensors\n"
        "  lora-tui lora resize dora.safetensors --base sd15 --rank 32 --out plain.safetensors\n"
        "  lora-tui lora resize dragons.safetensors --error 0.05 --out small.safetensors",
    )  # fmt: skip
    resize.add_argument("loras", metavar="FILE_OR_NAME", nargs=1)
    for parser in (merge, resize):
        parser.add_argument("--rank", type=int, default=0, help="of the result, at most")
        parser.add_argument(
            "--error", type=float, default=0.0,
            help="the smallest rank with at most this relative error, module by module",
        )  # fmt: skip
        parser.add_argument(
            "--base", default="", help="a base from `model list`, or its path: what a DoRA was "
            "trained on, on which it depends"
            + ("; orthogonal weighs by what its modules are given" if parser is merge else ""),
        )  # fmt: skip
        parser.add_argument("--precision", choices=PRECISIONS, default="",
                            help="of what is saved; else the widest of the sources")  # fmt: skip
        parser.add_argument("--out", required=True, metavar="FILE.safetensors")
    bake = command(
        verbs, "bake", bake_it, "write LoRAs into a copy of a base, for tools that take none",
        "  lora-tui lora bake dragons:0.8 ink:0.6 --base sd15 --out ~/models/inked",
    )  # fmt: skip
    bake.add_argument("loras", metavar="FILE_OR_NAME[:WEIGHT]", nargs="+")
    bake.add_argument("--base", required=True, help="a base from `model list`, or its path")
    bake.add_argument("--out", required=True, metavar="PATH",
                      help="a diffusers folder or a .safetensors file, as the base is")  # fmt: skip
    convert = command(
        verbs, "convert", convert_it, "write a LoRA as other tools name it, numbers untouched",
        "  lora-tui lora convert dragons.safetensors --to diffusers --out d.safetensors\n"
        "  lora-tui lora convert dragons.safetensors --to peft --out FOLDER",
    )  # fmt: skip
    convert.add_argument("lora", metavar="FILE_OR_NAME")
    convert.add_argument("--to", required=True, choices=get_args(Dialect),
                         help="kohya is what the WebUI and ComfyUI read")  # fmt: skip
    convert.add_argument("--out", required=True, metavar="PATH", help="a file; for peft a folder")


async def merge_them(call: Invocation) -> Exit:
    args = call.args
    method = args.method or ("svd" if args.rank or args.error else "exact")
    if method == "exact" and (args.rank or args.error):
        raise LoraError(Code.BAD_REQUEST, "An exact merge has the rank it has; take --method svd.")
    out_file(call)  # what is wrong with it is said before minutes of learning
    more: dict[str, object] = {}
    if method == "orthogonal" and len(args.loras) < 2:
        raise LoraError(Code.BAD_REQUEST, "Say beside which others: lora merge ONE OTHER ….")
    if args.base and method == "orthogonal":
        names = [lora_use(call, text).lora for text in args.loras]
        async with call.client() as client:
            found = await client.call(
                wire.MeasureInputs(loras=names, base=call.base(args.base)), on_progress=call.report
            )
        more = {"inputs": found.path, "order": found.order}
    if method == "ziplora":
        more = {"columns": (await _learnt(call)).path}
    return await _make(call, method, density=args.density, seed=args.seed, **more)


async def _learnt(call: Invocation) -> wire.ColumnsLearnt:
    """What ziplora scales the columns by. Raises LoraError."""
    args = call.args
    if not args.base:
        raise LoraError(
            Code.BAD_REQUEST, "ziplora learns on a base: say which with --base (`model list`)."
        )
    uses = [lora_use(call, text) for text in args.loras]
    names = [stem(use.lora) for use in uses]
    request = wire.LearnColumns(
        loras=uses, base=call.base(args.base), prompts=_own_prompts(args.prompt, names),
        seed=args.seed, steps=args.steps, rate=args.learning_rate, penalty=args.penalty,
    )  # fmt: skip
    async with call.client() as client:
        found = await client.call(checked(request), on_progress=call.report)
    for note in found.notes:
        call.console.say(note)
    call.console.say(zipping.sentence(names, found.before, found.after))
    return found


def _own_prompts(texts: list[str], names: list[str]) -> list[list[str]]:
    """Of each LoRA the prompts that name it and those that name none."""
    found: list[list[str]] = [[] for _ in names]
    for text in texts:
        name, mark, own = text.partition("=")
        named = [at for at, one in enumerate(names) if mark and one == name.strip()]
        for at in named or range(len(names)):
            found[at].append(own.strip() if named else text)
    return found


async def resize_it(call: Invocation) -> Exit:
    if not call.args.rank and not call.args.error:
        raise LoraError(Code.BAD_REQUEST, "Say how small: --rank 8 or --error 0.05.")
    return await _make(call, "svd")


async def _make(call: Invocation, method: str, **more: object) -> Exit:
    args = call.args
    out = out_file(call)
    order = {
        "sources": [await _source(call, text) for text in args.loras], "out": str(out),
        "base": await base_path(call, args.base) if args.base else "",
        "method": method, "rank": args.rank, "error": args.error, "precision": args.precision,
        **more,
    }  # fmt: skip
    try:
        checked = msgspec.convert(msgspec.to_builtins(order), MergeOrder)
    except msgspec.ValidationError as error:
        raise LoraError(Code.BAD_REQUEST, f"That cannot be made: {misfit(error)}") from None
    merged = await process.engine(call, "merge", checked, Merged)
    for note in merged.notes:
        call.console.say(note)
    call.console.show(merged, lambda: _summary(merged))
    return Exit.OK


def _summary(merged: Merged) -> Iterator[str]:
    ranks = sorted({module.rank for module in merged.modules})
    span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    worst = sorted(merged.modules, key=lambda module: -module.error)[:WORST]
    yield from pairs(
        [
            ("file", f"{merged.path} ({words.size(merged.size)})"),
            ("modules", str(len(merged.modules))),
            ("rank", span),
            ("error", f"{merged.error:.2g} of the whole"),
            *(("worst", f"{one.error:.2g} in {one.name}, rank {one.rank}") for one in worst),
        ]
    )


async def bake_it(call: Invocation) -> Exit:
    out = out_file(call, replace=False)
    sources = [await _source(call, text) for text in call.args.loras]
    base = await base_path(call, call.args.base)
    order = BakeOrder(sources=sources, base=base, out=to_text(out))
    baked = await process.engine(call, "bake", order, Baked)
    for note in baked.notes:
        call.console.say(note)
    call.console.show(baked, lambda: [f"{baked.path} ({baked.tensors} tensors changed)"])
    return Exit.OK


async def _source(call: Invocation, text: str) -> Source:
    use = lora_use(call, text)
    asked = source(use, use.lora)  # what no file can have is refused before one is looked for
    return msgspec.structs.replace(asked, path=await _path(call, use.lora))


async def _path(call: Invocation, name: str) -> str:
    """A file of this machine: a path, or what the library calls so."""
    if here := _here(name):
        return here
    if name.endswith(".safetensors") or "/" in name:
        said = f"There is no file {name}."
        if "/" not in name:
            said += " A LoRA of the library (`lora-tui lora list`) is named without the ending: "
            said += f"{stem(name)}."
        raise LoraError(Code.NOT_FOUND, said)
    async with call.client() as client:
        loras = (await client.call(wire.GetState())).loras
    return find(loras, name, "LoRA", "name").path


def _here(name: str) -> str:
    path = Path(typed(name)).expanduser().absolute()
    return to_text(path) if path.is_file() else ""


def out_file(call: Invocation, *, replace: bool = True) -> Path:
    """The file or folder that ``--out`` names. Raises LoraError: ALREADY_EXISTS, BAD_REQUEST."""
    if call.remote:
        raise LoraError(
            Code.BAD_REQUEST,
            "LoRA files are made where they lie: run this on that machine, without --endpoint.",
        )
    out = Path(call.args.out).expanduser().absolute()
    if out.exists() and not (replace and call.args.yes):
        hint = ", or --yes to replace it" if replace else ""
        raise LoraError(
            Code.ALREADY_EXISTS,
            f"{out} is there already. Take another name{hint}.",
        )
    return out


async def convert_it(call: Invocation) -> Exit:
    from shared.lora_convert import convert

    out = out_file(call)
    path = Path(typed(await _path(call, call.args.lora)))
    made = await asyncio.to_thread(convert, path, call.args.to, out)
    if made.left_out:
        more = f" and {len(made.left_out) - WORST} more" if len(made.left_out) > WORST else ""
        names = ", ".join(made.left_out[:WORST])
        call.console.say(f"{names}{more} left out: no part of a LoRA.")
    call.console.show(made, lambda: made.files)
    return Exit.OK
