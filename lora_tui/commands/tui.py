"""``lora-tui`` alone: the terminal UI."""

from __future__ import annotations

import sys

from lora_tui.commands.common import Invocation
from shared.errors import Code, Exit, LoraError


def open_it(call: Invocation) -> Exit:
    """Open the terminal UI, at ``args.open_at`` if a command says where."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LoraError(
            Code.BAD_REQUEST,
            "The terminal UI needs a terminal. `lora-tui --help` lists the commands that do not.",
        )
    from lora_tui.app import run

    return Exit(
        run(call.endpoint, home=str(call.home), name=call.who, open_at=call.args.open_at or None)
    )
