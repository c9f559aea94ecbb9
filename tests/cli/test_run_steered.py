"""``run pause|resume|…``: what is said of it is what is so."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lora_tui.commands import run
from lora_tui.commands.common import Invocation
from lora_tui.commands.console import Console
from shared import wire
from tests.tui.standin import run_of


class Busy:
    """A daemon with one run that is held, and a queue before it."""

    async def call(self, request: object) -> Any:
        if isinstance(request, wire.GetState):
            return wire.State(runs=[run_of(1, name="dragons", state="paused")])
        return run_of(1, name="dragons", state="queued", message="Waits for r0002.")


def test_a_run_that_still_waits_is_not_said_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    class Here(Invocation):
        @asynccontextmanager
        async def client(self, **_: object) -> AsyncIterator[Any]:  # type: ignore[override]
            yield Busy()

    args = argparse.Namespace(name="dragons")
    console = Console(as_json=False, yes=False)
    call = Here(args=args, console=console, home=Path(), endpoint="", who="")
    asyncio.run(run.steering("resume")(call))
    assert capsys.readouterr().out == "r0001 dragons is in the queue. Waits for r0002.\n"
