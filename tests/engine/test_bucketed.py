"""Runs in buckets: a batch is of one size, nothing is left out, and a resumed run is unbroken."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image, ImageOps

from lora_daemon import pipe
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache, load_picture
from lora_daemon.engine.feed import Feed
from lora_daemon.engine.masks import masks
from lora_daemon.engine.studio import Studio
from lora_daemon.engine.versions import PLAIN
from shared import buckets
from shared.framing import Framing, Size
from shared.recipe import Recipe, convert, total_steps
from tests.engine import worker_process as work
from tests.engine.test_options_resume import _run

SIZES: list[Size] = [(96, 64), (64, 96), (90, 62), (64, 64), (120, 62), (62, 120), (70, 70)]
DATASET = {"name": "things", "enable_bucket": True, "resolution": 64, "min_bucket_reso": 32,
           "max_bucket_reso": 128, "bucket_reso_steps": 16}  # fmt: skip


def recipe_of(**sections: dict[str, Any]) -> Recipe:
    dataset = DATASET | sections.pop("dataset", {})
    return convert({"dataset": dataset, **sections})


def ragged(folder: Path, recipe: Recipe) -> list[pipe.FrozenPicture]:
    """Pictures of many shapes, one of them turned and cropped, frozen as the daemon does it."""
    folder.mkdir(parents=True, exist_ok=True)
    rules = buckets.rules_of(recipe.dataset, 64)
    assert rules is not None
    frozen = []
    for number, size in enumerate(SIZES):
        picture = Image.radial_gradient("L").resize(size)
        path = folder / f"{number}.png"
        ImageOps.colorize(picture, "white", (40 * number % 256, 90, 160)).save(path)
        seen = Framing(turn=90, crop=(0, 8, 60, 88)) if number == 4 else Framing()
        one = work.freeze_picture(path, f"thing {number}")
        bucket = buckets.bucket_of(seen.size(*size), rules)
        frozen.append(msgspec.structs.replace(one, framing=seen, bucket=bucket))
    return frozen


def fed(
    base: Base, tmp_path: Path, recipe: Recipe, regular: int = 0, **more: Any
) -> tuple[Feed, list[pipe.FrozenPicture]]:  # fmt: skip
    cache = LatentsCache(tmp_path / "cache", base, 64)
    frozen = ragged(tmp_path / "pictures", recipe)
    moments = [[cache.make(cache.key(one), one)] for one in frozen]
    captions = [one.caption for one in frozen]
    return Feed(recipe, base, moments, captions, regular, **more), frozen


def test_a_batch_is_of_one_bucket_and_an_epoch_shows_every_sample(
    base: Base, tmp_path: Path
) -> None:
    recipe = recipe_of(
        dataset={"repeats": 3}, training={"batch_size": 4, "accumulation": 2, "epochs": 2}
    )
    feed, frozen = fed(base, tmp_path, recipe)
    assert feed.sizes == [one.bucket for one in frozen] and len(set(feed.sizes)) > 2
    shown = buckets.shown(recipe, feed.sizes)
    assert feed.steps_per_epoch * 2 == total_steps(recipe, len(frozen), shown)
    orders = []
    for epoch in range(2):
        steps = range(epoch * feed.steps_per_epoch, (epoch + 1) * feed.steps_per_epoch)
        every = [batch for step in steps for batch in feed.batches(step)]
        orders.append([batch.pictures for batch in every])
        for batch in every:
            (size,) = {feed.sizes[picture] for picture in batch.pictures}
            assert batch.latents.shape[2:] == (size[1] // 8, size[0] // 8)
        seen = Counter(picture for batch in every for picture in batch.pictures)
        assert seen == dict.fromkeys(range(len(frozen)), 3)
        sizes = Counter(len(batch.pictures) for batch in every)
        assert sizes[4] == sum(count // 4 for count in shown)  # the rest are each bucket's last
    assert orders[0] != orders[1]
    for step in range(feed.steps_per_epoch):
        assert sum(batch.share for batch in feed.batches(step)) == pytest.approx(1)
    again, _ = fed(base, tmp_path, recipe)
    last = feed.steps_per_epoch * 2 - 1  # asked for first
    for one, other in zip(again.batches(last), feed.batches(last), strict=True):
        assert one.pictures == other.pictures and torch.equal(one.latents, other.latents)
        assert torch.equal(one.noise, other.noise)


def test_regularisation_fills_the_buckets_that_were_counted(base: Base, tmp_path: Path) -> None:
    recipe = recipe_of(dataset={"regularisation": "b"}, training={"batch_size": 2})
    feed, _ = fed(base, tmp_path, recipe, regular=2)
    for epoch in range(2):
        steps = range(epoch * feed.steps_per_epoch, (epoch + 1) * feed.steps_per_epoch)
        seen = Counter(p for step in steps for batch in feed.batches(step) for p in batch.pictures)
        assert [seen[number] for number in range(7)] == [1] * 5 + [3, 2]


def test_a_mask_is_turned_and_cropped_with_its_picture(base: Base, tmp_path: Path) -> None:
    recipe = recipe_of()
    frozen = ragged(tmp_path / "pictures", recipe)
    own = frozen[4]
    mask = Image.new("L", SIZES[4], 0)
    mask.paste(255, (0, 0, 60, 62))  # its left half: turned, the upper one
    mask.save(tmp_path / "mask.png")
    seen = work.freeze_picture(tmp_path / "mask.png", "")
    own = msgspec.structs.replace(own, mask=seen.path, mask_content=seen.content)
    assert own.bucket is not None
    (tmp_path / "run").mkdir()
    ((made,),) = masks(tmp_path / "run", [own], [[PLAIN]], [own.bucket], 8)
    assert made.shape == (own.bucket[1] // 8, own.bucket[0] // 8)
    assert load_picture(Path(own.path), own.framing).size == (60, 80)
    # of the rows 8 … 88 that are left, those up to 60 count
    assert float(made.mean()) == pytest.approx(52 / 80, abs=0.06)
    assert bool((made[0] > 0.9).all()) and not bool((made[-1] > 0.1).any())
    with_masks, _ = fed(base, tmp_path, recipe, masks=[[torch.ones(size[1] // 8, size[0] // 8)]
                        for size in [one.bucket for one in frozen if one.bucket]])  # fmt: skip
    (batch,) = with_masks.batches(0)
    assert batch.counts is not None and batch.counts.shape[2:] == batch.latents.shape[2:]


def test_an_entry_is_of_its_bucket_and_its_framing(base: Base, tmp_path: Path) -> None:
    recipe = recipe_of()
    cache = LatentsCache(tmp_path / "cache", base, 64)
    one = ragged(tmp_path / "pictures", recipe)[4]
    replace = msgspec.structs.replace
    others = [replace(one, framing=Framing()), replace(one, bucket=None),
              replace(one, bucket=(80, 48)), one]  # fmt: skip
    assert len({cache.key(other) for other in others}) == 4
    assert cache.key(replace(one, caption="another")) == cache.key(one)


def test_a_run_in_buckets_is_unbroken_when_it_is_resumed(tmp_path: Path, base_path: Path) -> None:
    torch.set_num_threads(1)
    studio = Studio(torch.device("cpu"), lambda report: None, lambda job: False)
    sections: dict[str, Any] = {
        "training": {"batch_size": 2, "accumulation": 2, "max_steps": 6},
        "optimizer": {"learning_rate": 1e-2},
        "save": {"every_steps": 3},
        "dataset": DATASET | {"alpha_mask": True},
    }
    frozen = ragged(tmp_path / "pictures", recipe_of())
    orders = []
    for name in ("unbroken", "broken"):
        order = work.prepare(tmp_path / name, base_path, frozen, **sections)
        if name == "broken":
            _run(order, studio, leave=True)
        told = _run(order, studio)
        orders.append(order)
    (taken_up,) = (one for one in told if isinstance(one, pipe.Resumed))
    assert (taken_up.step, taken_up.identical) == (3, True)
    unbroken, broken = (work.content(order) for order in orders)
    assert unbroken == broken
    said = unbroken[1]
    assert (said["ss_enable_bucket"], said["ss_min_bucket_reso"]) == ("True", "32")
    info = json.loads(said["ss_bucket_info"])
    counted = Counter(one.bucket for one in frozen)
    told_of = [(tuple(one["resolution"]), one["count"]) for one in info["buckets"].values()]
    assert told_of == sorted(counted.items())
    apart = [
        abs(one.bucket[0] / one.bucket[1] - width / height)
        for one, size in zip(frozen, SIZES, strict=True)
        for width, height in [one.framing.size(*size)] if one.bucket
    ]  # fmt: skip
    assert info["mean_img_ar_error"] == pytest.approx(sum(apart) / len(apart))
