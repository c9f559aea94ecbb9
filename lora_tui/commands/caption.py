"""``lora-tui caption``: write, read and change captions; nobody's text is ever lost."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from lora_tui.commands import caption_edit, caption_texts
from lora_tui.commands.common import (
    Invocation,
    Subparsers,
    command,
    dataset_or_folder,
    filter_of,
    filter_option,
    items,
    noun,
)
from lora_tui.commands.console import table
from lora_tui.core import words
from lora_tui.core.cells import clean
from shared import wire
from shared.captioners import CAPTIONERS
from shared.errors import Code, Exit, LoraError

if TYPE_CHECKING:
    from shared.client import Client

_VERBS = (
    "write", "list", "set", "accept", "reject", "flag", "edit", "tags", "candidates", "undo",
    "redo", "pause", "resume", "cancel",
)  # fmt: skip
_VALUED = ("--home", "--endpoint", "--as")  # global options that take a value
_OF_WRITE = (
    "--model", "--filter", "--prompt", "--max-tokens", "--threshold", "--blacklist", "--categories",
)  # fmt: skip


_CATEGORIES = get_args(wire.TagCategory)
WRITE = "write"  # the verb that need not be said


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "caption", "the captions of a dataset")
    write = command(
        verbs,
        WRITE,
        write_them,
        "let a captioner fill empty captions; `caption DIR` is short for it",
        "  lora-tui caption ~/dragons --model starter          # candidates, to be reviewed\n"
        "  lora-tui caption dragons --model blip --accept\n"
        "  lora-tui caption dragons --model ~/models/blip --filter 'name:new/*'\n"
        "  lora-tui caption dragons --model blip --beside   # a second opinion on every picture\n"
        "  lora-tui caption dragons --model florence-2 --prompt '<MORE_DETAILED_CAPTION>'\n"
        "  lora-tui caption dragons --model qwen3-vl --max-tokens 90 --prompt \\\n"
        "      'Describe {trigger} in this picture in one sentence. Known: {tags}'\n"
        "  lora-tui caption manga --model wd-eva02 --threshold 0.4 --blacklist 'solo,1girl'",
    )
    write.add_argument(
        "dataset", metavar="DATASET_OR_DIR", help="a folder that is no dataset yet is imported"
    )
    write.add_argument(
        "--model", default="starter", metavar="NAME",
        help=f"{', '.join(CAPTIONERS)}; others of these kinds by their Hub id or folder (starter)",
    )  # fmt: skip
    write.add_argument(
        "--accept", action="store_true", help="accept what it writes; else it waits for review"
    )
    write.add_argument(
        "--beside", action="store_true",
        help="look at captioned pictures as well: their captions stay, this is a candidate",
    )  # fmt: skip
    filter_option(write)
    write.add_argument(
        "--prompt", default="", metavar="TEXT",
        help="what to ask, for florence-2 one of <CAPTION>, <DETAILED_CAPTION>, "
        "<MORE_DETAILED_CAPTION>; {trigger}, {tags} and {caption} stand for the picture's",
    )  # fmt: skip
    write.add_argument(
        "--max-tokens", type=int, default=0, metavar="N", help="the longest caption (its own)"
    )
    write.add_argument(
        "--threshold", type=_probability, metavar="P",
        help="a tagger says tags from this probability on (0.35, of characters 0.85)",
    )  # fmt: skip
    write.add_argument(
        "--blacklist", type=_tags, default=[], metavar="TAG,TAG", help="tags a tagger never says"
    )
    write.add_argument(
        "--categories", type=_categories, default=[], metavar="KIND,KIND",
        help=f"of a tagger: {', '.join(_CATEGORIES)} (character,general)",
    )  # fmt: skip
    listing = command(
        verbs,
        "list",
        list_them,
        "list pictures with their captions",
        "  lora-tui caption list dragons --state unreviewed --state flagged\n"
        "  lora-tui caption list dragons --filter 'tag:dragon* AND NOT tokens:>75'\n"
        "  lora-tui caption list dragons --sort tokens --descending | head\n"
        "  lora-tui caption list dragons --json | jq -r '.items[].caption.text'",
    )
    listing.add_argument("dataset", metavar="DATASET")
    listing.add_argument(
        "--state", action="append", default=[], choices=wire.CAPTION_STATES, help="only these"
    )
    filter_option(listing)
    listing.add_argument(
        "--sort", choices=wire.SORTS, metavar="BY", help=f"in order of: {', '.join(wire.SORTS)}"
    )
    listing.add_argument("--descending", action="store_true", help="the other way")
    put = command(
        verbs,
        "set",
        set_it,
        "set one picture's caption",
        "  lora-tui caption set dragons 003.png 'a green dragon on a rock'\n"
        "  lora-tui caption set dragons 003.png - < 003.txt\n"
        "  lora-tui caption set dragons 003.png 'a dragon' --if-rev 4   # else conflict, exit 4",
    )
    put.add_argument("dataset", metavar="DATASET")
    put.add_argument("picture", metavar="PICTURE", help="as `caption list` names it")
    put.add_argument("text", metavar="TEXT", help="the caption; - reads it from stdin")
    put.add_argument("--if-rev", type=int, metavar="N", help="only if revision N is still current")
    ways: tuple[tuple[str, wire.CaptionState, str], ...] = (
        ("accept", "accepted", "accept captions as they are"),
        ("reject", "rejected", "leave pictures out of training; nothing is deleted"),
        ("flag", "flagged", "mark pictures to look at again"),
    )
    for verb, state, help_text in ways:
        mark = command(
            verbs,
            verb,
            marks(state),
            help_text,
            f"  lora-tui caption {verb} dragons 001.png 002.png\n"
            f"  lora-tui caption {verb} dragons --filter 'tag:blurry OR size:<512' --dry-run",
        )
        mark.add_argument("dataset", metavar="DATASET")
        mark.add_argument("pictures", metavar="PICTURE", nargs="*")
        mark.add_argument(
            "--all", default="", metavar="STATE", choices=wire.CAPTION_STATES,
            help="all pictures in this state",
        )  # fmt: skip
        filter_option(mark)
        mark.add_argument(
            "--dry-run", action="store_true", help="list the pictures; change nothing"
        )
    caption_edit.add(verbs)
    caption_texts.add(verbs)
    steers = (
        ("pause", "let a captioner wait; the device is free for others meanwhile"),
        ("resume", "let a paused captioner go on"),
        ("cancel", "end a captioner's work; what it has written stays"),
    )
    for action, help_text in steers:
        steer = command(verbs, action, steer_it, help_text)
        steer.add_argument("dataset", metavar="DATASET")
        steer.set_defaults(action=action)
    undo = command(
        verbs, "undo", undo_it, "take back your last change in a dataset, of many captions at once"
    )
    undo.add_argument("dataset", metavar="DATASET")
    undo.set_defaults(redo=False)
    redo = command(verbs, "redo", undo_it, "do again what you last took back")
    redo.add_argument("dataset", metavar="DATASET")
    redo.set_defaults(redo=True)


def with_verb(arguments: Sequence[str]) -> list[str]:
    """The command line with the verb that may be left out: ``caption DIR`` writes captions."""
    said = list(arguments)
    place = next(_positions(said, _VALUED), None)
    if place is None or said[place] != "caption":
        return said
    after = said[place + 1 :]
    first = next(_positions(after, (*_VALUED, *_OF_WRITE)), None)
    if first is None or after[first] in _VERBS or {"-h", "--help"} & set(after[:first]):
        return said
    return [*said[: place + 1], WRITE, *after]


def _positions(arguments: Sequence[str], valued: Collection[str]) -> Iterator[int]:
    """Where the arguments are that are neither options nor values of the ``valued`` ones."""
    skip = False
    for place, argument in enumerate(arguments):
        if skip or argument.startswith("-"):
            skip = not skip and argument in valued
        else:
            yield place


def _tags(text: str) -> list[str]:
    return [tag for tag in map(str.strip, text.split(",")) if tag]


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text} is no probability: that is from 0 to 1.")
    return value


def _categories(text: str) -> list[str]:
    for name in _tags(text):
        if name not in _CATEGORIES:
            raise ArgumentTypeError(f"There is no {name!r}: there are {', '.join(_CATEGORIES)}.")
    return _tags(text)


async def write_them(call: Invocation) -> Exit:
    args = call.args
    async with call.client() as client:
        text = await filter_of(call, client)
        dataset = await dataset_or_folder(call, client)
        ask = wire.CaptionPictures(
            dataset=dataset, model=call.base(args.model), accept=args.accept, filter=text,
            beside=args.beside, prompt=args.prompt, max_tokens=args.max_tokens,
            threshold=args.threshold, blacklist=args.blacklist, categories=args.categories,
        )  # fmt: skip
        done = await client.call(ask, on_progress=call.report)
    for name, reason in done.problems:
        call.console.say(f"{name}: {reason}")
    for warning in done.warnings:
        call.console.say(f"warning: {warning}")

    def lines() -> Iterator[str]:
        how = "accepted" if args.accept else "to be reviewed"
        left = f", {words.plural(len(done.problems), 'picture')} left out" if done.problems else ""
        beside = f"{words.plural(done.beside, 'candidate')} beside captions, " * args.beside
        yield (
            f"{done.dataset.name}: {words.plural(done.written, 'caption')} written ({how}), "
            f"{beside}{done.kept} kept{left}"
        )

    call.console.show(done, lines)
    return Exit.OK


async def steer_it(call: Invocation) -> Exit:
    action = call.args.action
    said = {"pause": "paused", "resume": "going on", "cancel": "cancelled"}[action]
    async with call.client() as client:
        ask = wire.SteerCaptioning(dataset=call.args.dataset, action=action)
        done = await client.call(ask)
    call.console.show(done, lambda: [f"{call.args.dataset}: {said}"])
    return Exit.OK


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        text = await filter_of(call, client)
        sort = wire.Sort(by=call.args.sort or "path", descending=call.args.descending)
        asked = sort if call.args.sort or sort.descending else None
        dataset, states = call.args.dataset, call.args.state
        found = [item async for item in items(client, dataset, states, text, sort=asked)]

    def lines() -> list[str]:
        rows = [(i.name, i.caption.state, str(i.caption.rev), i.caption.text) for i in found]
        return table(("PICTURE", "STATE", ">REV", "CAPTION"), rows)

    call.console.show({"items": found}, lines)
    return Exit.OK


async def set_it(call: Invocation) -> Exit:
    text = call.args.text
    if text == "-":
        text = sys.stdin.read().removesuffix("\n")
    dataset, picture, rev = call.args.dataset, call.args.picture, call.args.if_rev
    async with call.client() as client:
        if rev is None:
            item = await client.call(wire.GetItem(dataset=dataset, item=picture))
            rev = item.caption.rev
        changed = await client.call(
            wire.ChangeCaption(dataset=dataset, item=picture, if_rev=rev, text=text)
        )
    call.console.show(changed, lambda: [_line(changed)])
    return Exit.OK


def marks(state: wire.CaptionState) -> Callable[[Invocation], Any]:
    """The command that puts captions into ``state``."""

    async def mark(call: Invocation) -> Exit:
        dataset, which = call.args.dataset, call.args.all
        if bool(call.args.pictures) == bool(which or call.args.filter.strip()):
            raise LoraError(
                Code.BAD_REQUEST, "Name pictures, or give --filter or --all STATE; one of the two."
            )
        async with call.client() as client:
            text = await filter_of(call, client)
            if which:
                text = f"state:{which}" + (f" ({text})" if text.strip() else "")
            chosen, view = await _chosen(call, client, text, "")
            if not call.args.dry_run:
                ids = [] if text else [item.id for item in chosen]
                ask = wire.PreviewEdit(
                    dataset=dataset, state=state, filter=text, view=view, items=ids
                )
                preview = (await client.call(ask)).preview
                done = await client.call(wire.ApplyEdit(preview=preview))
                chosen, _ = await _chosen(call, client, text, view)
        call.console.show({"items": chosen}, lambda: map(_line, chosen))
        return Exit.OK if call.args.dry_run else caption_edit.left_alone(call, done)

    return mark


async def _chosen(
    call: Invocation, client: Client, filter: str, view: str
) -> tuple[list[wire.Item], str]:
    """The pictures that were named, or that pass the filter, and the filter's standing list."""
    dataset = call.args.dataset
    if not filter:
        names = call.args.pictures
        return [await client.call(wire.GetItem(dataset=dataset, item=name)) for name in names], ""
    ask = wire.ListItems(dataset=dataset, filter=filter, view=view, limit=0)
    view = view or (await client.call(ask)).view
    return [item async for item in items(client, dataset, (), filter, view)], view


async def undo_it(call: Invocation) -> Exit:
    async with call.client() as client:
        undone = await client.call(wire.UndoCaption(dataset=call.args.dataset, redo=call.args.redo))
    verb = "done again" if call.args.redo else "taken back"
    several = f" ({undone.changed} captions)" if undone.changed > 1 else ""
    call.console.show(undone, lambda: [f"{verb}: {undone.what}{several}", _line(undone.item)])
    return caption_edit.left_alone(call, undone)


def _line(item: wire.Item) -> str:
    caption = item.caption
    return clean(f"{item.name}: {caption.state}, revision {caption.rev}: {caption.text}")
