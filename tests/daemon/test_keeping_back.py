"""Queueing a run keeps pictures back as its recipe says, and says so where it cannot."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from lora_daemon import pipe
from shared import wire
from shared.errors import Code, LoraError
from tests.daemon.house import House, hollow_base, opened, with_fake_worker


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path)
    async with opened(tmp_path) as house:
        yield house


async def started(house: House, tmp_path: Path, pictures: int, evaluation: str) -> pipe.Freeze:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(pictures):
        noise = random.Random(number).randbytes(16 * 16 * 3)
        Image.frombytes("RGB", (16, 16), noise).save(folder / f"{number:03}.png")
    await house.call(wire.ImportDataset(path=str(folder)))
    base = hollow_base(tmp_path / "base")
    recipe = f'base.name = "{base}"\ndataset.name = "set"\n{evaluation}'
    run = await house.call(wire.StartRun(recipe=recipe))
    freeze = house.workspace.run(run.id) / "freeze.json"
    return msgspec.json.decode(freeze.read_bytes(), type=pipe.Freeze)


async def test_a_share_is_kept_back_and_the_steps_are_of_the_rest(
    house: House, tmp_path: Path
) -> None:
    freeze = await started(house, tmp_path, 20, "evaluation.held_out = 0.2")
    assert (len(freeze.pictures), len(freeze.held_out)) == (16, 4)
    assert not {p.item for p in freeze.pictures} & {p.item for p in freeze.held_out}
    assert (house.run().pictures, house.run().steps) == (16, 160)
    assert "4 more are kept back" in "\n".join(house.domain.run_log("r0001", 5))


async def test_of_few_none_can_be_spared_and_it_says_so(house: House, tmp_path: Path) -> None:
    freeze = await started(house, tmp_path, 8, "evaluation.held_out = 0.2")
    assert (len(freeze.pictures), freeze.held_out) == (8, [])
    warnings = (await house.call(wire.GetRun(run="r0001"))).warnings
    assert any("Too few pictures to keep any back (8)" in warning for warning in warnings)


async def test_pictures_are_kept_back_by_their_names(house: House, tmp_path: Path) -> None:
    named = 'evaluation.pictures = ["003.png", "001.png"]'
    freeze = await started(house, tmp_path, 4, named)
    assert [Path(p.path).name for p in freeze.held_out] == ["001.png", "003.png"]
    assert [Path(p.path).name for p in freeze.pictures] == ["000.png", "002.png"]


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ('evaluation.pictures = ["nine.png"]', "nine.png is not among"),
        ('evaluation.pictures = ["000.png", "001.png"]', "every picture"),
        ('evaluation.pictures = ["000.png"]\nevaluation.held_out = 0.1', "both say"),
        ("evaluation.unrelated = []", "at least one"),
    ],
)
async def test_what_cannot_be_kept_back_is_refused(
    house: House, tmp_path: Path, evaluation: str, words: str
) -> None:
    with pytest.raises(LoraError, match=words) as caught:
        await started(house, tmp_path, 2, evaluation)
    assert caught.value.code == Code.INVALID_RECIPE
    assert house.domain.state().runs == []
