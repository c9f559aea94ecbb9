"""The command line as a shell has it: a process, its exit status, its stdout and stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

WITHIN = 240.0  # seconds a command may take on a busy machine


def _as_in_the_foreground() -> None:
    """A test run that was put in the background ignores ctrl-c, and its children would as well."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class CommandLine:
    """``lora-tui`` on one workspace."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LORA_TUI_")}
        self.environment = kept | {
            "LORA_TUI_HOME": str(home),
            "LORA_TUI_NAME": "tester",
            "LORA_TUI_THREADS": "1",
            "XDG_CONFIG_HOME": str(home.parent / "config"),
            **environment,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "lora_tui", *arguments]

    def __call__(
        self, *arguments: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end without a terminal."""
        return subprocess.run(
            self.command(*arguments), env=self.environment, text=True, capture_output=True,
            timeout=WITHIN, check=False, **({"input": stdin} if stdin is not None
                                            else {"stdin": subprocess.DEVNULL}),
        )  # fmt: skip

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """Its stdout; it must succeed."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def data(self, *arguments: str, stdin: str | None = None) -> Any:
        """The last JSON line of its stdout; it must succeed."""
        return json.loads(self.ok(*arguments, "--json", stdin=stdin).splitlines()[-1])

    def refused(self, *arguments: str, stdin: str | None = None) -> tuple[int, dict[str, Any]]:
        """Its exit status and its error; it must fail, with nothing on stdout."""
        done = self(*arguments, "--json", stdin=stdin)
        assert done.returncode != 0, f"{arguments} succeeded"
        assert done.stdout == ""
        error: dict[str, Any] = json.loads(done.stderr)["error"]
        return done.returncode, error

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it and read it as it goes."""
        return subprocess.Popen(
            self.command(*arguments), env=self.environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_as_in_the_foreground,  # noqa: PLW1509
        )  # fmt: skip
