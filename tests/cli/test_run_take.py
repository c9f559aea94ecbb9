"""Taking a checkpoint: what is said of it while it is measured, and where the file goes."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lora_tui.commands import run_which
from lora_tui.commands.common import Invocation
from lora_tui.commands.console import Console
from shared import wire
from shared.errors import Code, Exit, LoraError
from shared.which import Candidate, Which
from tests.tui.standin import run_of


class Daemon:
    """Knows one run, whose first checkpoint alone is measured."""

    def __init__(self, folder: Path) -> None:
        self.busy, self.runs = False, 1
        self._folder = folder
        for step in (21, 42, 60):
            (folder / f"{step}").write_bytes(b"LoRA %d" % step)

    async def call(self, request: object) -> Any:
        if isinstance(request, wire.GetState):
            return wire.State(
                runs=[run_of(n, name="dragons", state="finished") for n in range(1, self.runs + 1)]
            )
        candidates = [
            Candidate(
                name=f"step {step}", step=step, files=[str(self._folder / f"{step}")],
                measured=step == 21,
            )
            for step in (21, 42, 60)
        ]  # fmt: skip
        return wire.WhichCheckpoint(
            found=Which(
                run="r0001", base="b", candidates=candidates, recommended="step 21", chosen="",
                reason="", notes=[], held_out=3, trained=3, pairs=0, wanted=3, busy=self.busy,
            )
        )  # fmt: skip


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


def take(daemon: Daemon, out: Path, step: int | None = None) -> Exit:
    class Here(Invocation):
        @asynccontextmanager
        async def client(self, **_: object) -> AsyncIterator[Any]:  # type: ignore[override]
            yield daemon

    args = argparse.Namespace(name="dragons", out=str(out), step=step, yes=False, json=False)
    console = Console(as_json=False, yes=False)
    call = Here(args=args, console=console, home=out.parent, endpoint="", who="")
    return asyncio.run(run_which.take_it(call))


def test_while_it_is_measured_only_a_named_step_is_taken(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.busy = True
    out = tmp_path / "x.safetensors"
    with pytest.raises(LoraError, match=r"is being measured, 1 of 3 .* --step") as refused:
        take(daemon, out)
    assert refused.value.code is Code.BUSY and not out.exists()
    take(daemon, out, 42)
    assert out.read_bytes() == b"LoRA 42"
    assert "step 42 of r0001 dragons, 1 of 3 checkpoints measured" in capsys.readouterr().out


def test_of_a_run_that_is_measured_in_part_it_is_said(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take(daemon, tmp_path / "x.safetensors")
    said = capsys.readouterr()
    assert "step 21 of r0001 dragons, 1 of 3 checkpoints measured" in said.out
    assert "`lora-tui run which r0001` measures the others" in said.err


def test_of_several_runs_of_one_name_the_latest_is_taken_and_that_is_said(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.runs = 2
    take(daemon, tmp_path / "x.safetensors")
    said = capsys.readouterr()
    assert "of r0002 dragons" in said.out
    assert "dragons: r0002, the latest of its name (not r0001)." in said.err


def test_a_folder_that_is_missing_is_made(daemon: Daemon, tmp_path: Path) -> None:
    out = tmp_path / "loras" / "mine" / "x.safetensors"
    take(daemon, out)
    assert out.read_bytes() == b"LoRA 21"
