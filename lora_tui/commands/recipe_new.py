"""``lora-tui recipe new``: a recipe from a few answers, or from another recipe."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from lora_tui.commands.common import Invocation, Subparsers, command, find
from shared import recipe, suited, wire
from shared.errors import Code, Exit, LoraError

if TYPE_CHECKING:
    from shared.client import Client


def add(verbs: Subparsers) -> None:
    from lora_tui.commands.recipe import add_set

    new = command(
        verbs,
        "new",
        new_one,
        "make a recipe: on a terminal five or six questions are asked",
        "  lora-tui recipe new --out dragons.toml\n"
        "  lora-tui recipe new --teaches style --dataset ink --base sd15 --effort thorough\n"
        "  lora-tui recipe new --from lesson --set network.rank=16 > mine.toml",
    )
    add_answers(new)
    new.add_argument("--dataset", default="", metavar="NAME", help="train on this dataset")
    new.add_argument(
        "--from", dest="recipe", default="", metavar="RECIPE",
        help="start from this instead, every option spelled out",
    )  # fmt: skip
    new.add_argument("--out", default="", metavar="FILE", help="write here; refuses to overwrite")
    add_set(new)


def add_answers(parser: argparse.ArgumentParser) -> None:
    """What ``suited.suited`` wants to know, but for the dataset."""
    parser.add_argument(
        "--teaches", choices=get_args(suited.Teaches), default="", metavar="WHAT",
        help="subject (a person, a thing, a creature) or style",
    )  # fmt: skip
    parser.add_argument("--base", default="", metavar="NAME", help="train on this base")
    parser.add_argument("--trigger", default="", metavar="WORD", help="the word that will call it")
    parser.add_argument(
        "--effort", choices=get_args(suited.Effort), default="", metavar="HOW",
        help="quick (half of the steps), usual, thorough (twice as many)",
    )  # fmt: skip
    parser.add_argument(
        "--buckets", choices=("yes", "no"), default="",
        help="train pictures in their own shapes, not as squares (yes where squares would crop "
        "more than a little away)",
    )  # fmt: skip


async def new_one(call: Invocation) -> Exit:
    from lora_tui.commands.recipe import path_of
    from lora_tui.core.recipe_files import save

    args = call.args
    answered = args.teaches or args.base or args.trigger or args.effort or args.buckets
    terminal = sys.stdin.isatty() and not call.console.as_json
    if args.recipe or not (answered or (terminal and not args.overrides)):
        overrides = list(args.overrides)
        if args.dataset:
            overrides.append(f"dataset.name={recipe.written(args.dataset)}")
        source = args.recipe
        made = (
            recipe.load(path_of(source), overrides)
            if source
            else recipe.parse("", overrides, "--set")
        )
    else:
        made = recipe.parse(recipe.dump(await _answered(call)), list(args.overrides), "--set")
    if args.out:
        path = save(made, args.out)
        call.console.show({"path": str(path)}, lambda: [str(path)])
    elif args.json:
        call.console.event(made)
    else:
        call.console.raw(recipe.dump(made))
    return Exit.OK


async def _answered(call: Invocation) -> recipe.Recipe:
    """The recipe that fits the answers given, and those asked for."""
    args, ask = call.args, call.console.ask
    async with call.client() as client:
        state = await client.call(wire.GetState())
        names = [one.name for one in state.datasets]
        if not names:
            raise LoraError(
                Code.NOT_FOUND,
                "There is no dataset yet: `lora-tui dataset import FOLDER` brings it.",
            )
        bases = [base.name for base in state.bases if not base.problem]
        teaches: Any = args.teaches or ask(
            "1/5  Is it to learn a subject or a style?", "subject", get_args(suited.Teaches)
        )
        dataset = args.dataset or ask("2/5  From which dataset?", names[-1], names)
        base = args.base or ask("3/5  On which base?", _usual(bases), bases)
        trigger = args.trigger or ask("4/5  Which word is to call it? (enter: none)", "")
        effort: Any = args.effort or ask("5/5  How thoroughly?", "usual", get_args(suited.Effort))
        found = find(state.datasets, dataset, "dataset", "id", "name")
        known = next((one for one in state.bases if one.name == base), None)
        fits = functools.partial(
            suited.suited, teaches=teaches, dataset=found.name, pictures=found.items,
            base=call.base(base), family=known.family if known else "", trigger=trigger,
            effort=effort,
        )  # fmt: skip
        made = await shaped(call, client, found, fits, asking=True)
        resolution = known.resolution if known else 0
        trained = await client.call(_buckets(found, made, resolution))
    steps = trained.steps_per_epoch * made.training.epochs
    call.console.say(f"{found.items} pictures, {made.training.epochs} epochs: {steps} steps.")
    return made


async def shaped(
    call: Invocation, client: Client, dataset: wire.Dataset, fits: Callable[..., recipe.Recipe],
    *, asking: bool,
) -> recipe.Recipe:  # fmt: skip
    """What ``fits(buckets=…)`` makes: with buckets as the person says, else where squares would
    crop too much away, which is said, and, if ``asking``, asked on a terminal."""
    squares = fits(buckets=False)
    if call.args.buckets:
        return fits(buckets=True) if call.args.buckets == "yes" else squares
    found = await client.call(_buckets(dataset, squares))
    cropped = sum(one.lost * one.pictures for one in found.buckets) / max(found.pictures, 1)
    if cropped < suited.MOST_CROPPED:
        return squares
    call.console.say(f"Squares would crop {cropped:.0%} of its pictures away.")
    question = "      Train them in their own shapes, in buckets?"
    if asking and call.console.ask(question, "yes", ("yes", "no")) == "no":
        return squares
    call.console.say("They are trained in their own shapes, in buckets (not with --buckets no).")
    return fits(buckets=True)


def _buckets(dataset: wire.Dataset, made: recipe.Recipe, resolution: int = 0) -> wire.ListBuckets:
    """How the recipe would have the pictures, on whatever base: it may not be here."""
    anywhere = msgspec.structs.replace(made, base=recipe.Recipe().base)
    return wire.ListBuckets(dataset=dataset.id, recipe=recipe.dump(anywhere), resolution=resolution)


def _usual(bases: list[str]) -> str:
    """A base that somebody brought, before those that came along."""
    own = [name for name in bases if not name.startswith(suited.STARTER)]
    return own[-1] if own else suited.STARTER
