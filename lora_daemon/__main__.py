"""``lora-daemon``: the daemon in the foreground, or detached from the terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from shared import __version__, paths
from shared.errors import LoraError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; the exit status of ``shared.errors.Exit``."""
    parser = argparse.ArgumentParser(
        prog="lora-daemon",
        description="Owns datasets, captions and training runs of one workspace. "
        "Clients start it by themselves; SIGTERM once ends it at the next step, twice at once.",
    )
    parser.add_argument("--home", type=Path, help="the workspace (else LORA_TUI_HOME)")
    parser.add_argument("--endpoint", default="", help="listen on this ZeroMQ address as well")
    parser.add_argument(
        "--gpus", default="", metavar="0,1",
        help="use these GPUs only: numbers of nvidia-smi, UUIDs or MIG devices (LORA_TUI_GPUS)",
    )  # fmt: skip
    parser.add_argument("--detach", action="store_true", help="return once it is ready")
    parser.add_argument("--version", action="version", version=f"lora-daemon {__version__}")
    arguments = parser.parse_args(argv)
    home = arguments.home.expanduser().absolute() if arguments.home else paths.home()
    if arguments.gpus:
        os.environ["LORA_TUI_GPUS"] = arguments.gpus
    tell: Callable[[int, str], None] = lambda _, text: print(text, file=sys.stderr)  # noqa: E731
    if arguments.detach:
        from lora_daemon.detach import detach

        tell = detach()
    try:
        from lora_daemon import lifecycle

        options = lifecycle.Options(
            workspace=paths.Workspace(home),
            endpoint=arguments.endpoint,
            detached=arguments.detach,
        )
        lifecycle.run(options, ready=lambda: tell(0, f"lora-daemon is ready on {home}"))
    except LoraError as error:
        tell(error.exit, f"lora-daemon: {error.message}")
        return error.exit
    except ModuleNotFoundError as error:  # before the log is there
        tell(
            1,
            f"lora-daemon: the module {error.name} is missing. On the machine that trains, "
            'install the engine: pip install "lora-tui[engine]"',
        )
        return 1
    except Exception as error:
        import logging

        logging.getLogger(__name__).exception("the daemon ended unexpectedly")
        log = paths.Workspace(home).log
        tell(1, f"lora-daemon: an error of its own ended it: {error!r}. Its log: {log}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
