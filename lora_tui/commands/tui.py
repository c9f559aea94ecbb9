"""``lora-tui`` alone: the terminal UI."""

from __future__ import annotations

import argparse
import sys

from lora_tui.commands.common import Invocation
from shared.errors import Code, Exit, LoraError
from shared.settings import PICTURE_MODES


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the terminal UI takes, on the command line's root."""
    group = parser.add_argument_group("terminal UI")
    group.add_argument(
        "--pictures", choices=PICTURE_MODES, metavar="HOW",
        help=f"show pictures by: {', '.join(PICTURE_MODES)} (as set, else auto)",
    )  # fmt: skip
    group.add_argument(
        "--no-pictures", action="store_const", const="off", dest="pictures",
        help="leave pictures out: words alone, for the slowest link",
    )  # fmt: skip
    group.add_argument(
        "--slow-link", action="store_true", help="small pictures of few colours, never sharp"
    )
    group.add_argument(
        "--print-keymap",
        action="store_true",
        help="print every key, as a keymap.toml to change, and end",
    )
    parser.set_defaults(run=open_it, open_at="")


def open_it(call: Invocation) -> Exit:
    """Open the terminal UI, at ``args.open_at`` if a command says where."""
    if call.args.print_keymap:
        from lora_tui import keymap

        print(keymap.example(), end="")
        return Exit.OK
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LoraError(
            Code.BAD_REQUEST,
            "The terminal UI needs a terminal. `lora-tui --help` lists the commands that do not.",
        )
    from lora_tui.app import run

    return Exit(
        run(
            call.endpoint,
            home=str(call.home),
            name=call.who,
            open_at=call.args.open_at or None,
            pictures=call.args.pictures,
            slow=call.args.slow_link,
        )
    )
