"""Bases, LoRAs and pictures: looked over before they are believed, found by name or path."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from lora_tui.commands.common import find
from shared import wire
from shared.errors import Code, LoraError
from shared.safetensors_file import Tensor, write
from tests.daemon.house import House, hollow_base


async def test_a_base_that_misses_parts_is_refused_and_each_is_named(
    house: House, tmp_path: Path
) -> None:
    folder = hollow_base(tmp_path / "base")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "tokenizer" / "merges.txt").write_text("")
    with pytest.raises(LoraError) as caught:
        await house.call(wire.AddBase(path=str(folder)))
    assert caught.value.code == Code.INVALID_FILE
    assert "vae/diffusion_pytorch_model.safetensors (VAE)" in caught.value.message
    assert "tokenizer/merges.txt (tokenizer)" in caught.value.message


async def test_a_base_is_known_by_its_name_and_once(house: House, tmp_path: Path) -> None:
    base = await house.call(wire.AddBase(path=str(hollow_base(tmp_path / "mine"))))
    assert (base.name, base.family, base.resolution) == ("mine", "sd1", 64)
    await house.call(wire.AddBase(path=str(tmp_path / "mine")))  # again: no harm
    with pytest.raises(LoraError) as caught:
        other = hollow_base(tmp_path / "other" / "mine")
        await house.call(wire.AddBase(path=str(other)))
    assert caught.value.code == Code.ALREADY_EXISTS


async def test_a_base_whose_folder_has_gone_says_so_at_the_next_start(
    house: House, tmp_path: Path
) -> None:
    await house.call(wire.AddBase(path=str(hollow_base(tmp_path / "mine"))))
    shutil.rmtree(tmp_path / "mine")
    await house.domain._library.start()
    (base,) = [one for one in house.domain.state().bases if one.name == "mine"]
    assert "There is no folder" in base.problem


async def test_a_file_that_is_no_base_says_so(house: House, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(LoraError, match="too short for a safetensors file"):
        await house.call(wire.AddBase(path=str(tmp_path / "model.safetensors")))
    with pytest.raises(LoraError) as caught:
        await house.call(wire.AddBase(path=str(tmp_path / "none")))
    assert caught.value.code == Code.NOT_FOUND
    for name, what in (
        ("none.safetensors", "There is no file /"),
        ("none", "There is no folder /"),
    ):
        with pytest.raises(LoraError, match=what):
            await house.call(wire.AddBase(path=str(tmp_path / name)))


async def test_an_unknown_base_is_said_with_the_nearest_and_where_they_are(
    house: House, tmp_path: Path
) -> None:
    await house.call(wire.AddBase(path=str(hollow_base(tmp_path / "sd15"))))
    with pytest.raises(LoraError) as caught:
        await house.call(wire.InspectBase(base="sd1.5"))
    assert "Did you mean sd15?" in caught.value.message
    assert "lora-tui model list" in caught.value.message
    assert "lora-tui model add" in caught.value.message
    with pytest.raises(LoraError, match=r"Did you mean sd15\? `lora-tui model list`"):
        find(house.domain.state().bases, "sd1.5", "base", "name")


async def test_of_a_known_lora_it_is_the_region_that_is_wrong(house: House, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    path = lora(tmp_path / "loras" / "dragons.safetensors")
    await house.call(wire.IndexLoras(folder=str(path.parent)))
    assert house.domain._library.lora("dragons") == ("dragons", path)
    with pytest.raises(LoraError, match="leftish is no region: write left, right, top") as caught:
        house.domain._library.lora("dragons@leftish")
    assert caught.value.code == Code.BAD_REQUEST
    with pytest.raises(LoraError, match="no LoRA 'me@leftish'"):
        house.domain._library.lora("me@leftish")


def lora(path: Path) -> Path:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{module}.lora_down.weight": Tensor("F32", (2, 4), bytes(32)),
        f"{module}.lora_up.weight": Tensor("F32", (4, 2), bytes(32)),
        f"{module}.alpha": Tensor("F32", (), b"\0\0\x80\x3f"),
    }
    write(path, tensors, {"ss_steps": "7"})
    return path


async def test_a_lora_is_inspected_by_path(house: House, tmp_path: Path) -> None:
    info = await house.call(wire.InspectLora(lora=str(lora(tmp_path / "a.safetensors"))))
    assert (info.rank, info.alpha, info.steps, info.dialect) == ([2], [1.0], 7, "kohya")
    with pytest.raises(LoraError) as caught:
        await house.call(wire.InspectLora(lora="a"))
    assert caught.value.code == Code.NOT_FOUND


async def test_a_picture_is_fetched_whole_or_small_and_removed_with_its_file(
    house: House, tmp_path: Path
) -> None:
    house.workspace.outputs.mkdir()
    path = house.workspace.outputs / "a.png"
    Image.new("RGB", (64, 32)).save(path)
    picture = wire.Picture(
        id="p1", path=str(path), run="", step=0, prompt="", seed=1, width=64, height=32,
        parameters="", created=1.0,
    )  # fmt: skip
    house.domain._library.add_picture(picture, "tester")
    whole = await house.call(wire.GetPicture(picture="p1"))
    assert whole.media_type == "image/png"
    small = await house.call(wire.GetPicture(picture="p1", width=16))
    assert small.media_type == "image/jpeg"
    await house.call(wire.RemovePicture(picture="p1"))
    assert not path.exists()
    with pytest.raises(LoraError):
        await house.call(wire.GetPicture(picture="p1"))


async def test_a_picture_elsewhere_is_forgotten_not_deleted(house: House, tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    Image.new("RGB", (8, 8)).save(path)
    picture = wire.Picture(
        id="p1", path=str(path), run="", step=0, prompt="", seed=1, width=8, height=8,
        parameters="", created=1.0,
    )  # fmt: skip
    house.domain._library.add_picture(picture, "tester")
    await house.call(wire.RemovePicture(picture="p1"))
    assert path.exists()
