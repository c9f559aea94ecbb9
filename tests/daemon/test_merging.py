"""Merger coefficients on request: a lesson in many orders, kept, and refused with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from shared import wire, zipping
from shared.errors import Code, LoraError
from shared.pictures import LoraUse
from tests.daemon.house import House, opened, with_fake_worker

KEYS = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path)
    async with opened(tmp_path, base=True) as house:
        yield house


def lora(folder: Path, name: str, tags: str = "{}", **more: torch.Tensor) -> LoraUse:
    path = folder / f"{name}.safetensors"
    tensors = {f"{KEYS}.lora_down.weight": torch.ones(2, 8),
               f"{KEYS}.lora_up.weight": torch.ones(6, 2)}  # fmt: skip
    more = {f"{KEYS}.{key}": tensor for key, tensor in more.items()}
    save_file(tensors | more, path, {"ss_tag_frequency": tags})
    return LoraUse(lora=str(path), weight=0.8)


async def test_a_lesson_is_asked_for_until_it_is_done_and_kept(
    house: House, tmp_path: Path
) -> None:
    one = lora(tmp_path, "ink", '{"d": {"a cat on a mat": 4, "a dog in the snow": 2}}')
    ask = wire.LearnColumns(loras=[one, lora(tmp_path, "b")], base="base", prompts=[[], ["a cup"]])
    learnt = await house.call(ask)
    assert (learnt.before, learnt.after, learnt.overlap) == ([1.5, 0.8], [0.5, 0.6], 0.7)
    job = next(job for job in house.domain.status().jobs if job.kind == "merge")
    pictures = 2 * (zipping.PICTURES + 1)
    assert (job.state, job.title) == ("done", "columns of ink, b")
    assert (job.done, job.total) == (pictures + zipping.STEPS,) * 2
    assert await house.call(ask) == learnt  # known: the worker is not asked
    assert sum(job.kind == "merge" for job in house.domain.status().jobs) == 1
    other = replace(ask, loras=[replace(one, weight=0.7), ask.loras[1]])
    assert (await house.call(other)).path != learnt.path


async def test_one_that_is_left_goes_on_where_it_was(house: House, tmp_path: Path) -> None:
    uses = [lora(tmp_path, "ink"), lora(tmp_path, "pencil")]
    ask = wire.LearnColumns(loras=uses, base="base", prompts=[["a cat"], ["slow"]])
    asking = asyncio.create_task(house.call(ask))
    half = zipping.PICTURES + 1
    await house.until(lambda: any(
        job.kind == "merge" and job.done == half for job in house.domain.status().jobs
    ))  # fmt: skip
    assert house.domain.workers()[0].state == "probing"
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    jobs = [job for job in house.domain.status().jobs if job.kind == "merge"]
    assert jobs[-1].state == "cancelled" and house.domain.workers()[0].state == "idle"


async def test_what_cannot_be_zipped_is_refused_by_name(house: House, tmp_path: Path) -> None:
    plain, silent = lora(tmp_path, "ink", '{"d": {"a cat on a mat": 1}}'), lora(tmp_path, "mute")
    dora = lora(tmp_path, "dora", dora_scale=torch.ones(6, 1))
    for uses, words in (
        ([plain], "2 to"),
        ([plain, silent], "mute"),
        ([plain, dora], "is a DoRA"),
        ([plain, replace(silent, weight=0.0)], "weight 0"),
        ([plain, replace(silent, begin=0.5)], "all steps"),
    ):
        with pytest.raises(LoraError, match=words) as caught:
            await house.call(wire.LearnColumns(loras=uses, base="base"))
        assert caught.value.code in (Code.BAD_REQUEST, Code.INVALID_FILE)


async def test_one_file_of_a_mix_enters_the_library(house: House, tmp_path: Path) -> None:
    uses = [lora(tmp_path, "ink"), lora(tmp_path, "pencil")]
    ask = wire.MergeLoras(loras=uses, name="both", method="svd", rank=1, base="base")
    made = await house.call(ask)
    assert made.lora.rank == 1 and made.error < 1e-6  # equal matrices of rank 1
    assert house.workspace.root / "loras" / "both.safetensors" == Path(made.lora.path)
    assert made.lora in house.domain.state().loras
    for again, words in (
        (ask, "already"),
        (replace(ask, name="../b"), "cannot be a file's name"),
        (replace(ask, name="c", loras=[replace(uses[0], blocks=[1.0] * 17)]), "lbw="),
    ):
        with pytest.raises(LoraError, match=words):
            await house.call(again)
    await house.call(wire.RemoveLora(lora="both"))
    assert not (house.workspace.root / "loras" / "both.safetensors").exists()
