"""``lora-tui caption edit``: many captions at once, shown before, taken back as one."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lora_tui.commands.common import Invocation, Subparsers, command, filter_of, filter_option
from shared import wire
from shared.edits import KINDS, AnyEdit, EditError, editor
from shared.errors import Code, Exit, LoraError

if TYPE_CHECKING:
    from shared.client import Client

_EXAMPLES = """\
  lora-tui caption edit dragons --trigger sks --dry-run      # every difference, nothing changed
  lora-tui caption edit dragons --filter 'tag:solo' --remove-tag solo --underscores
  lora-tui caption edit dragons --rename-tag 'red hair' 'red_hair' --first-tag sks
  lora-tui caption edit dragons --replace '(\\w+) dragon' 'dragon, \\1' --regex
  lora-tui caption edit dragons --filter 'issue:no-caption' --state rejected
  lora-tui caption undo dragons                              # all of it, at once"""


class _Edit(argparse.Action):
    """Edits follow each other as they are given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given = [*namespace.edits, (str(option_string).removeprefix("--"), list(values or ()))]
        namespace.edits = given


def add(verbs: Subparsers) -> None:
    parser = command(
        verbs, "edit", edit, "edit many captions at once; one undo takes it back", _EXAMPLES
    )
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument(
        "pictures", metavar="PICTURE", nargs="*", help="only these; else all that pass the filter"
    )
    filter_option(parser)
    group = parser.add_argument_group(
        "edits", "One or several, made in this order. Tags are what stands between commas."
    )
    for kind in KINDS.values():
        if kind.name != "replace-regex":
            group.add_argument(
                f"--{kind.name}", action=_Edit, dest="edits", default=[], nargs=len(kind.arguments),
                metavar=kind.arguments or None, help=kind.help,
            )  # fmt: skip
    group.add_argument(
        "--regex", action="store_true",
        help=r"OLD of --replace is a regular expression, \1 in NEW its first group",
    )  # fmt: skip
    group.add_argument("--ignore-case", action="store_true", help="for --replace")
    group.add_argument(
        "--keep", type=int, default=0, metavar="N", help="--sort-tags leaves the first N alone"
    )
    group.add_argument(
        "--state", choices=wire.CAPTION_STATES, help="set this too; else states stay as they are"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print every difference; change nothing"
    )


async def edit(call: Invocation) -> Exit:
    args = call.args
    if args.pictures and args.filter.strip():
        raise LoraError(Code.BAD_REQUEST, "Name pictures, or give --filter; one of the two.")
    edits = _edits(args)
    async with call.client() as client:
        ask = wire.PreviewEdit(
            dataset=args.dataset,
            edits=edits,
            state=args.state,
            filter=await filter_of(call, client),
            items=args.pictures,
        )
        preview = await client.call(ask, on_progress=call.report)
        counts = {"what": preview.what, "unchanged": preview.unchanged,
                  "too_long": preview.too_long}  # fmt: skip
        if args.dry_run:
            found = [one async for one in differences(client, preview.preview)]
            call.console.show(
                counts | {"changed": preview.changed, "differences": found},
                lambda: _told(found, preview),
            )
            return Exit.OK
        if not preview.changed:
            call.console.show(
                counts | {"changed": 0, "conflicts": 0, "kept": []},
                lambda: [f"{preview.what}: nothing to change.", *_others(preview)],
            )
            return Exit.OK
        done = await client.call(wire.ApplyEdit(preview=preview.preview))
    call.console.show(
        counts | {"changed": done.changed, "conflicts": done.conflicts, "kept": done.kept},
        lambda: [f"{done.what}: {_captions(done.changed)} changed.", *_others(preview)],
    )
    return left_alone(call, done)


async def differences(client: Client, preview: str) -> AsyncIterator[wire.Difference]:
    """Every change of a preview, fetched page by page."""
    offset = 0
    while True:
        page = await client.call(wire.ListDifferences(preview=preview, offset=offset, limit=500))
        for one in page.differences:
            yield one
        offset += len(page.differences)
        if not page.differences or offset >= page.total:
            return


def left_alone(call: Invocation, done: wire.Edited | wire.Undone) -> Exit:
    """Say which captions somebody else had changed; CONFLICT if there are any."""
    for kept in done.kept:
        call.console.say(
            f"{kept.name} was changed by {kept.current.by} and stays: {kept.current.text}\n"
            f"  it would have become: {kept.text}"
        )
    if more := done.conflicts - len(done.kept):
        call.console.say(f"{_captions(more)} more changed meanwhile, or gone: left alone.")
    return Exit.CONFLICT if done.conflicts else Exit.OK


def _edits(args: argparse.Namespace) -> list[AnyEdit]:
    edits = []
    for name, arguments in args.edits:
        kind, options = KINDS[name], dict[str, Any]()
        if name == "replace":
            kind = KINDS["replace-regex"] if args.regex else kind
            options["any_case"] = args.ignore_case
        elif name == "sort-tags":
            options["keep"] = args.keep
        edits.append(kind.make(*arguments, **options))
    names = {name for name, _ in args.edits}
    if (args.regex or args.ignore_case) and "replace" not in names:
        raise EditError("--regex and --ignore-case are for --replace OLD NEW.")
    if args.keep and "sort-tags" not in names:
        raise EditError("--keep is for --sort-tags.")
    if not edits and args.state is None:
        raise EditError("Say what to change: `lora-tui caption edit --help` lists the edits.")
    editor(edits)
    return edits


def _told(found: list[wire.Difference], preview: wire.EditPreview) -> Iterator[str]:
    for one in found:
        state = f" ({one.state} → {one.new_state})" if one.state != one.new_state else ""
        yield f"{one.name}{state}"
        if one.text != one.new_text:
            yield f"- {one.text}"
            yield f"+ {one.new_text}"
    yield f"{preview.what}: {_captions(preview.changed)} would change."
    yield from _others(preview)


def _others(preview: wire.EditPreview) -> Iterator[str]:
    if preview.unchanged:
        yield f"{_captions(preview.unchanged)} would be as before."
    if preview.too_long:
        yield f"{_captions(preview.too_long)} would become too long: left alone."


def _captions(count: int) -> str:
    return f"{count} caption{'' if count == 1 else 's'}"
