"""The app on a stand-in daemon, for every screen."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from shared import wire
from tests.tui import standin


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's settings, drafts or keymap but the test's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")


@pytest.fixture
def daemon() -> standin.Daemon:
    """Twenty pictures, three runs, one LoRA, one base."""
    made = standin.Daemon([standin.item(number) for number in range(20)])
    made.state = replace(
        made.state,
        runs=[
            standin.run_of(1, state="finished", step=400, finished=1.7e9 + 99, lora="creatures"),
            standin.run_of(2),
            standin.run_of(3, state="queued", step=0, name="later"),
        ],
        bases=[
            wire.BaseModel(
                name="starter", path="/b", family="sd1", resolution=128, size=11_000_000, problem=""
            )
        ],
        loras=[
            wire.Lora(
                name="creatures",
                path="/runs/r0001/lora/creatures.safetensors",
                size=420_000,
                rank=8,
                base="starter",
                trigger="blorp",
                run="r0001",
                step=400,
                sha256="ab" * 32,
                created=1.7e9,
            )
        ],
        pictures=[
            wire.Picture(
                id=f"s{n}",
                path="",
                run="r0002",
                step=n * 40,
                prompt="a photo of a blorp",
                seed=1,
                width=128,
                height=128,
                parameters="",
                created=1.7e9 + n,
            )
            for n in (1, 2)
        ],
    )
    chance = random.Random(1)
    made.points = [
        wire.LivePoint(step, 0.1 + chance.random() * 0.1, 1e-4, 0.5, 1.7e9 + step / 14)
        for step in range(1, 121)
    ]
    return made
