"""``lora-tui demo``: the whole lesson in miniature on the starter, counted at the end.

Every stage looks first whether it is done, so a demo that was interrupted goes on, and a second
one only shows what the first made.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lora_tui.commands import process
from lora_tui.commands import recipe as recipes
from lora_tui.commands.common import Invocation, Subparsers, command
from lora_tui.commands.follow import followed
from lora_tui.core import words
from shared import recipe, wire
from shared.client import Client
from shared.errors import Code, Exit, LoraError
from shared.mixes import MixLora, MixSpec
from shared.pictures import LoraUse, PictureSpec

NAME = "demo"
SETTINGS = PictureSpec(base="starter", sampler="Euler", steps=20, cfg=5.0, seed=1025)
PROMPTS = (
    ("a red creature", "in a meadow"),
    ("a blue creature", "on a beach"),
    ("a green creature", "in the snow"),
    ("a yellow creature", "at night"),
    ("a purple creature", "at sunset"),
)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Shown(msgspec.Struct, frozen=True):
    """A picture of the contact sheet and what stands below it."""

    path: str
    label: str


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """``hits`` of ``number`` pictures, and Wilson's 95 % interval of the rate."""

    hits: int
    number: int
    low: float
    high: float

    def __str__(self) -> str:
        return (
            (f"{self.hits} of {self.number} (95 % interval {self.low:.0%} to {self.high:.0%})")
            .replace("%", " %")
            .replace("95  %", "95 %")
        )


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge saw in pictures of creatures."""

    creature: Share
    pencil: Share
    both: Share


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo ends with, and ``outputs/demo-RUN.json`` keeps."""

    run: str
    state: str
    steps: int
    loss: float | None
    lora: str  # the file
    seconds: float  # that training took
    sheet: str  # the contact sheet
    shown: list[Shown]  # what is on it, in rows of len(PROMPTS)
    with_it: Share
    without: Share


def add(subparsers: Subparsers) -> None:
    demo = command(
        subparsers,
        "demo",
        demo_it,
        "train a LoRA on the built-in starter and see what it changed; takes a few minutes",
        "  lora-tui demo            # with a terminal: opens the terminal UI on the run\n"
        "  lora-tui demo --plain    # prints progress\n"
        "  lora-tui demo --full     # a second LoRA, mixes, other bases: twice as long and more\n"
        "  lora-tui demo --trainers # why two trainers make different LoRAs of the same pictures\n"
        "  lora-tui demo --again    # trains anew, and keeps what was made before",
    )
    demo.add_argument("--again", action="store_true", help="train anew even if it was done before")
    instead = demo.add_mutually_exclusive_group()
    instead.add_argument(
        "--full", action="store_true",
        help="the lesson's tests as well: a style beside the creature, and both on other bases",
    )  # fmt: skip
    instead.add_argument(
        "--trainers", action="store_true",
        help="instead: the lesson's two recipes on the same pictures, one difference at a time",
    )  # fmt: skip
    demo.add_argument("--plain", action="store_true", help="no terminal UI, only lines of text")
    demo.add_argument(
        "--count", type=int, default=100, metavar="N",
        help="count in N pictures with the LoRA, and as many without (100)",
    )  # fmt: skip
    recipes.add_set(demo)


def demo_it(call: Invocation) -> Exit:
    if call.remote:
        raise LoraError(
            Code.BAD_REQUEST, "The demo runs where the daemon is: run it there, without --endpoint."
        )
    began = time.time() if call.args.again else 0.0
    if call.args.trainers:
        from lora_tui.commands import demo_trainers

        compared = asyncio.run(demo_trainers.make(call, began))
        call.console.show(compared, lambda: demo_trainers.told(compared))
        return Exit.OK
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not call.console.as_json
    if terminal and not call.args.plain:
        _watch(call, began)
    result = asyncio.run(_whole(call, began))
    if not call.console.as_json:
        from lora_tui.commands import contact_sheet

        contact_sheet.show([(one.path, one.label) for one in result.shown], len(PROMPTS))
    if not call.args.full:
        call.console.show(result, lambda: _told(result))
        return Exit.OK
    from lora_tui.commands import demo_full

    whole = asyncio.run(demo_full.make(call, result))
    call.console.show(whole, lambda: [*_told(result), *demo_full.told(whole)])
    return Exit.OK


async def _whole(call: Invocation, began: float) -> Result:
    """Everything, each stage unless it is done."""
    run = await _begun(call, began)
    async with call.client(subscribe=True) as client:
        kept = _outputs(call.home) / f"demo-{run.id}.json"
        before = _kept(kept) if run.state == "finished" else None
        if before and before.with_it.number == call.args.count:
            call.console.say(f"Done before as {run.id}; `lora-tui demo --again` trains anew.")
            return before
        try:
            run = await followed(call, client, run.id)
        except asyncio.CancelledError:
            call.console.say(f"{run.id} goes on without you; `lora-tui demo` takes it up again.")
            raise
        shown = await _pictures(call, client, run)
        await _furnish(call, client, run)
        lora = next(one for one in client.state.loras if one.name == run.lora)
    sheet = _outputs(call.home) / f"demo-{run.id}.png"
    with_it, without = await _count(call, lora.path, shown, sheet)
    result = Result(
        run=run.id, state=run.state, steps=run.step, loss=run.loss, lora=lora.path,
        seconds=run.took, sheet=str(sheet),
        shown=shown, with_it=with_it, without=without,
    )  # fmt: skip
    _keep(kept, result)
    return result


