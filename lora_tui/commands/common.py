"""What every command is given, and the words they share."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lora_tui.commands.console import Console
from lora_tui.core import words
from shared.errors import Exit, not_found
from shared.filenames import to_text

if TYPE_CHECKING:
    from shared import wire
    from shared.client import Client

Command = Callable[["Invocation"], "Exit | Coroutine[Any, Any, Exit]"]
Subparsers = Any  # argparse has no public name for it
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Invocation:
    """One call of the command line."""

    args: argparse.Namespace
    console: Console
    home: Path
    endpoint: str  # empty: this workspace's own
    who: str  # empty: the settings decide

    @property
    def remote(self) -> bool:
        """Whether the daemon may be on another machine, so that its paths are not ours."""
        return bool(self.endpoint)

    @asynccontextmanager
    async def client(
        self, *, subscribe: bool = False, start: bool | None = None
    ) -> AsyncIterator[Client]:
        """A connection for the length of a block; starts the daemon if need be and allowed."""
        from shared.client import Client

        if start is None:
            start = not self.args.no_start
        client = await Client.connect(
            self.endpoint,
            home=None if self.endpoint else self.home,
            name=self.who,
            subscribe=subscribe,
            start=start,
        )
        try:
            yield client
        finally:
            await client.close()

    def report(self, done: int, total: int, message: str) -> None:
        """Progress of a call, as it comes in."""
        self.console.event({"done": done, "total": total, "message": message})
        share = f"{done}/{total} " if total and str(done) not in message else ""
        self.console.progress(f"{share}{message}".strip(), key=str(self.args.command))

    def fetching(self, done: int, total: int, message: str) -> None:
        """Progress of a download, in bytes."""
        self.console.event({"done": done, "total": total, "message": message})
        share = f"{words.share(done, total, 'download')} {message}"
        self.console.progress(share.strip(), key=str(self.args.command))

    def daemon_path(self, path: str) -> str:
        """A path as the daemon will understand it: absolute, unless it is on another machine."""
        return to_text(path if self.remote else Path(path).expanduser().absolute())

    def is_folder(self, path: str) -> bool:
        """Whether ``path`` is a folder here, and here is where the daemon is."""
        return not self.remote and Path(path).expanduser().is_dir()

    def base(self, name: str) -> str:
        """A base or LoRA as the daemon will find it: a name, or the whole path of what is here."""
        is_path = "/" in name and not self.remote and Path(name).expanduser().exists()
        return self.daemon_path(name) if is_path else name


def global_options(*, root: bool) -> argparse.ArgumentParser:
    """The options that every command takes, before or after its name. Only the root sets the
    defaults: a subcommand's would undo what stood before it."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("everywhere")

    def add(*flags: str, default: Any, **kwargs: Any) -> None:
        group.add_argument(*flags, default=default if root else argparse.SUPPRESS, **kwargs)

    add("--json", default=False, action="store_true", help="data and errors as JSON, one a line")
    add("--home", default="", metavar="DIR", help="the workspace (LORA_TUI_HOME)")
    add(
        "--endpoint",
        default="",
        metavar="ADDRESS",
        help="a daemon elsewhere, such as ipc:///tmp/lora.sock (LORA_TUI_ENDPOINT)",
    )
    add("--as", default="", dest="who", metavar="NAME", help="who you are (LORA_TUI_NAME)")
    add("--yes", default=False, action="store_true", help="delete without asking")
    add("--no-start", default=False, action="store_true", help="do not start a daemon")
    return parser


