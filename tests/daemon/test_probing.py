"""LoRAs tried on a base: many short orders to the worker, and what they come to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from lora_daemon import input_cache
from shared import probes, wire
from shared.errors import Code, LoraError
from shared.pictures import LoraUse
from tests.daemon.house import House, hollow_base, opened, with_fake_worker

KEYS = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path, "asked")
    async with opened(tmp_path) as house:
        config = hollow_base(tmp_path / "base") / "unet" / "config.json"
        whole = msgspec.json.decode(config.read_bytes()) | {
            "layers_per_block": 1, "down_block_types": ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2,
        }  # fmt: skip
        config.write_bytes(msgspec.json.encode(whole))
        await house.call(wire.AddBase(path=str(tmp_path / "base")))
        yield house


def lora(folder: Path, name: str, tags: str = "{}") -> LoraUse:
    path = folder / f"{name}.safetensors"
    tensors = {f"{KEYS}.lora_down.weight": torch.ones(2, 8),
               f"{KEYS}.lora_up.weight": torch.ones(6, 2)}  # fmt: skip
    save_file(tensors, path, {"ss_tag_frequency": tags})
    return LoraUse(lora=str(path), weight=1.0)


async def test_it_asks_step_by_step_and_adds_up(house: House, tmp_path: Path) -> None:
    """What the worker's made-up LoRAs do: the second undoes half of the first."""
    one = lora(tmp_path, "ink", '{"d": {"a cat on a mat": 4, "a dog in the snow": 2}}')
    two = lora(tmp_path, "pencil", '{"d": {"a cup": 1}}')
    ask = wire.ProbeLoras(loras=[one, two], base="base", blocks=True, instead=[one])
    found = (await house.call(ask)).found
    assert found.prompts == ["a cat on a mat", "a dog in the snow", "a cup"]
    assert found.samples == 3 * len(probes.AT)
    # (1, 0) and (−½, 1) alone; (½, 1) together
    assert found.survival == pytest.approx([0.5, (-0.25 + 1) / 1.25])
    assert found.instead == pytest.approx([1.0, -0.5 / 1.25])
    assert [band.survival[0] for band in found.bands] == pytest.approx([0.5] * 4)
    (place,) = found.blocks
    # As the worker has it, a block of weights changes nothing: with one off the mix is the same.
    assert place.block == "OUT02" and place.overlap == [[0, 0], [0, 0]]
    assert "On base ink keeps 50% of its effect in the mix, pencil 60%" in found.sentence
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert len(asked) == 12 and {line[1] for line in asked} == {"1025", "1026", "1027"}
    assert [job.state for job in house.domain.status().jobs if job.kind == "probe"] == ["done"]


async def test_remedies_are_tried_before_they_are_named(house: House, tmp_path: Path) -> None:
    uses = [lora(tmp_path, "ink"), lora(tmp_path, "pencil")]
    ask = wire.ProbeLoras(loras=uses, base="base", prompts=["a cat"], remedies=True)
    found = (await house.call(ask)).found
    best = found.remedies[0]
    assert best.kind == "weights" and best.measured == pytest.approx(best.predicted, abs=0.02)
    assert probes.loss(best.measured) < 0.2 * probes.loss(found.survival)
    assert best.loras[0].weight > 1


async def test_losses_are_foretold_from_pictures(house: House, tmp_path: Path) -> None:
    """The worker's made-up LoRAs are recognised by how far a picture is pulled their way."""
    uses = [lora(tmp_path, "ink"), lora(tmp_path, "pencil")]
    ask = wire.ProbeLoras(loras=uses, base="base", prompts=["a cat", "a dog"], losses=3)
    found = (await house.call(ask)).found
    assert found.losses == pytest.approx([0.5, 0.4]) and found.seen == 3
    assert "Beside pencil, ink is foretold to lose 50% of what it shows alone" in found.sentence
    seen = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    seeds = [seed for what, seed, _ in seen if what == "seen"]
    assert seeds == ["1025", "1026", "1027"] * 4  # of the base, the mix, and each alone
    turned = wire.ProbeLoras(
        loras=uses[::-1], base="base", prompts=["a cat"], losses=1, instead=[uses[0]]
    )
    uses[1] = msgspec.structs.replace(uses[1], weight=0.0)
    quiet = wire.ProbeLoras(loras=uses, base="base", prompts=["a cat"], losses=1)
    assert (await house.call(turned)).found.losses == pytest.approx([0.5, 0.4])
    assert (await house.call(quiet)).found.losses == [0.0, None]


