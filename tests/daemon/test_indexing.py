"""Folders of LoRAs in the library, their cards, and which of them are the same."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from PIL import Image

from shared import wire
from shared.errors import Code, LoraError
from shared.safetensors_file import Tensor, write
from tests.daemon.house import House

KEYS = "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_k"
TAGS = '{"10_dragons": {"dragon": 9, "wings": 4}, "5_more": {"dragon": 2}}'


def _lora(path: Path, seed: int, name: str = KEYS, **metadata: str) -> Path:
    draw = random.Random(seed)
    tensors = {
        f"{name}.lora_down.weight": Tensor("F16", (2, 8), bytes(draw.choices(range(60), k=32))),
        f"{name}.lora_up.weight": Tensor("F16", (6, 2), bytes(draw.choices(range(60), k=24))),
        f"{name}.alpha": Tensor("F32", (), b"\0\0\x80\x3f"),
    }
    write(path, tensors, metadata)
    return path


def _named(house: House) -> dict[str, wire.Lora]:
    return {lora.name: lora for lora in house.domain.state().loras if lora.folder}


async def test_a_folder_is_listed_and_what_changes_in_it_is_noticed(
    house: House, tmp_path: Path
) -> None:
    folder = tmp_path / "loras"
    dragon = _lora(folder / "dragon.safetensors", 1, ss_sd_model_name="/models/anything-v5.ckpt",
                   **{"modelspec.trigger_phrase": "sks dragon"})  # fmt: skip
    _lora(folder / "style" / "ink.safetensors", 2)
    _lora(folder / "ink.safetensors", 3)
    (folder / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    write(folder / "vae.safetensors", {"decoder.weight": Tensor("F32", (1,), b"\0" * 4)}, {})
    found = await house.call(wire.IndexLoras(folder=str(folder)))
    assert sorted(found.added) == ["dragon", "ink", "style-ink"]
    assert len(found.skipped) == 2 and any("not a LoRA" in one.why for one in found.skipped)
    lora = _named(house)["dragon"]
    assert (lora.rank, lora.base, lora.trigger) == (2, "anything-v5", "sks dragon")
    assert not lora.run and not lora.tensors

    (folder / "ink.safetensors").unlink()
    _lora(dragon, 1, more="x" * 100)
    _lora(folder / "new.safetensors", 4)
    os.truncate(folder / "style" / "ink.safetensors", 50)
    again = await house.call(wire.IndexLoras())
    assert (again.added, again.gone, again.same) == (["new"], ["ink"], 0)
    assert sorted(again.changed) == ["dragon", "style-ink"]
    assert "cut short" in _named(house)["style-ink"].problem
    assert (await house.call(wire.IndexLoras())).same == 2

    folder.rename(tmp_path / "unmounted")
    await house.call(wire.IndexLoras())
    assert all("not there" in lora.problem for lora in _named(house).values())
    (tmp_path / "unmounted").rename(folder)
    await house.call(wire.IndexLoras())
    assert [one.name for one in _named(house).values() if one.problem] == ["style-ink"]

    with pytest.raises(LoraError, match="--forget") as refused:
        await house.call(wire.RemoveLora(lora="new"))
    assert refused.value.code == Code.WRONG_STATE and (folder / "new.safetensors").exists()
    await house.call(wire.IndexLoras(folder=str(folder), forget=True))
    assert not _named(house) and dragon.exists()


async def test_a_folder_without_loras_is_refused(house: House, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "no LoRA file"), (tmp_path / "no", "no folder")):
        with pytest.raises(LoraError, match=words) as caught:
            await house.call(wire.IndexLoras(folder=str(folder)))
        assert caught.value.code == Code.NOT_FOUND


async def test_links_are_followed_and_the_workspace_is_left_out(
    house: House, tmp_path: Path
) -> None:
    own = _lora(tmp_path / "home" / "runs" / "r0001" / "lora" / "own.safetensors", 1)
    _lora(tmp_path / "elsewhere" / "linked.safetensors", 2)
    (folder := tmp_path / "loras").mkdir()
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    assert (await house.call(wire.IndexLoras(folder=str(folder)))).added == ["linked"]
    found = await house.call(wire.IndexLoras(folder=str(tmp_path)))
    assert own.exists() and found.added == [] and found.same == 1


async def test_a_card_says_what_is_known_and_the_spectrum_is_kept(
    house: House, tmp_path: Path
) -> None:
    path = _lora(tmp_path / "loras" / "dragon.safetensors", 1, ss_tag_frequency=TAGS,
                 ss_resolution="(512, 768)", ss_steps="1200", ss_epoch="10",
                 ss_training_finished_at="1700000000.5")  # fmt: skip
    Image.new("RGB", (64, 32), "red").save(path.with_name("dragon.preview.png"))
    await house.call(wire.IndexLoras(folder=str(path.parent)))
    card = (await house.call(wire.GetLoraCard(lora="dragon"))).found
    assert [(tag.text, tag.count) for tag in card.tags] == [("dragon", 11), ("wings", 4)]
    assert (card.resolution, card.steps, card.alphas) == ("512x768", 1200, [1.0])
    assert card.made.startswith("2023-11-14T22:13:20") and card.spectrum is None
    assert card.preview == "dragon.preview.png"
    small = await house.call(wire.GetLoraPreview(lora="dragon", width=32, height=32))
    assert (small.width, small.height) == (32, 16)

    full = (await house.call(wire.GetLoraCard(lora=str(path), spectrum=True, modules=True))).found
    assert full.spectrum is not None and len(full.spectrum.modules[0].values) == 2
    (kept,) = (tmp_path / "home" / "cache" / "spectra").iterdir()
    kept.write_bytes(kept.read_bytes().replace(b'"rank":2', b'"rank":7'))
    again = (await house.call(wire.GetLoraCard(lora="dragon", spectrum=True))).found.spectrum
    assert again is not None and again.rank == 7 and not again.modules  # told from what was kept


async def test_the_same_tensors_are_found_under_other_names_and_metadata(
    house: House, tmp_path: Path
) -> None:
    folder = tmp_path / "loras"
    _lora(folder / "one.safetensors", 1)
    _lora(folder / "copy.safetensors", 1, title="renamed")
    _lora(folder / "dialect.safetensors", 1, name="lora_unet_output_blocks_5_1_proj_in")
    _lora(folder / "other.safetensors", 2)
    await house.call(wire.IndexLoras(folder=str(folder)))
    before = (await house.call(wire.GetLoraCard(lora="one"))).found.twins
    assert not before.known and before.unread == 3
    found = await house.call(wire.FindDuplicates())
    assert found.groups == [["copy", "dialect", "one"]] and found.read == 4
    assert (await house.call(wire.FindDuplicates())).read == 0
    for here, there in ((folder, tmp_path / "away"), (tmp_path / "away", folder)):
        here.rename(there)
        await house.call(wire.IndexLoras())
    after = (await house.call(wire.GetLoraCard(lora="one"))).found.twins
    assert sorted(after.same) == ["copy", "dialect"] and not after.unread
