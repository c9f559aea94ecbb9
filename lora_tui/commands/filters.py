"""``lora-tui filter``: filters with a name, which every client of the daemon has."""

from __future__ import annotations

from lora_tui.commands.common import Invocation, Subparsers, check_filter, command, find, noun
from lora_tui.commands.console import table
from shared import wire
from shared.errors import Exit
from shared.filters import FIELDS


def add(subparsers: Subparsers) -> None:
    verbs = noun(subparsers, "filter", "filters with a name, for everybody and every dataset")
    command(verbs, "list", list_them, "list the saved filters")
    save = command(
        verbs,
        "save",
        save_it,
        "give a filter a name, or a name another filter",
        "  lora-tui filter save todo 'state:unreviewed OR tokens:>75'\n"
        "  lora-tui caption list dragons --filter @todo",
    )
    save.add_argument("name", metavar="NAME")
    save.add_argument("filter", metavar="FILTER")
    delete = command(verbs, "delete", delete_it, "forget saved filters")
    delete.add_argument("names", metavar="NAME", nargs="+")
    command(
        verbs,
        "fields",
        fields,
        "tell what a filter can ask",
        "  tag:dragon AND NOT (state:accepted OR tokens:>75)\n"
        '  size:256..512 caption:/red (car|bus)/ "a text as it stands"',
    )


async def list_them(call: Invocation) -> Exit:
    async with call.client() as client:
        saved = (await client.call(wire.GetState())).filters

    def lines() -> list[str]:
        return table(("NAME", "FILTER", "BY"), [(one.name, one.filter, one.by) for one in saved])

    call.console.show({"filters": saved}, lines)
    return Exit.OK


async def save_it(call: Invocation) -> Exit:
    check_filter(call, call.args.filter)
    async with call.client() as client:
        saved = await client.call(wire.SaveFilter(name=call.args.name, filter=call.args.filter))
    call.console.show(saved, lambda: [f"{saved.name}: {saved.filter}"])
    return Exit.OK


async def delete_it(call: Invocation) -> Exit:
    async with call.client() as client:
        saved = (await client.call(wire.GetState())).filters
        names = [find(saved, name, "saved filter", "name").name for name in call.args.names]
        for name in names:
            await client.call(wire.RemoveFilter(name=name))
    call.console.show({"deleted": names}, lambda: names)
    return Exit.OK


def fields(call: Invocation) -> Exit:
    rows = [
        (f"{field.name}:", field.help, ", ".join(field.choices) or field.example)
        for field in FIELDS.values()
    ]
    call.console.show(
        {"fields": [{"name": f.name, "kind": f.kind, "help": f.help, "example": f.example,
                     "choices": f.choices} for f in FIELDS.values()]},
        lambda: [
            *table(("FIELD", "WHAT", "SUCH AS"), rows),
            "",
            "A word alone is looked for in the caption and the file's name. * stands for any",
            'characters, ? for one, \\ takes the next as it stands; "…" keeps spaces together,',
            "/…/ is a regular expression. AND (or a space), OR, NOT and parentheses join them.",
        ],
    )  # fmt: skip
    return Exit.OK
