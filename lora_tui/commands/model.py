"""``lora-tui model``: the bases that LoRAs are trained on and used with."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from msgspec.structs import replace

from lora_tui.commands import process
from lora_tui.commands.common import (
    Invocation,
    Subparsers,
    base_path,
    command,
    find,
    hub_options,
    noun,
)
from lora_tui.commands.console import pairs, table
from lora_tui.core import bases, words
from shared import wire
from shared.addresses import add_base
from shared.errors import Code, Exit, LoraError
from shared.filenames import to_text
from shared.lora_orders import Packed, PackOrder

_OBJECTIVES: tuple[wire.Objective, ...] = ("epsilon", "v_prediction")  # a flow is always one


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "model", "the bases that LoRAs are trained on")
    command(verbs, "list", list_them, "list the bases")
    take = command(
        verbs,
        "add",
        add_it,
        "add a base: a diffusers folder or one .safetensors file, by reference; a Hub id; or an "
        "https address, of Civitai's pages too",
        "  lora-tui model add ~/models/stable-diffusion-v1-5 --name sd15\n"
        "  lora-tui model add ~/models/noobai-vpred.safetensors --predicts v_prediction\n"
        "  lora-tui model add stabilityai/stable-diffusion-xl-base-1.0   # HF_TOKEN if gated\n"
        "  lora-tui model add https://civitai.com/models/ID   # CIVITAI_API_TOKEN if it asks\n"
        "  lora-tui model add https://HOST/FILE.safetensors",
    )
    take.add_argument(
        "what",
        metavar="PATH|OWNER/NAME|ADDRESS",
        help="on the daemon's machine, on the Hub, or on the web",
    )
    take.add_argument("--name", default="", help="call it so; else as its folder or file is called")
    take.add_argument(
        "--predicts",
        choices=_OBJECTIVES,
        help="what it predicts, where it does not say so itself",
    )
    hub_options(take, "one of several models in a repository")
    inspect = command(verbs, "inspect", inspect_it, "say what a base is, and what it lacks")
    inspect.add_argument("model", metavar="NAME|PATH")
    export = command(
        verbs, "export", export_it, "write a base as one file, as other tools take it",
        "  lora-tui model export starter starter.safetensors",
    )  # fmt: skip
    export.add_argument("model", metavar="NAME|FOLDER")
    export.add_argument("out", metavar="FILE.safetensors")
    remove = command(verbs, "remove", remove_it, "forget a base; its files stay")
    remove.add_argument("models", metavar="NAME", nargs="+")


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        known = (await client.call(wire.GetState())).bases

    def lines() -> list[str]:
        rows = [
            (
                b.name, b.family, bases.predicts(b), str(b.resolution), words.size(b.size),
                b.problem or "ok", b.path,
            )
            for b in known
        ]  # fmt: skip
        columns = ("NAME", "FAMILY", "PREDICTS", ">PIXELS", ">DISK", "STATE", "WHERE")
        return table(columns, rows)

    call.console.show({"bases": known}, lines)
    return Exit.OK


async def export_it(call: Invocation) -> Exit:
    out = Path(call.daemon_path(call.args.out))
    if call.remote:
        text = "A base is exported where it lies: run this on that machine, without --endpoint."
        raise LoraError(Code.BAD_REQUEST, text)
    if out.suffix != ".safetensors":
        raise LoraError(Code.BAD_REQUEST, f"The file must be called {out.name}.safetensors.")
    if _is_there(out):
        call.console.confirm(f"Replace {out}?")
    order = PackOrder(base=await base_path(call, call.args.model), out=to_text(out))
    packed = await process.engine(call, "pack", order, Packed)
    call.console.show(packed, lambda: [f"{packed.path} ({words.size(packed.size)})"])
    return Exit.OK


async def add_it(call: Invocation) -> Exit:
    request = _request(call)
    async with call.client() as client:
        base = await client.call(request, on_progress=call.fetching)
        if base.guessed and (told := _asked(call, base)):
            again = wire.AddBase(path=base.path, name=base.name, predicts=told)
            base = await client.call(again)
    if base.guessed:
        other = next(one for one in _OBJECTIVES if one != base.objective)
        call.console.say(
            f"It was guessed that {base.name} predicts {bases.predicts(base).rstrip('?')}: "
            f"{base.guessed}. If pictures come out brown or as noise, it is the other one: "
            f"`lora-tui model add {shlex.quote(base.path)} --name {base.name} "
            f"--predicts {other}`."
        )
    call.console.show(base, lambda: _told(base))
    return Exit.OK


def _request(call: Invocation) -> wire.AddBase:
    args = call.args
    here = not call.remote and Path(args.what).expanduser().exists()
    fetched = None if here else add_base(
        args.what, revision=args.revision, file=args.file, mirror=args.mirror,
        offline=args.offline,
    )  # fmt: skip
    request = fetched or wire.AddBase(path=call.daemon_path(args.what))
    return replace(request, name=args.name, predicts=args.predicts)


def _asked(call: Invocation, base: wire.BaseModel) -> wire.Objective | None:
    """What somebody at a terminal says of a base of which it was only guessed."""
    if call.args.json or call.console.yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    call.console.say(
        f"{base.name} seems to predict {bases.predicts(base).rstrip('?')}: {base.guessed}. "
        "Its page says. What does it predict, noise or v? (e: noise, v: v, enter: not known)"
    )
    answer = sys.stdin.readline().strip().lower()[:1]
    answers: dict[str, wire.Objective] = {"e": "epsilon", "n": "epsilon", "v": "v_prediction"}
    return answers.get(answer)


async def inspect_it(call: Invocation) -> Exit:
    async with call.client() as client:
        base = await client.call(wire.InspectBase(base=call.base(call.args.model)))
    call.console.show(base, lambda: _told(base))
    return Exit.OK


async def remove_it(call: Invocation) -> Exit:
    async with call.client() as client:
        known = (await client.call(wire.GetState())).bases
        chosen = [find(known, name, "base", "name") for name in call.args.models]
        names = ", ".join(base.name for base in chosen)
        call.console.confirm(f"Forget {names}? The files stay where they are.")
        for base in chosen:
            await client.call(wire.RemoveBase(base=base.name))
    call.console.show({"removed": [b.name for b in chosen]}, lambda: [b.name for b in chosen])
    return Exit.OK


def _told(base: wire.BaseModel) -> list[str]:
    return pairs(bases.about(base))


def _is_there(path: Path) -> bool:
    return path.exists()
