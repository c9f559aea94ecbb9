"""ctrl-c while runs are being queued: they are, and it is said what goes on."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lora_tui.commands import train
from lora_tui.commands.common import Invocation
from lora_tui.commands.console import Console
from shared import wire
from tests.tui.standin import run_of


class Daemon:
    """Answers a request for runs when it is let go on."""

    def __init__(self) -> None:
        self.asked, self.goes_on = asyncio.Event(), asyncio.Event()

    async def call(self, request: object) -> Any:
        if isinstance(request, wire.GetState):
            return wire.State()
        self.asked.set()
        await self.goes_on.wait()
        if isinstance(request, wire.StartSweep):
            return wire.RunGroup(group="by rank", runs=[run_of(3), run_of(4)])
        return run_of(3)


@pytest.mark.parametrize(
    ("sweep", "said"),
    [([], "r0003 goes on without you"), (["network.rank=2,4"], "r0003 to r0004 go on without you")],
)
async def test_who_leaves_before_the_daemon_has_answered_is_told_what_is_queued(
    sweep: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon()

    class Here(Invocation):
        @asynccontextmanager
        async def client(self, **_: object) -> AsyncIterator[Any]:  # type: ignore[override]
            yield daemon

    args = argparse.Namespace(
        recipe="lesson", dataset="d", base="b", name="", sweep=sweep, after=[], hold=False,
        detach=False, overrides=[], yes=False, json=False,
    )  # fmt: skip
    call = Here(
        args=args, console=Console(as_json=False, yes=False), home=tmp_path, endpoint="", who=""
    )
    trained = asyncio.create_task(train.train_it(call))
    await daemon.asked.wait()
    trained.cancel()
    await asyncio.sleep(0)
    daemon.goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await trained
    told = capsys.readouterr().err
    assert told.startswith(said) and "`lora-tui run stop r0003` ends it" in told
    assert told.count("without you") == 1
