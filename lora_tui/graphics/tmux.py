"""What tmux lets through, and to what terminal."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

_WITHIN = 1.0  # seconds for tmux to answer
_ASK = "#{client_termtype} #{client_termname}\t#{client_termfeatures}\t#{allow-passthrough}"


@dataclass(frozen=True)
class Client:
    """The terminal that tmux is attached to."""

    name: str  # as it calls itself, then as TERM calls it, in lower case
    features: frozenset[str]
    passthrough: bool  # allow-passthrough is on


def passed_through(command: str) -> str:
    """A command for the terminal behind tmux."""
    return "\x1bPtmux;" + command.replace("\x1b", "\x1b\x1b") + "\x1b\\"


def client() -> Client | None:
    """Who is attached; None if tmux does not say."""
    try:
        done = subprocess.run(
            ["tmux", "display-message", "-p", _ASK],
            capture_output=True, timeout=_WITHIN, check=True, text=True, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    parts = done.stdout.rstrip("\n").split("\t")
    if len(parts) != 3:
        return None
    return Client(parts[0].lower(), frozenset(parts[1].split(",")), parts[2] in ("on", "all", "1"))
