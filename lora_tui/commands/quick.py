"""``lora-tui quick``: a folder of pictures to a recommended LoRA, unattended.

Every step is the ordinary one, and is done only if it is not done yet: the same command takes up
what was cut short. The work is a process of its own session, so that it survives the terminal.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lora_tui.commands import recipe as recipes
from lora_tui.commands.common import Invocation, Subparsers, command, find
from lora_tui.commands.follow import followed
from lora_tui.commands.recipe_new import add_answers, shaped
from lora_tui.commands.run_which import copied
from lora_tui.core import words
from shared import edits, recipe, suited, wire
from shared.client import Client
from shared.errors import Code, Exit, LoraError
from shared.files import keep_latest
from shared.pictures import LoraUse, PictureSpec

HELD_OUT = 0.1  # share of the pictures that the checkpoints are judged by
PROMPTS = 2  # captions of the set that are painted while it trains
LOGS = 20  # of the latest are kept, one a call
LOOK_AGAIN = 1.0  # seconds between two looks at what another quick is doing
GRID = ("weight=0-1 [5]", "seed=1025-1027")

R = TypeVar("R")


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What there is in the end."""

    dataset: str
    run: str
    lora: str  # the file that is recommended
    why: str
    sheet: str  # the LoRA at rising weights


def add(subparsers: Subparsers) -> None:
    quick = command(
        subparsers,
        "quick",
        quick_it,
        "from a folder to a LoRA while you sleep: import, caption, train, choose, paint",
        "  lora-tui quick ~/dragons --base sd15 --trigger drgn\n"
        "  lora-tui quick ~/inks --base sd15 --teaches style --captioner none --effort quick\n\n"
        "Leave it at any time: it goes on. The same command follows it again, or takes it up\n"
        "after a crash. `--again` trains anew.",
    )
    quick.add_argument("folder", metavar="DIR", help="pictures, with captions if there are any")
    add_answers(quick)
    quick.add_argument(
        "--captioner", default="", metavar="MODEL",
        help="writes empty captions: as for `caption --model`, or none (blip; the starter's own "
        "for the starter)",
    )  # fmt: skip
    quick.add_argument("--again", action="store_true", help="train anew")
    recipes.add_set(quick)
    quick.add_argument("--here", action="store_true", help="in this process, which must then stay")


async def quick_it(call: Invocation) -> Exit:
    if call.remote:
        raise LoraError(
            Code.BAD_REQUEST,
            "It works where the daemon and the pictures are: run it there, without --endpoint.",
        )
    if not call.args.base:
        raise LoraError(Code.BAD_REQUEST, "Say on which base: --base NAME (`lora-tui model list`).")
    if not call.args.here:
        return await _behind(call)
    made = await _whole(call)
    call.console.show(made, lambda: _told(made))
    return Exit.OK


# ── in a session of its own ─────────────────────────────────────────────────────────────────────


