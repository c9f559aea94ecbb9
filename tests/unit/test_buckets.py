"""Buckets as kohya makes them, framings, and the options that ask for them."""

from __future__ import annotations

import pytest

from lora_tui.kohya.files import Given
from lora_tui.kohya.translate import translate
from shared import buckets, framing, recipe
from shared.buckets import Rules
from shared.errors import LoraError
from shared.framing import Framing
from shared.recipe_schema import Dataset

KOHYA = Rules(resolution=512, least=256, most=1024, step=64)  # its defaults for SD 1.5


def test_the_buckets_are_kohyas() -> None:
    assert buckets.sizes(KOHYA) == [
        (256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640),
        (448, 576), (512, 512), (576, 448), (640, 384), (704, 320), (768, 320), (832, 256),
        (896, 256), (960, 256), (1024, 256),
    ]  # fmt: skip
    assert all(wide * high <= 512**2 for wide, high in buckets.sizes(KOHYA))


@pytest.mark.parametrize(
    ("picture", "bucket", "own"),
    [
        ((512, 512), (512, 512), (512, 512)),
        ((1000, 1000), (512, 512), (512, 512)),
        ((1500, 1000), (640, 384), (576, 384)),
        ((1000, 1500), (384, 640), (384, 576)),
        ((4000, 300), (1024, 256), (1664, 128)),  # without bounds where nothing is enlarged
        ((300, 200), (640, 384), (256, 192)),
        ((40, 30), (576, 448), (64, 64)),  # at least one step
    ],
)  # fmt: skip
def test_a_picture_has_the_bucket_of_the_nearest_ratio(
    picture: framing.Size, bucket: framing.Size, own: framing.Size
) -> None:
    assert buckets.bucket_of(picture, KOHYA) == bucket
    alone = Rules(resolution=512, least=256, most=1024, step=64, no_upscale=True)
    assert buckets.bucket_of(picture, alone) == own


def test_rules_follow_the_resolution_where_the_recipe_says_nothing() -> None:
    assert buckets.rules_of(Dataset(), 512) is None
    on = Dataset(enable_bucket=True)
    assert buckets.rules_of(on, 512) == KOHYA
    assert buckets.rules_of(on, 128) == Rules(resolution=128, least=64, most=256, step=16)
    given = Dataset(
        enable_bucket=True, resolution=1024, min_bucket_reso=300, max_bucket_reso=2000,
        bucket_reso_steps=64,
    )  # fmt: skip
    assert buckets.rules_of(given, 512) == Rules(resolution=1024, least=256, most=2048, step=64)


def test_what_is_seen_of_a_picture_is_its_middle() -> None:
    assert buckets.lost((640, 320), (256, 256)) == pytest.approx(0.5)
    assert buckets.seen((640, 320), (256, 256)) == pytest.approx((0.25, 0, 0.75, 1))
    assert buckets.lost((1280, 768), (640, 384)) == 0


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"min_bucket_reso": 256}, "only with dataset.enable_bucket"),
        ({"enable_bucket": True, "bucket_reso_steps": 20}, "multiple of 8"),
        ({"enable_bucket": True, "resolution": 512, "min_bucket_reso": 640}, "half of the"),
        ({"enable_bucket": True, "resolution": 512, "max_bucket_reso": 256}, "twice the"),
        ({"enable_bucket": True, "min_bucket_reso": 640, "max_bucket_reso": 320}, "is above"),
        ({"enable_bucket": True, "resolution": 128, "bucket_reso_steps": 256}, "no bucket"),
    ],
)
def test_options_that_contradict_are_refused(dataset: dict[str, object], words: str) -> None:
    with pytest.raises(LoraError, match=words):
        recipe.convert({"dataset": dataset})


def test_the_last_batch_of_each_bucket_may_be_smaller_and_counts() -> None:
    one = recipe.convert(
        {
            "dataset": {"name": "a", "enable_bucket": True, "repeats": 3},
            "training": {"batch_size": 4, "accumulation": 2, "epochs": 2, "max_steps": 0},
        }
    )
    wide, tall = (640, 384), (384, 640)
    shown = buckets.shown(one, [wide, tall, wide, wide])
    assert sorted(shown) == [3, 9]  # 1 and 3 batches
    assert recipe.steps_per_epoch(one, 4, shown) == 2 == recipe.steps_per_epoch(one, 4)
    assert recipe.total_steps(one, 4, [1] * 12) == 12  # a bucket for each
    regular = recipe.convert({"dataset": {"name": "a", "regularisation": "b"}})
    assert sorted(buckets.shown(regular, [wide, tall, tall], [wide, wide])) == [2, 4]


def test_kohyas_bucket_options_are_taken() -> None:
    options = {"enable_bucket": True, "bucket_no_upscale": True, "min_bucket_reso": 320}
    translated = translate(Given(options={"resolution": 512, **options}))
    dataset = translated.tree["dataset"]
    assert dataset["enable_bucket"] is dataset["bucket_no_upscale"] is True
    assert "min_bucket_reso" not in dataset and dataset["bucket_reso_steps"] == 64
    recipe.convert(translated.tree)
    small = translate(Given(options={"resolution": 128, "enable_bucket": True}))
    assert "min_bucket_reso" not in small.tree["dataset"]  # 256, kohya's own, is above 128
    off = translate(Given(options={"resolution": 512, "min_bucket_reso": 256}))
    assert "enable_bucket" not in off.tree["dataset"]


def test_a_framing_turns_with_its_crop() -> None:
    cropped = Framing().cropped((10, 20, 110, 60), 200, 100)
    assert cropped.size(200, 100) == (100, 40)
    right = cropped.rotated(90, 200, 100)
    assert right == Framing(turn=90, crop=(40, 10, 80, 110)) and right.size(200, 100) == (40, 100)
    assert right.rotated(-90, 200, 100) == cropped
    assert cropped.rotated(180, 200, 100).crop == (90, 40, 190, 80)
    for one in (Framing(), cropped, right, Framing(turn=270)):
        assert framing.read(framing.stored(one)) == one
    assert framing.stored(Framing()) == ""
    assert right.cropped(None, 200, 100) == Framing(turn=90)
    # the file was replaced by a smaller one
    assert cropped.box(50, 40) == (10, 20, 50, 40) and cropped.box(8, 8) == (0, 0, 8, 8)


@pytest.mark.parametrize("crop", [(0, 0, 201, 50), (5, 5, 9, 50), (50, 0, 20, 50)])
def test_a_crop_is_within_its_picture(crop: framing.Box) -> None:
    with pytest.raises(LoraError, match=r"within|at least"):
        Framing().cropped(crop, 200, 100)
    with pytest.raises(LoraError, match="LEFT,TOP"):
        framing.crop_of("1,2,x,4")
