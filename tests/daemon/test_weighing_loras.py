"""The weight of a LoRA: asked picture by picture, and kept while its file stays the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared import weighing, wire
from shared.errors import LoraError
from tests.daemon.house import House, opened, with_fake_worker

KEYS = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
NAME = "ink-000010"


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path)
    async with opened(tmp_path, base=True) as house:
        lora(tmp_path / "loras" / f"{NAME}.safetensors")
        await house.call(wire.IndexLoras(folder=str(tmp_path / "loras")))
        yield house


def lora(path: Path, rank: int = 2, word: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    tensors = {f"{KEYS}.lora_down.weight": torch.ones(rank, 8),
               f"{KEYS}.lora_up.weight": torch.ones(6, rank)}  # fmt: skip
    said = {"ss_tag_frequency": '{"d": {"a cat on a mat": 4}}'}
    save_file(tensors, path, said | ({"modelspec.trigger_phrase": word} if word else {}))


def row(house: House) -> wire.Lora:
    return next(one for one in house.domain.state().loras if one.name == NAME)


async def test_it_is_measured_kept_and_on_the_card(house: House, tmp_path: Path) -> None:
    told = await house.call(wire.WeighLora(lora=NAME, base="base"))
    assert told.kept and told.advised.weight == 0.8 and told.advised.prompts == ["a cat on a mat"]
    assert [one.weight for one in told.advised.weights] == list(weighing.WEIGHTS)
    assert [one.drift for one in told.advised.weights] == pytest.approx([0.01] * 6)
    assert row(house).advised == told.advised
    card = (await house.call(wire.GetLoraCard(lora=NAME))).found
    assert card.advised == told.advised
    asked = await asyncio.to_thread((tmp_path / "log").read_text)
    pictures = (len(weighing.WEIGHTS) + 1) * weighing.PICTURES  # and those of the bare base
    assert asked.count("weighed") == pictures and asked.count("drift") == len(weighing.WEIGHTS)
    jobs = [job for job in house.domain.status().jobs if job.kind == "probe"]
    assert jobs[-1].message == told.advised.reason
    await house.call(wire.IndexLoras())  # looked at again, and the same
    assert row(house).advised == told.advised
    await asyncio.to_thread(lora, tmp_path / "loras" / f"{NAME}.safetensors", 3)  # another file
    await house.call(wire.IndexLoras())
    assert row(house).advised is None


async def test_what_shows_without_the_trigger_is_measured_at_that_weight(
    house: House, tmp_path: Path
) -> None:
    """Of any LoRA whose word is known: said, of the library, or of the file."""
    bare = (await house.call(wire.WeighLora(lora=NAME, base="base"))).advised
    assert (bare.trigger, bare.leak) == ("", None)
    assert "leak" not in await asyncio.to_thread((tmp_path / "log").read_text)
    told = await house.call(wire.WeighLora(lora=NAME, base="base", trigger="cat"))
    assert (told.advised.trigger, told.advised.leak) == ("cat", pytest.approx(0.5))
    assert (await house.call(wire.GetLoraCard(lora=NAME))).found.leak == told.advised.leak
    asked = await asyncio.to_thread((tmp_path / "log").read_text)
    assert asked.count(f"leak {NAME}") == 1
    other = await house.call(wire.WeighLora(lora=NAME, base="base", trigger="dog"))
    assert other.advised.leak is None  # no prompt has it
    spoken = tmp_path / "loras" / "spoken-000020.safetensors"
    await asyncio.to_thread(lora, spoken, word="mat")
    read = await house.call(wire.WeighLora(lora=str(spoken), base="base"))
    assert read.advised.trigger == "mat" and read.advised.leak is not None


async def test_what_is_missing_is_asked_for(house: House) -> None:
    for request, words in (
        (wire.WeighLora(lora=NAME), "which base"),
        (wire.WeighLora(lora=NAME, base="base", weights=[-1.0]), "between 0 and 4"),
        (wire.WeighLora(lora="nobody", base="base"), "nobody"),
    ):
        with pytest.raises(LoraError, match=words):
            await house.call(request)
