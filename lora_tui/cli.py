"""``lora-tui``: the command line. Without a command it opens the terminal UI."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from inspect import iscoroutine
from pathlib import Path
from typing import NoReturn

from lora_tui.commands import (
    caption,
    daemon,
    dataset,
    demo,
    doctor,
    embedding,
    filters,
    gallery,
    generate,
    grid,
    lora,
    mix,
    model,
    quick,
    recipe,
    run,
    settings,
    status,
    train,
    tui,
    upscaler,
)
from lora_tui.commands.common import Invocation, global_options
from lora_tui.commands.console import Console
from shared import __version__, paths
from shared.errors import Code, Exit, LoraError

BROKEN_PIPE = 141  # what a shell shows for a command that SIGPIPE ended

_DESCRIPTION = "Train Stable Diffusion LoRAs with a daemon that goes on when you leave."
_EPILOG = """\
examples:
  lora-tui                                       open the terminal UI
  lora-tui demo                                  train the built-in starter, see what changed
  lora-tui dataset import ~/dragons              bring in a folder of pictures and captions
  lora-tui train lesson --dataset dragons        train and follow; ctrl-c only stops following
  lora-tui generate --lora dragons:0.8 --prompt "a dragon" --out dragon.png
  lora-tui status --json | jq .runs

exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict, 5 no daemon,
  6 invalid recipe or file, 7 disk, 8 the run failed, 130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as JSON where JSON was asked."""

    def error(self, message: str) -> NoReturn:
        if "--json" in sys.argv:
            failure = LoraError(Code.BAD_REQUEST, message)
            Console(as_json=True).fail(failure)
        else:
            print(f"{self.prog}: {message}\n{self.format_usage()}", end="", file=sys.stderr)
        raise SystemExit(Exit.USAGE)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="lora-tui",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[global_options(root=True)],
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"lora-tui {__version__}")
    tui.add_options(top)
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for module in (
        demo,
        quick,
        status,
        doctor,
        daemon,
        dataset,
        caption,
        filters,
        recipe,
        train,
        run,
        generate,
        embedding,
        upscaler,
        grid,
        mix,
        gallery,
        lora,
        model,
        settings,
    ):
        module.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(caption.with_verb(sys.argv[1:] if argv is None else argv))
    console = Console(as_json=args.json, yes=args.yes)
    home = Path(args.home).expanduser().absolute() if args.home else paths.home()
    endpoint = args.endpoint
    if not endpoint and not args.home:
        endpoint = os.environ.get("LORA_TUI_ENDPOINT", "")
    try:
        outcome = args.run(Invocation(args, console, home, endpoint, args.who))
        if iscoroutine(outcome):
            import asyncio

            outcome = asyncio.run(outcome)
        sys.stdout.flush()
        return int(outcome)
    except LoraError as error:
        if os.environ.get("LORA_TUI_DEBUG"):
            raise
        return console.fail(error)
    except KeyboardInterrupt:
        console.settle()
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has left (`| head`); nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        if os.environ.get("LORA_TUI_DEBUG"):
            raise
        what = f"A fault of lora-tui itself: {type(error).__name__}: {error}."
        return console.fail(
            LoraError(Code.INTERNAL, f"{what} LORA_TUI_DEBUG=1 shows where it happened.")
        )


if __name__ == "__main__":
    sys.exit(main())
