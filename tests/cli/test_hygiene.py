"""What a process imports decides how quick it is and whether it needs the engine at all."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "peft", "numpy", "PIL", "lora_daemon")
SCREEN = ("textual",)


def imported_by(arguments: list[str], modules: tuple[str, ...]) -> set[str]:
    """Which of ``modules`` are in sys.modules after a command line ran in a fresh process."""
    code = (
        "import contextlib, sys\n"
        "from lora_tui.cli import main\n"
        f"with contextlib.suppress(SystemExit):\n    main({arguments!r})\n"
        f"print(*[m for m in {modules!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["recipe", "list"],
        ["recipe", "check", "lesson"],
        ["status", "--home", "/nonexistent/workspace"],
        ["lora", "inspect", "no-such-name", "--no-start", "--home", "/nonexistent/workspace"],
    ],
    ids=" ".join,
)
def test_headless_commands_import_neither_the_screen_nor_the_engine(arguments: list[str]) -> None:
    assert imported_by(arguments, HEAVY + SCREEN) == set()


def test_the_terminal_ui_never_imports_the_engine() -> None:
    code = (
        "import sys, lora_tui.app\n"
        f"print(*[m for m in {HEAVY!r} if m in sys.modules and m not in ('numpy', 'PIL')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []


def test_the_daemon_imports_neither_torch_nor_the_engine() -> None:
    # The engine, once imported, takes the Hub off the network: for all that the daemon starts, too.
    code = (
        "import sys, lora_daemon.__main__, lora_daemon.lifecycle\n"
        "heavy = ('torch', 'diffusers', 'textual', 'lora_daemon.engine')\n"
        "print(*[m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []
