"""``lora-tui demo``: the whole lesson in miniature on the starter."""

from __future__ import annotations

from lora_tui.commands.common import Subparsers


def add(subparsers: Subparsers) -> None:
    pass
