"""Regularisation pictures, output preservation and masks: what counts, and how much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image

from lora_daemon import pipe
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache
from lora_daemon.engine.feed import Feed
from lora_daemon.engine.masks import masks
from lora_daemon.engine.objectives import objective
from lora_daemon.engine.optimizers import optimizer_for
from lora_daemon.engine.train import train
from lora_daemon.engine.versions import PLAIN
from lora_daemon.masks import with_masks
from shared.errors import Code, LoraError
from shared.recipe import convert, total_steps
from tests.engine import worker_process as work
from tests.engine.test_options import adapted
from tests.engine.test_train import Steps


def frozen(tmp_path: Path, count: int) -> list[pipe.FrozenPicture]:
    return work.pictures(tmp_path / "pictures", count)


def fed(base: Base, tmp_path: Path, sections: dict[str, Any], regular: int, **more: Any) -> Feed:
    cache = LatentsCache(tmp_path / "cache", base, base.resolution)
    pictures = frozen(tmp_path, 3 + regular)
    moments = [[cache.make(cache.key(p), p)] for p in pictures]
    captions = [picture.caption for picture in pictures]
    return Feed(convert(sections), base, moments, captions, regular, **more)


def test_as_many_regularisation_pictures_come_up_and_all_take_turns(
    base: Base, tmp_path: Path
) -> None:
    sections = {
        "dataset": {"name": "a", "regularisation": "b", "repeats": 2},
        "loss": {"prior_weight": 0.25},
    }
    feed = fed(base, tmp_path, sections, 5)
    assert feed.steps_per_epoch == 12 == total_steps(convert(sections), 3) // 10
    seen = [[one.picture for one in feed._shuffled(epoch)] for epoch in range(5)]
    for order in seen:
        assert sorted(n for n in order if n < 3) == [0, 0, 1, 1, 2, 2]
    counts = [sum(order.count(n) for order in seen) for n in range(3, 8)]
    assert counts == [6] * 5
    for step in range(12):
        (batch,) = feed.batches(step)
        assert batch.counts is not None
        assert batch.counts.flatten().tolist() == [1.0 if seen[0][step] < 3 else 0.25]


def test_what_an_error_counts_scales_the_loss(base: Base) -> None:
    target = torch.zeros(2, 4, 8, 8)
    t = torch.tensor([10, 900])
    half = torch.zeros(2, 1, 8, 8)
    half[..., :4] = 1.0
    for settings in ({}, {"kind": "huber", "weighting": "min_snr"}):
        loss = objective(convert({"loss": settings}).loss, base)
        whole = loss(target + 1, target, t, None)
        assert float(loss(target + 1, target, t, half)) == pytest.approx(float(whole) / 2)
        ones = torch.ones(2, 1, 1, 1)
        assert float(loss(target + 1, target, t, ones)) == pytest.approx(float(whole))
        error = target.clone()
        error[..., 4:] = 100.0  # where nothing counts
        assert float(loss(error, target, t, half)) == 0.0


def test_masks_of_files_and_of_the_alpha_channel(base: Base, tmp_path: Path) -> None:
    pictures = frozen(tmp_path, 2)
    folder = tmp_path / "pictures" / "masks"
    folder.mkdir()
    mask = Image.new("L", (80, 80), 0)
    mask.paste(255, (0, 0, 40, 80))  # the left half
    mask.save(folder / "0.png")
    found, bare = with_masks(pictures, str(tmp_path / "pictures"), "masks")
    assert bare == 1 and found[0].mask == str(folder / "0.png") and not found[1].mask
    (tmp_path / "run").mkdir()
    sizes = [(64, 64)] * len(found)
    plain = [[PLAIN]] * len(found)
    (left,), (whole,) = made = masks(tmp_path / "run", found, plain, sizes, 8)
    assert torch.equal(whole, torch.ones(8, 8))
    assert torch.allclose(left[:, :3], torch.ones(8, 3)) and not bool(left[:, 5:].any())
    (folder / "0.png").unlink()  # it has begun: the mask is the run's own
    again = masks(tmp_path / "run", found, plain, sizes, 8)
    assert all(torch.equal(one, other) for (one,), (other,) in zip(again, made, strict=True))
    picture = Image.open(pictures[0].path).convert("RGBA")
    picture.putalpha(mask)
    path = tmp_path / "alpha.png"
    picture.save(path)
    own = msgspec.structs.replace(pictures[0], path=str(path))
    (tmp_path / "other").mkdir()
    ((alpha,),) = masks(tmp_path / "other", [own], [[PLAIN]], [(64, 64)], 8)
    assert torch.equal(alpha, left)
    sections = {"dataset": {"alpha_mask": True}, "loss": {"unmasked_weight": 0.1}}
    feed = fed(base, tmp_path, sections, 0, masks=[[left]] * 3)
    sides = set()
    for step in range(8):  # mirrored with the picture
        (batch,) = feed.batches(step)
        assert batch.counts is not None
        ends = batch.counts[0, 0, 0, 0], batch.counts[0, 0, 0, 7]
        sides.add(tuple(round(float(end), 3) for end in ends))
    assert sides == {(1.0, 0.1), (0.1, 1.0)}


def test_masks_of_another_size_are_refused_by_name(tmp_path: Path) -> None:
    pictures = frozen(tmp_path, 3)
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.new("L", (40, 40)).save(folder / "1.png")
    (folder / "2.png").write_bytes(b"nothing")
    with pytest.raises(LoraError) as caught:
        with_masks(pictures, str(tmp_path / "pictures"), str(folder))
    assert caught.value.code is Code.INVALID_FILE
    assert "masks/1.png is 40 × 40 and its picture 80 × 88" in caught.value.message
    assert "masks/2.png cannot be read" in caught.value.message
    with pytest.raises(LoraError) as caught:
        with_masks(pictures, str(tmp_path / "pictures"), "nowhere")
    assert caught.value.code is Code.NOT_FOUND and "dataset.mask_folder" in caught.value.message


def test_output_preservation_keeps_the_class_near_the_base(base: Base, tmp_path: Path) -> None:
    caption = "a thing"
    text = base.encode_text(caption)
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([300, 700])

    @torch.no_grad()
    def seen() -> torch.Tensor:
        return base.denoise(noisy, t, text.expand(2, -1, -1))

    plain, drifts = seen(), []
    for loss in ({}, {"preservation": 3.0, "class_caption": caption}):
        sections = {"loss": loss, "optimizer": {"learning_rate": 0.01}}
        recipe = convert(sections)
        feed = fed(base, tmp_path, sections, 0)
        adapter = adapted(base, recipe)
        try:
            train(recipe, base, adapter, optimizer_for(adapter, recipe.optimizer), feed, Steps(12))  # type: ignore[arg-type]
            drifts.append(float((seen() - plain).norm()))
        finally:
            adapter.remove()
    assert drifts[1] < 0.7 * drifts[0], drifts
    assert torch.equal(seen(), plain)
