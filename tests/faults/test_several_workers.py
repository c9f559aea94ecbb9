"""Real workers on two GPUs that are only said to be there: each computes on the CPU."""

from __future__ import annotations

import asyncio
import csv
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lora_daemon import gpus
from shared import wire
from shared.pictures import PictureSpec
from tests.daemon import house as houses
from tests.daemon.house import House
from tests.daemon.process import pictures
from tests.daemon.test_several_gpus import TWO, worker
from tests.engine.tiny_base import build

RECIPE = """
[base]
name = "tiny"
[dataset]
name = "set"
[network]
rank = 2
alpha = 2.0
[training]
max_steps = 600
epochs = 10000
[save]
resume_seconds = 0.5
"""
OF_TWO = RECIPE.replace("max_steps = 600", "max_steps = 20\nnum_processes = 2")


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(gpus, "cards", lambda: TWO)
    monkeypatch.setattr(houses, "WITHIN", 300.0)
    monkeypatch.setenv("LORA_TUI_THREADS", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    base = await asyncio.to_thread(build, tmp_path / "tiny")
    house = House(tmp_path / "home")
    await house.domain.start()
    await house.call(wire.ImportDataset(path=str(pictures(tmp_path / "set", 4))))
    await house.call(wire.AddBase(path=str(base)))
    yield house
    await house.close()


def losses(house: House, run: str) -> list[str]:
    with (house.workspace.run(run) / "metrics.csv").open() as file:
        return [row["loss"] for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_three_runs_on_two_gpus_one_killed_and_one_of_two_processes(house: House) -> None:
    for recipe in (RECIPE, RECIPE, OF_TWO, RECIPE):
        await house.call(wire.StartRun(recipe=recipe))

    def at(run: str) -> int:
        return house.run(run).step

    await house.until(lambda: min(at("r0001"), at("r0002")) > 50)
    assert [house.run(f"r000{n}").gpus for n in range(1, 5)] == [["0"], ["1"], [], []]
    survivor = worker(house, "0").pid
    os.kill(worker(house, "1").pid, signal.SIGKILL)
    await house.until(lambda: house.run("r0002").restarts == 1)
    await house.until(lambda: house.run("r0001").state == "finished")
    assert house.run("r0001").restarts == 0 and worker(house, "0").pid == survivor
    assert house.run("r0004").state == "queued"  # it does not overtake the one that wants both
    await house.call(wire.Generate(spec=PictureSpec(base="tiny", prompt="a thing", steps=2)))
    assert worker(house, "0").pid == survivor  # which has made it, beside the other's run
    await house.until(lambda: house.run("r0002").state == "finished")
    assert losses(house, "r0001") == losses(house, "r0002")  # to the last bit, killed or not
    await house.until(lambda: house.run("r0003").state == "training")
    assert sorted(house.run("r0003").gpus) == ["0", "1"]
    await house.until(lambda: house.run("r0003").state == "finished")
    assert "2 processes" not in "\n".join(house.domain.run_log("r0003", 99))  # both had their GPU
    await house.until(lambda: house.run("r0004").state == "training")
    await house.call(wire.SteerRun(run="r0004", action="stop"))