def _watch(call: Invocation, began: float) -> None:
    """Start the run and open the terminal UI on it. A second process makes the pictures as soon as
    they can be made, so that they come in while somebody watches."""
    run = asyncio.run(_begun(call, began))
    if run.state == "finished":
        return
    behind = subprocess.Popen(
        [sys.executable, "-m", "lora_tui", "demo", "--json", "--home", os.fspath(call.home),
         "--count", str(call.args.count), *(f"--set={one}" for one in call.args.overrides)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        from lora_tui.app import run as open_app

        open_app(home=str(call.home), name=call.who, open_at=run.id)
    finally:
        behind.terminate()
        behind.wait()


async def _begun(call: Invocation, began: float) -> wire.Run:
    """The demo's run. A second demo of this workspace waits here, and then follows the first's."""
    call.home.mkdir(parents=True, exist_ok=True)
    folder = os.open(call.home, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        async with call.client(subscribe=True) as client:
            return await _run(call, client, began)
    finally:
        os.close(folder)


async def _run(call: Invocation, client: Client, began: float) -> wire.Run:
    """The demo's run: the latest since ``began`` that is of use, else a new one."""
    loaded = recipe.load(recipes.shipped()[NAME], call.args.overrides)
    runs = [run for run in client.state.runs if run.name == NAME and run.created >= began]
    for run in sorted(runs, key=lambda run: -run.created)[:1]:
        if run.state in ("queued", "starting", "training", "interrupted"):
            call.console.say(f"{run.id} is under way.")  # the daemon takes up interrupted ones
            return run
        if run.state == "paused":
            call.console.say(f"{run.id} goes on from step {run.step}.")
            return await client.call(wire.SteerRun(run=run.id, action="resume"))
        if run.state == "finished" and await _is_whole(client, run, loaded):
            return run
    if all(base.name != loaded.base.name for base in client.state.bases):
        raise LoraError(
            Code.NOT_FOUND, "The built-in base is not here. `lora-tui doctor` says what is wrong."
        )
    dataset = await dataset_of(call, client)
    loaded = msgspec.structs.replace(
        loaded, dataset=msgspec.structs.replace(loaded.dataset, name=dataset)
    )
    run = await client.call(wire.StartRun(recipe=recipe.dump(loaded), name=NAME))
    call.console.say(f"{run.id}: {run.pictures} pictures, {run.steps} steps on {run.base}.")
    return run


async def _is_whole(client: Client, run: wire.Run, loaded: recipe.Recipe) -> bool:
    """Whether a finished run is of this recipe and still has its LoRA."""
    detail = await client.call(wire.GetRun(run=run.id))
    made = recipe.parse(detail.recipe)
    same = msgspec.structs.replace(made, dataset=loaded.dataset) == loaded
    files = [one.path for one in client.state.loras if one.name == run.lora]
    return same and bool(files) and _is_there(files[0])


async def dataset_of(call: Invocation, client: Client, name: str = "creatures") -> str:
    """The name of a data set of the starter's, imported from a copy in the workspace: captions are
    written beside their pictures, and the installed package is not ours to write to."""
    folder = await asyncio.to_thread(_copied, call.home, name)
    for dataset in client.state.datasets:
        if dataset.path == str(folder):
            return dataset.name
    taken = any(dataset.name == folder.name for dataset in client.state.datasets)
    imported = await client.call(
        wire.ImportDataset(path=str(folder), name=f"{folder.name}-demo" if taken else ""),
        on_progress=call.report,
    )
    return imported.dataset.name


def _copied(home: Path, name: str) -> Path:
    """The folder of pictures in the workspace, copied whole or not at all."""
    found = importlib.util.find_spec("lora_daemon")
    places = (found and found.submodule_search_locations) or ()
    sources = [Path(place) / "starter" / "datasets" / name for place in places]
    folder = home / "starter" / name
    if folder.is_dir():
        return folder
    source = next((source for source in sources if source.is_dir()), None)
    if source is None:
        raise LoraError(
            Code.NOT_FOUND,
            "The starter's pictures are not here: this is not a whole installation of lora-tui.",
        )
    half = folder.with_name(f".{name}.{os.getpid()}")
    try:
        half.mkdir(parents=True)
        for file in source.iterdir():  # not copytree: an installation may be read-only, a copy not
            shutil.copyfile(file, half / file.name)
        half.rename(folder)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        if not folder.is_dir():  # else another demo was quicker
            raise LoraError.storage("copy the starter's pictures to", folder, error) from None
    return folder


async def _furnish(call: Invocation, client: Client, run: wire.Run) -> None:
    """Something to do on the other screens: drawings that want captions, and the LoRA in the Mixer
    unless somebody has a mix there."""
    await dataset_of(call, client, "pencil")
    live = next(mix for mix in client.state.mixes if not mix.name)
    if not live.spec.loras:
        mix = MixSpec(
            loras=[MixLora(lora=run.lora, weight=0.8)], base=SETTINGS.base, cfg=SETTINGS.cfg,
            prompt=" ".join(PROMPTS[0]), seed=SETTINGS.seed,
        )  # fmt: skip
        with contextlib.suppress(LoraError):  # somebody was quicker, and theirs stays
            await client.call(wire.ChangeMix(before=live.spec, after=mix))


async def _pictures(call: Invocation, client: Client, run: wire.Run) -> list[Shown]:
    """The contact sheet's pictures: each prompt without and with the LoRA, then the first prompt
    at rising weights; a prompt keeps its seed."""
    cells = [(number, 0.0) for number in range(len(PROMPTS))]
    cells += [(number, 1.0) for number in range(len(PROMPTS))]
    cells += [(0, weight) for weight in WEIGHTS]
    made: dict[tuple[int, float], str] = {}
    for number, weight in cells:
        if (number, weight) in made:
            continue
        spec = msgspec.structs.replace(
            SETTINGS,
            prompt=" ".join(PROMPTS[number]),
            seed=SETTINGS.seed + number,
            loras=[LoraUse(lora=run.lora, weight=weight)] if weight else [],
        )
        # Under its key a picture is made once, however often the demo is interrupted.
        picture = await client.call(
            wire.Generate(spec=spec), key=f"demo {run.id} {run.created} {number} {weight}"
        )
        if not _is_there(picture.path):  # deleted since
            picture = await client.call(wire.Generate(spec=spec))
        made[number, weight] = picture.path
        total = len(set(cells))
        call.console.event({"stage": "pictures", "done": len(made), "total": total})
        call.console.progress(f"painting {len(made)}/{total}", key="painting")
    labels = [f"{PROMPTS[n][0]}\n{PROMPTS[n][1]}" for n in range(len(PROMPTS))]
    shown = [Shown(made[n, 0.0], f"{labels[n]}, without") for n in range(len(PROMPTS))]
    shown += [Shown(made[n, 1.0], f"{labels[n]}, with") for n in range(len(PROMPTS))]
    return shown + [Shown(made[0, w], f"{labels[0]}, at {w:g}") for w in WEIGHTS]


async def _count(
    call: Invocation, lora: str, shown: list[Shown], sheet: Path
) -> tuple[Share, Share]:
    """Lay out the sheet and count the creature with the LoRA and without. Raises LoraError."""
    asked = [{"loras": loras} for loras in ([(lora, 1.0)], [])]
    with_it, without = await counted(call, asked, shown, sheet)
    return with_it.creature, without.creature


async def counted(
    call: Invocation, asked: list[dict[str, Any]], shown: Sequence[Shown] = (), sheet: object = ""
) -> list[Seen]:
    """What is seen in ``--count`` pictures of each ``lora_daemon.starter.verdict.Asked``: in a
    process of its own, because it needs torch. Raises LoraError(WORKER_FAILED)."""
    order = {
        "asked": asked, "number": call.args.count, "settings": SETTINGS, "shown": shown,
        "columns": len(PROMPTS), "sheet": str(sheet),
    }  # fmt: skip

    def take(told: dict[str, Any]) -> list[Seen] | None:
        if told["type"] == "verdicts":
            return msgspec.convert(told["seen"], list[Seen])
        done, total = told["done"], told["total"]
        call.console.event({"stage": "counting", "done": done, "total": total})
        call.console.progress(f"counting creatures in {done}/{total} more pictures", key="counting")
        return None

    module = "lora_daemon.starter.verdict"
    return await process.told(module, order, take, "The pictures could not be counted.")


def _is_there(path: str) -> bool:
    return Path(path).exists()


def _outputs(home: Path) -> Path:
    return home / "outputs"


def _kept(path: Path) -> Result | None:
    """What an earlier demo ended with; None if it did not, or its sheet is gone."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError):
        return None
    return result if Path(result.sheet).exists() else None


def _keep(path: Path, result: Result) -> None:
    from shared.files import publish

    publish(path, msgspec.json.format(msgspec.json.encode(result)) + b"\n")


def _told(result: Result) -> Iterator[str]:
    loss = f", loss {words.number(result.loss)}" if result.loss is not None else ""
    yield f"{result.run}: {result.steps} steps in {words.duration(result.seconds)}{loss}"
    yield f"creatures seen with the LoRA:    {result.with_it}"
    yield f"creatures seen without the LoRA: {result.without}"
    yield f"pictures with and without: {result.sheet}"
    yield f"the LoRA: {result.lora}"
