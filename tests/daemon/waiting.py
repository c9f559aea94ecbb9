"""Waiting for what the daemon does behind its answers, by asking it rather than by sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from shared import wire
from shared.client import Client

WITHIN = 30.0  # seconds


async def until(client: Client, condition: Callable[[wire.Status], bool]) -> wire.Status:
    """The daemon's status once ``condition`` holds; every round trip gives it time to work."""
    async with asyncio.timeout(WITHIN):
        while not condition(status := await client.call(wire.GetStatus())):
            pass
    return status


async def warned(client: Client, text: str) -> None:
    await until(client, lambda status: any(text in warning for warning in status.warnings))


async def written(client: Client, path: Path, text: str) -> None:
    """Wait until a caption file holds ``text``, its last newline aside."""

    def holds(_: wire.Status) -> bool:
        return path.exists() and path.read_text().rstrip("\n") == text

    await until(client, holds)