def command(
    subparsers: Subparsers, name: str, run: Command, help_text: str, examples: str = "",
    aliases: Sequence[str] = (),
) -> argparse.ArgumentParser:  # fmt: skip
    """Add a command with its help, its examples and the global options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        aliases=aliases,
        help=help_text,
        description=help_text[:1].upper() + help_text[1:] + ".",
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[global_options(root=False)],
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def noun(subparsers: Subparsers, name: str, help_text: str) -> Subparsers:
    """Add a noun, whose verbs are added to what is returned."""
    parser = subparsers.add_parser(
        name,
        help=help_text,
        description=help_text[:1].upper() + help_text[1:] + ".",
        parents=[global_options(root=False)],
        allow_abbrev=False,
    )
    return parser.add_subparsers(dest="verb", metavar="VERB", required=True)


def find(things: Iterable[Thing], wanted: str, kind: str, *keys: str) -> Thing:
    """The thing one of whose ``keys`` (its id or its name) is ``wanted``.

    Raises LoraError as ``not_found``.
    """
    all_of_them = list(things)
    for key in keys:
        for thing in all_of_them:
            if getattr(thing, key) == wanted:
                return thing
    raise not_found(kind, wanted, (str(getattr(thing, keys[-1])) for thing in all_of_them))


async def find_dataset(client: Client, wanted: str) -> wire.Dataset:
    """A dataset by its name or id."""
    from shared import wire

    return find((await client.call(wire.GetState())).datasets, wanted, "dataset", "id", "name")


async def dataset_or_folder(call: Invocation, client: Client) -> str:
    """The id of a dataset, by its name or id; a folder is imported first, as always by reference.

    Raises LoraError(NOT_FOUND).
    """
    from shared import wire

    wanted: str = call.args.dataset
    datasets = (await client.call(wire.GetState())).datasets
    for dataset in datasets:
        if wanted in (dataset.id, dataset.name):
            return dataset.id
    if "/" not in wanted and not call.is_folder(wanted):
        return find(datasets, wanted, "dataset", "id", "name").id
    imported = await client.call(
        wire.ImportDataset(path=call.daemon_path(wanted)), on_progress=call.report
    )
    for warning in imported.warnings:
        if "no caption" not in warning:
            call.console.say(f"warning: {warning}")
    return imported.dataset.id


async def base_path(call: Invocation, name: str) -> str:
    """Where a base lies on this machine: a path that is given, or a registered base's."""
    path = call.base(name)
    if os.path.isabs(path):  # noqa: PTH117  text that travels
        return path
    from shared import wire

    async with call.client() as client:
        bases = (await client.call(wire.GetState())).bases
    return find(bases, path, "base", "name").path


async def find_run(call: Invocation, client: Client, wanted: str) -> wire.Run:
    """A run by its id or name; of several with one name the latest, which is said."""
    from shared import wire

    runs = sorted((await client.call(wire.GetState())).runs, key=lambda run: -run.created)
    found = find(runs, wanted, "run", "id", "name")
    others = [run.id for run in runs if run.name == wanted != found.id and run is not found]
    if others:
        call.console.say(f"{wanted}: {found.id}, the latest of its name (not {', '.join(others)}).")
    return found


async def find_runs(call: Invocation, client: Client, names: Iterable[str]) -> list[wire.Run]:
    """Runs by id or name, and all of a sweep by the sweep's. Raises LoraError(NOT_FOUND)."""
    from shared import wire

    every = (await client.call(wire.GetState())).runs
    runs: list[wire.Run] = []
    for name in names:
        swept = [run for run in every if run.group == name]
        runs += swept or [await find_run(call, client, name)]
    return list({run.id: run for run in runs}.values())


def hub_options(parser: argparse.ArgumentParser, file: str) -> None:
    """Options of what may come from the Hub. ``file``: what --file is for."""
    hub = parser.add_argument_group("from the Hub")
    hub.add_argument("--revision", default="", help="a branch, tag or commit")
    hub.add_argument("--file", default="", help=file)
    hub.add_argument("--mirror", default="", metavar="ADDRESS", help="another Hub (HF_ENDPOINT)")
    hub.add_argument(
        "--offline", action="store_true", help="take what was fetched before (HF_HUB_OFFLINE)"
    )


def filter_option(parser: argparse.ArgumentParser) -> None:
    """``--filter``, for commands that take pictures by ``filter_of``."""
    parser.add_argument(
        "--filter",
        default="",
        metavar="FILTER",
        help="only pictures such as 'tag:dragon NOT state:accepted', or @NAME of a saved filter; "
        "`lora-tui filter fields` tells what there is",
    )


async def filter_of(call: Invocation, client: Client) -> str:
    """The filter that was given, a saved one by its name.

    Raises FilterError after showing where the mistake is, LoraError(NOT_FOUND).
    """
    from shared import wire

    text: str = call.args.filter
    if not text.startswith("@"):
        check_filter(call, text)
        return text
    saved = (await client.call(wire.GetState())).filters
    return find(saved, text[1:], "saved filter", "name").filter


def check_filter(call: Invocation, text: str) -> None:
    """Raises FilterError after showing where in the filter the mistake is."""
    from lora_tui.core.cells import carets
    from shared.filters import FilterError, parse

    try:
        parse(text)
    except FilterError as error:
        call.console.say(f"  {text}")
        call.console.say(f"  {carets(text, error.start, error.end)}")
        raise


async def items(
    client: Client,
    dataset: str,
    states: Iterable[wire.CaptionState] = (),
    filter: str = "",
    view: str = "",
    sort: wire.Sort | None = None,
) -> AsyncIterator[wire.Item]:
    """Every picture of a dataset that passes, or of a filter's ``view``, fetched page by page."""
    from msgspec.structs import replace

    from shared import wire

    offset = 0
    ask = wire.ListItems(
        dataset=dataset, limit=500, states=list(states), filter=filter, view=view, sort=sort
    )
    while True:
        page = await client.call(replace(ask, offset=offset))
        ask = replace(ask, view=page.view)
        for item in page.items:
            yield item
        offset += len(page.items)
        if not page.items or offset >= page.total:
            return