async def test_remedies_are_judged_by_pictures_where_losses_are_asked(
    house: House, tmp_path: Path
) -> None:
    uses = [lora(tmp_path, "ink"), lora(tmp_path, "pencil")]
    ask = wire.ProbeLoras(
        loras=uses, base="base", prompts=["a cat"], remedies=True, losses=1, blocks=True
    )
    found = (await house.call(ask)).found
    best = found.remedies[0]
    assert best.kind == "weights" and len(best.measured) == 2
    # Recognised are here (½ of pencil's way is ink's, and against it): 0.5 and 0.6 as asked.
    ink, pencil = (use.weight for use in best.loras)
    wanted = [ink - 0.5 * pencil, (-0.5 * (ink - 0.5 * pencil) + pencil) / 1.25]
    assert best.kept == pytest.approx(wanted) and min(wanted) > 0.7
    tried = (tmp_path / "asked").read_text().splitlines()
    assert sum(line.startswith("seen") for line in tried) > 2 + 2 + 4


async def test_one_that_is_left_while_it_paints_is_given_up(
    house: House, tmp_path: Path
) -> None:  # fmt: skip
    uses = [lora(tmp_path, "ink"), lora(tmp_path, "pencil")]
    ask = wire.ProbeLoras(loras=uses, base="base", prompts=["held"], losses=1)
    asking = asyncio.create_task(house.call(ask))
    log = tmp_path / "asked"
    await house.until(lambda: (log.exists() and "seen" in log.read_text()) or _tick(house))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    jobs = [job for job in house.domain.status().jobs if job.kind == "probe"]
    assert jobs[-1].state == "cancelled" and house.domain.workers()[0].state == "idle"


async def test_what_was_measured_weighs_the_next_comparison(house: House, tmp_path: Path) -> None:
    uses = [lora(tmp_path, "ink"), lora(tmp_path, "pencil")]
    ask = wire.MeasureInputs(loras=[use.lora for use in reversed(uses)], base="base")
    told = await house.call(ask)
    assert told.order == [1, 0]
    base = next(one for one in house.domain.state().bases if one.name == "base")
    files = [Path(use.lora) for use in uses]
    place = input_cache.place(house.workspace.cache, base, files)
    assert (str(place[0]), place[2]) == (told.path, [0, 1]) and place[0].is_file()
    with pytest.raises(LoraError, match="safetensors"):  # it is read: the worker's is no such file
        await house.call(wire.CompareLoras(loras=uses, base="base"))
    os.utime(files[0], ns=(1, 1))  # another state of a file: not measured yet
    assert not input_cache.place(house.workspace.cache, base, files)[0].exists()


async def test_one_that_is_left_is_given_up(house: House, tmp_path: Path) -> None:
    uses = [lora(tmp_path, "ink"), lora(tmp_path, "pencil")]
    ask = wire.ProbeLoras(loras=uses, base="base", prompts=["slow"])
    asking = asyncio.create_task(house.call(ask))
    await house.until(lambda: (tmp_path / "asked").exists() or _tick(house))
    assert house.domain.workers()[0].state == "probing"
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    jobs = [job for job in house.domain.status().jobs if job.kind == "probe"]
    assert jobs[-1].state == "cancelled" and house.domain.workers()[0].state == "idle"
    again = wire.ProbeLoras(loras=uses, base="base", prompts=["a cat"])
    assert (await house.call(again)).found.samples == len(probes.AT)


def _tick(house: House) -> bool:
    """Look again in a moment: a file appears without anybody saying so."""
    asyncio.get_running_loop().call_later(0.05, house.publish, None)
    return False


async def test_a_worker_that_dies_is_replaced_once(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = [lora(tmp_path, "ink"), lora(tmp_path, "pencil")]
    ask = wire.ProbeLoras(loras=uses, base="base", prompts=["a cat"])
    monkeypatch.setenv("FAKE_WORKER", "die once")
    assert (await house.call(ask)).found.samples == len(probes.AT)
    monkeypatch.setenv("FAKE_WORKER", "die")
    house.domain._seats.first.supervisor.kill()
    await house.until(lambda: not house.domain._seats.first.supervisor.pid)
    with pytest.raises(LoraError, match="was not finished") as caught:
        await house.call(ask)
    assert caught.value.code == Code.WORKER_FAILED


async def test_what_cannot_be_probed_is_said(house: House, tmp_path: Path) -> None:
    one = lora(tmp_path, "ink")
    for loras, base, words in (
        ([one], "base", "takes 2 to 8 LoRAs, not 1"),
        ([one, LoraUse(lora="nowhere")], "base", "no LoRA"),
        ([one, one], "nowhere", "no base"),
    ):
        with pytest.raises(LoraError, match=words):
            await house.call(wire.ProbeLoras(loras=loras, base=base))
