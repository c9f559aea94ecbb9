"""The captioner in the engine: the packaged BLIP, little memory, pictures that cannot be read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_daemon import pipe, starter
from lora_daemon.engine import captioner
from lora_daemon.starter import blip, world
from shared.errors import Code, LoraError
from tests.engine import worker_process


@pytest.fixture(scope="module")
def loaded() -> captioner.Captioner:
    return captioner.load(starter.blip_dir(), torch.device("cpu"))


def nothing() -> None:
    pass


def test_the_packaged_captioner_says_what_is_drawn(loaded: captioner.Captioner) -> None:
    scenes = list(world.scenes(16, seed=71, split="held-out", crowd=0))
    said = loaded([world.draw(scene) for scene in scenes])
    right = blip.right(said, scenes)
    assert right["colour"] >= 14
    assert right["background"] >= 14
    assert right["object"] >= 5  # 59 % of 200: see the card; by chance it would be 1
    sketches = loaded([world.draw(scene, "pencil") for scene in scenes])
    assert sum(text.startswith("a pencil drawing of") for text in sketches) >= 14


def test_the_packaged_captioner_is_small_and_of_transformers_own_classes() -> None:
    folder = starter.blip_dir()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 6_000_000
    config = (folder / "config.json").read_text()
    assert '"BlipForConditionalGeneration"' in config


def test_it_halves_its_batch_until_the_memory_suffices_and_goes_on(tmp_path: Path) -> None:
    sizes: list[int] = []

    def small(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[str]:
        sizes.append(len(pictures))
        if len(pictures) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [f"{picture.width} wide" for picture in pictures]

    asked = drawn(tmp_path, 9)
    told = list(captioner.describe(small, asked, nothing))
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    assert [one for captions, _, _ in told for one in captions] == [
        (item, "64 wide") for item, _ in asked
    ]
    assert {batch for *_, batch in told} == {2}


def test_memory_for_not_even_one_picture_is_an_error(tmp_path: Path) -> None:
    def none(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[str]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(captioner.describe(none, drawn(tmp_path, 2), nothing))


def test_a_folder_that_is_no_captioner_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="no folder") as missing:
        captioner.load(tmp_path / "nowhere", torch.device("cpu"))
    assert missing.value.code == Code.NOT_FOUND
    with pytest.raises(LoraError, match=r"clip_text_model.*are BLIP, Florence-2"):
        captioner.load(starter.base_dir() / "text_encoder", torch.device("cpu"))
    torn = tmp_path / "torn"
    shutil.copytree(starter.blip_dir(), torn)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(LoraError, match="no whole captioner") as damaged:
        captioner.load(torn, torch.device("cpu"))
    assert damaged.value.code == Code.INVALID_FILE


def test_the_worker_captions_names_what_is_torn_and_gives_up_when_told(
    tmp_path: Path,
) -> None:
    asked = drawn(tmp_path, 2)
    (tmp_path / "torn.png").write_bytes(b"no picture")
    asked.insert(1, ("torn", str(tmp_path / "torn.png")))
    order = pipe.Describe(job="j1", model=str(starter.blip_dir()), pictures=asked, more=True)
    with worker_process.worker() as worker:
        worker.send(order)
        told = worker.until(pipe.Described)
        assert told.last
        assert [item for item, _ in told.captions] == ["0", "1"]
        assert all(text.startswith(("a ", "an ")) for _, text in told.captions)
        [(item, reason)] = told.skipped
        assert item == "torn"
        assert "not a picture" in reason
        worker.send(pipe.Cancel(job="j2"))
        worker.send(pipe.Describe(job="j2", model=order.model, pictures=asked, more=False))
        assert worker.until(pipe.DescribeFailed).failure.code == Code.CANCELLED


def drawn(folder: Path, number: int) -> list[tuple[str, str]]:
    """Pictures as an order takes them."""
    asked = []
    for index, scene in enumerate(world.scenes(number, seed=72, crowd=0)):
        path = folder / f"{index}.png"
        world.draw(scene).resize((64, 64)).save(path)
        asked.append((str(index), str(path)))
    return asked