async def _behind(call: Invocation) -> Exit:
    """Do the work in a process that nobody's leaving ends, and say what it says."""
    folder = Path(call.args.folder).expanduser().absolute()  # noqa: ASYNC240
    logs = call.home / "log"
    logs.mkdir(parents=True, exist_ok=True)
    keep_latest(LOGS, logs.glob("quick-*.log"))
    log = logs / f"quick-{folder.name[:40]}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    call.console.say(f"Leave with ctrl-c or close the terminal: it goes on. Its log: {log}")
    with log.open("wb") as end:
        child = subprocess.Popen(  # noqa: ASYNC220  it returns at once
            [sys.executable, "-m", "lora_tui", *sys.argv[1:], "--here"],
            stdin=subprocess.DEVNULL, stdout=end, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        with log.open("rb") as said:
            over = False
            while not over:
                over = child.poll() is not None  # looked at before what it said last is read
                sys.stdout.buffer.write(said.read())
                sys.stdout.buffer.flush()
                await asyncio.sleep(0.2)
    except asyncio.CancelledError:
        call.console.say("It goes on without you; the same command follows it again.")
        raise
    return Exit(child.returncode) if child.returncode in set(Exit) else Exit.FAILED


# ── the work ────────────────────────────────────────────────────────────────────────────────────


async def _whole(call: Invocation) -> Made:
    """Everything, each step unless it is done."""
    async with call.client(subscribe=True) as client:
        base = call.base(call.args.base)
        known = find(client.state.bases, base, "base", "path", "name")
        dataset = await _dataset(call, client)
        await _check(call, client, dataset, known)
        fitting = await _fitting(call, client, dataset, known)
        await _captions(call, client, dataset, known.name)
        loaded = await _recipe(call, client, dataset, fitting)
        again = str(time.time()) if call.args.again else ""
        said = hashlib.sha256(f"{recipe.dump(loaded)}{again}".encode()).hexdigest()[:16]
        run = await client.call(
            wire.StartRun(recipe=recipe.dump(loaded), name=dataset.name),
            key=f"quick {dataset.id} {said}",
        )
        call.console.say(f"{run.id}: {run.pictures} pictures, {run.steps} steps on {run.base}.")
        run = await followed(call, client, run.id, "; the same command begins anew")
        call.console.say("Measuring which checkpoint to take.")
        ask = wire.MeasureRun(run=run.id)
        found = (await after_another(call, client, ask, f"checkpoints of {run.id} ")).found
        folder = call.home / "outputs" / "quick"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = found.take or found.candidates[-1]
        words_of_it = re.sub(r"\W+", "-", wanted.name)
        lora = folder / f"{dataset.name}-{run.id}-{words_of_it}.safetensors"
        if not lora.exists():  # a new file would have its grid painted anew
            await copied(call, wanted, lora)
        prompt = loaded.sample.prompts[0] if loaded.sample.prompts else ""
        spec = PictureSpec(base=known.name, prompt=prompt, loras=[LoraUse(lora=str(lora))])
        sheet = wire.PaintGrid(spec=spec, axes=list(GRID), name=f"quick {run.id}")
        grid = await after_another(call, client, sheet, f"grid quick-{run.id}")
    return Made(
        dataset=dataset.name, run=run.id, lora=str(lora), why=f"{wanted.name}. {found.reason}",
        sheet=grid.picture.path,
    )  # fmt: skip


async def after_another(call: Invocation, client: Client, request: wire.Request[R], job: str) -> R:
    """The answer; where another is at the same, it is followed first, and what it has made is not
    made again. ``job``: how the title of what it does begins. Raises LoraError."""
    while True:
        try:
            return await client.call(request, on_progress=call.report)
        except LoraError as error:
            if error.code is not Code.BUSY:
                raise
        for one in (await client.call(wire.GetStatus())).jobs:
            if one.state == "running" and one.title.startswith(job):
                call.report(one.done, one.total, one.message or one.title)
        await asyncio.sleep(LOOK_AGAIN)


async def _dataset(call: Invocation, client: Client) -> wire.Dataset:
    imported = await client.call(
        wire.ImportDataset(path=call.daemon_path(call.args.folder)), on_progress=call.report
    )
    dataset = imported.dataset
    call.console.say(f"{dataset.name}: {words.plural(dataset.items, 'picture')}.")
    return dataset


async def _check(
    call: Invocation, client: Client, dataset: wire.Dataset, base: wire.BaseModel
) -> None:
    """Say what is wrong with the pictures; mending is a person's."""
    ask = wire.CheckHealth(
        dataset=dataset.id, resolution=base.resolution, trigger=call.args.trigger or None
    )
    health = (await client.call(ask, on_progress=call.report)).health
    wrong = [f"{one.kind}: {one.count}" for one in health.findings if one.count]
    if wrong:
        call.console.say(
            f"{', '.join(wrong)}; `lora-tui dataset health {dataset.name} --known` says more."
        )


async def _captions(call: Invocation, client: Client, dataset: wire.Dataset, base: str) -> None:
    """Fill the empty captions, and put the word before those that have it nowhere."""
    model = call.args.captioner or ("starter" if base.startswith(suited.STARTER) else "blip")
    if model != "none":
        ask = wire.CaptionPictures(dataset=dataset.id, model=call.base(model), accept=True)
        done = await after_another(call, client, ask, f"captions for {dataset.name}")
        if done.written:
            call.console.say(f"{words.plural(done.written, 'caption')} written by {model}.")
    if call.args.trigger:
        preview = await client.call(
            wire.PreviewEdit(dataset=dataset.id, edits=[edits.Trigger(call.args.trigger)])
        )
        if preview.changed:
            await client.call(wire.ApplyEdit(preview=preview.preview))
            call.console.say(
                f"{call.args.trigger} put before {words.plural(preview.changed, 'caption')}; "
                f"`lora-tui caption undo {dataset.name}` takes it back."
            )


async def _fitting(
    call: Invocation, client: Client, dataset: wire.Dataset, base: wire.BaseModel
) -> recipe.Recipe:
    """The recipe of the answers. Raises LoraError for what --set cannot change in it: that is said
    before anything is written."""
    fits = functools.partial(
        suited.suited, teaches=call.args.teaches or "subject", dataset=dataset.name,
        pictures=dataset.items, base=base.name, family=base.family, trigger=call.args.trigger,
        effort=call.args.effort or "usual",
    )  # fmt: skip
    made = await shaped(call, client, dataset, fits, asking=False)
    recipe.parse(recipe.dump(made), call.args.overrides, "--set")
    return made


async def _recipe(
    call: Invocation, client: Client, dataset: wire.Dataset, made: recipe.Recipe
) -> recipe.Recipe:
    """The recipe with pictures kept back, something to paint meanwhile, and what --set says."""
    page = await client.call(wire.ListItems(dataset=dataset.id, limit=PROMPTS))
    captions = [item.caption.text for item in page.items if item.caption.text]
    prompts = captions or ([call.args.trigger] if call.args.trigger else [])
    tree: dict[str, Any] = msgspec.to_builtins(made)
    tree["sample"] |= {"prompts": prompts, "every_epochs": made.save.every_epochs}
    tree["evaluation"]["held_out"] = HELD_OUT if dataset.items > suited.FEW else 0.0
    return recipe.parse(recipe.dump(recipe.convert(tree)), call.args.overrides, "--set")


def _told(made: Made) -> Iterator[str]:
    yield f"the LoRA: {made.lora}"
    yield f"why this one: {made.why}"
    yield f"at rising weights: {made.sheet}"
    yield f"to fetch it: scp {socket.gethostname()}:{made.lora} ."
