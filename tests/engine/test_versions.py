"""Versions of a picture: what is in each, where each is shown, and what is as it was without."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lora_daemon import pipe
from lora_daemon.engine import feed as feed_module
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache, Moments, pixels_of
from lora_daemon.engine.feed import Choice, Feed, Showing, choose, view
from lora_daemon.engine.masks import masks
from lora_daemon.engine.versions import PLAIN, Colours, Version, drawn, recoloured
from lora_daemon.pipe import RunFailed
from shared.errors import Code, LoraError
from shared.recipe import Recipe, convert
from tests.engine import worker_process as work
from tests.engine.test_compiled import prepared, ran

BOTH = {"random_crop": True, "color_jitter": 0.2}


def dataset_of(**options: Any) -> Any:
    return convert({"dataset": options}).dataset


def noisy_picture(width: int, height: int) -> Image.Image:
    dice = np.random.default_rng(0)
    return Image.fromarray(dice.integers(64, 192, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("size", "axis"), [((300, 150), 2), ((150, 300), 1)])
def test_a_version_is_cropped_at_its_place_along_what_hangs_over(
    size: tuple[int, int], axis: int
) -> None:
    picture = noisy_picture(*size)
    small = picture.resize((size[0] * 64 // 150, size[1] * 64 // 150), Image.Resampling.LANCZOS)
    whole = torch.from_numpy(np.asarray(small, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)
    for left in (0, 16, 32, 64):
        found = pixels_of(picture, (64, 64), left / 64)
        assert torch.allclose(found, whole.narrow(axis, left, 64), atol=0.03), left
    assert torch.equal(pixels_of(picture, (64, 64)), pixels_of(picture, (64, 64), 0.5))


def test_colours_are_moved_as_they_are_said_to_be() -> None:
    pixels = pixels_of(noisy_picture(32, 32), (32, 32)) * 0.3  # nothing is clipped
    rgb = (pixels + 1) / 2
    luma = torch.tensor([0.299, 0.587, 0.114])

    def moved(**colours: float) -> Tensor:
        return (recoloured(pixels, Colours(**colours)) + 1) / 2

    def brightness(colours: Tensor) -> Tensor:
        return torch.einsum("c,chw->hw", luma, colours)

    assert torch.allclose(moved(brightness=1.2), rgb * 1.2, atol=1e-5)
    middle = brightness(rgb).mean()
    assert torch.allclose(moved(contrast=0.5), middle + (rgb - middle) * 0.5, atol=1e-5)
    grey = brightness(rgb).expand(3, -1, -1)
    assert torch.allclose(moved(saturation=0.0), grey, atol=2e-3)
    half = moved(hue=0.5)
    assert torch.allclose(half - grey, grey - rgb, atol=2e-3)  # the opposite tint, as bright
    assert not torch.allclose(moved(hue=0.05), rgb, atol=0.01)
    assert torch.equal(recoloured(pixels, PLAIN.colours), pixels)
    bright = recoloured(pixels.sign(), Colours(brightness=1.5, contrast=1.5))
    assert bright.min() >= -1 and bright.max() <= 1


def test_what_a_version_is_follows_from_the_picture_and_its_number_alone() -> None:
    own = [drawn("a" * 64, number, dataset_of(**BOTH)) for number in range(400)]
    assert own[:8] == [drawn("a" * 64, number, dataset_of(**BOTH)) for number in range(8)]
    assert own[0] != drawn("b" * 64, 0, dataset_of(**BOTH))
    places = [one.place for one in own]
    assert min(places) < 0.02 and max(places) > 0.98 and 0.45 < np.mean(places) < 0.55
    for column, middle, most in zip(
        np.array([one.colours for one in own]).T, (1, 1, 1, 0), (0.2, 0.2, 0.2, 0.05), strict=True
    ):
        assert 0.95 * most < np.abs(column - middle).max() <= most
    crops = drawn("a" * 64, 3, dataset_of(random_crop=True))
    assert crops == Version(own[3].place) and crops.colours == PLAIN.colours
    assert drawn("a" * 64, 3, dataset_of(color_jitter=0.2)) == Version(0.5, own[3].colours)


def test_entries_of_before_are_found_and_each_version_has_its_own(
    base: Base, tmp_path: Path
) -> None:
    cache = LatentsCache(tmp_path, base, 64)
    one = work.pictures(tmp_path / "pictures", 1)[0]
    decides = {"content": one.content, "crop": "centre", "resolution": 64, "vae": base.vae_hash,
               "version": 2}  # fmt: skip
    plain = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    assert cache.key(one) == cache.key(one, PLAIN) == plain
    colours = Colours(hue=0.1)
    several = [PLAIN, Version(0.2), Version(0.3), Version(0.2, colours), Version(0.5, colours)]
    assert len({cache.key(one, version) for version in several}) == 5


def test_an_entry_is_of_what_its_version_shows(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    noisy_picture(160, 80).save(path)
    one = work.freeze_picture(path, "")
    version = Version(0.25, Colours(1.1, 0.9, 1.2, 0.02))
    cache = LatentsCache(tmp_path, base, 64)
    key = cache.key(one, version)
    made = cache.make(key, one, cache.read(one, version))
    pixels = recoloured(pixels_of(noisy_picture(160, 80), (64, 64), 0.25), version.colours)
    assert torch.equal(made.mean, base.encode_pixels(pixels[None])[0][0])
    assert made.place == 0.25 and made.size == (80, 160)
    found = cache.find(key, (64, 64))
    assert found is not None and found.place == 0.25
    bytes_of = sum(one.nbytes for one in (made.mean, made.deviation))
    assert cache.bytes_of(one) == 2 * bytes_of  # its mirror image besides


def numbered(base: Base, recipe: Recipe, counts: list[int], **more: Any) -> Feed:
    """A feed in which the latents of a picture's version are 100 × picture + version."""
    shape = (base.latent_channels, 8, 8)
    moments = [
        [
            Moments(torch.full(shape, 100.0 * picture + number), torch.zeros(shape))
            for number in range(count)
        ]
        for picture, count in enumerate(counts)
    ]
    return Feed(recipe, base, moments, ["a thing"] * len(counts), **more)


def seen(feed: Feed, epochs: int) -> list[list[int]]:
    """What each epoch shows, by its number."""
    each = feed.steps_per_epoch
    return [
        [
            int(latents[0, 0, 0])
            for step in range(epoch * each, (epoch + 1) * each)
            for batch in feed.batches(step)
            for latents in batch.latents
        ]
        for epoch in range(epochs)
    ]


def test_with_as_many_versions_as_showings_each_is_shown_once(base: Base) -> None:
    recipe = convert(
        {"dataset": {"flip": False, "repeats": 2, **BOTH}, "training": {"batch_size": 2}}
    )
    feed = numbered(base, recipe, [6, 6, 1])
    epochs = seen(feed, 3)
    shown = Counter(number for epoch in epochs for number in epoch)
    assert shown == dict.fromkeys([*range(6), *range(100, 106)], 1) | {200: 6}
    assert all(len({number // 100 for number in epoch}) == 3 for epoch in epochs)
    assert epochs[2] == seen(numbered(base, recipe, [6, 6, 1]), 3)[2]  # in any order of asking


@pytest.mark.parametrize("regular", [2, 4, 6])
@pytest.mark.parametrize("buckets", [False, True])
def test_regularisation_shows_its_versions_in_turn(base: Base, regular: int, buckets: bool) -> None:
    recipe = convert({"dataset": {"name": "a", "regularisation": "b", "flip": False, **BOTH}})
    feed = numbered(base, recipe, [4] * (4 + regular), regular=regular)
    if buckets:
        feed.sizes[0] = (64, 128)
    times: dict[int, list[int]] = {}
    for epoch in range(12):
        every = sorted(one for one in feed._shuffled(epoch) if one.picture >= 4)
        for picture, time in every:
            times.setdefault(picture, []).append(time)
    assert all(own == list(range(len(own))) for own in times.values())
    assert sum(map(len, times.values())) == 12 * 4


def test_a_mask_goes_along_with_the_crop(base: Base, tmp_path: Path) -> None:
    noisy_picture(160, 80).save(tmp_path / "wide.png")
    mask = Image.new("L", (160, 80), 0)
    mask.paste(255, (0, 0, 80, 80))  # the left half
    mask.save(tmp_path / "mask.png")
    own = work.freeze_picture(tmp_path / "wide.png", "")
    content = work.freeze_picture(tmp_path / "mask.png", "").content
    own = msgspec.structs.replace(own, mask=str(tmp_path / "mask.png"), mask_content=content)
    versions = [Version(0.0), Version(1.0), Version(0.5, Colours(hue=0.1))]
    made = masks(tmp_path, [own], [versions], [(64, 64)], 8)
    (left, right, middle), (again, *_) = made[0], masks(
        tmp_path, [own], [versions], [(64, 64)], 8
    )[0]  # fmt: skip
    assert torch.equal(again, left)
    assert left.min() > 0.95 and right.max() < 0.05
    assert middle[:, :3].min() > 0.95 and middle[:, 5:].max() < 0.05
    recipe = convert({"dataset": {"mask_folder": "masks", **BOTH}})
    feed = numbered(base, recipe, [3], masks=[[left, right, middle]])
    feed.flip = False
    for step in range(3):
        (batch,) = feed.batches(step)
        assert batch.counts is not None
        assert torch.equal(batch.counts[0, 0], [left, right, middle][step])
    with pytest.raises(LoraError, match="damaged"):
        masks(tmp_path, [own], [versions[:2]], [(64, 64)], 8)


def test_sdxl_is_told_where_a_version_was_cropped(base: Base) -> None:
    assert view((100, 200), (100, 100), False, 0.25) == [100, 200, 0, 25, 100, 100]
    assert view((100, 200), (100, 100), True, 0.25) == [100, 200, 0, 75, 100, 100]
    assert view((300, 100), (100, 100), True, 1.0) == [300, 100, 200, 0, 100, 100]
    feed = numbered(base, convert({"dataset": {"flip": False, **BOTH}}), [1])
    (moments,) = feed.moments[0]
    elsewhere = Moments(moments.mean, moments.deviation, size=(64, 128), place=0.75)
    feed.moments = [[elsewhere]]
    assert feed._sample(0, 0, Showing(0, 0))[4] == [64, 128, 0, 48, 64, 64]


def frozen_in(tmp_path: Path, versions: list[int]) -> pipe.Freeze:
    return pipe.Freeze(
        run="r1", name="things", base="tiny", base_path="", dataset="things",
        pictures=work.pictures(tmp_path / "pictures", len(versions)), skipped=[], queued_at=0.0,
        versions=versions,
    )  # fmt: skip


def test_a_picture_is_used_with_all_of_its_versions_or_not(base: Base, tmp_path: Path) -> None:
    freeze = frozen_in(tmp_path, [3, 1, 3])
    Path(freeze.pictures[0].path).write_bytes(b"another")
    cache, told = LatentsCache(tmp_path / "cache", base, 64), list[tuple[int, int]]()
    dataset = dataset_of(**BOTH, versions=3)

    def asked() -> tuple[Choice, list[list[Moments]]]:
        return choose(dataset, freeze, cache, tmp_path, lambda *counts: told.append(counts))

    choice, moments = asked()
    assert [one.index for one in choice.used] == [1, 2] and [*map(len, moments)] == [1, 3]
    assert [path for path, _ in choice.skipped] == [freeze.pictures[0].path]
    assert told == [(done, 7) for done in range(8)]
    assert len({one.mean.sum() for one in moments[1]}) == 3
    for entry in (tmp_path / "cache").rglob("*.safetensors"):
        if entry.stem == choice.used[1].more[0]:
            entry.unlink()  # the disk was full
    _, again = asked()
    for one, other in zip(moments, again, strict=True):
        assert all(torch.equal(a.mean, b.mean) for a, b in zip(one, other, strict=True))
    assert again[1][1].place == moments[1][1].place
    for entry in (tmp_path / "cache").rglob("*.safetensors"):
        entry.unlink()
    Path(freeze.pictures[2].path).unlink()
    with pytest.raises(LoraError, match="run has begun with it"):
        asked()


def test_a_run_of_before_goes_on(base: Base, tmp_path: Path) -> None:
    freeze, cache = frozen_in(tmp_path, []), LatentsCache(tmp_path / "cache", base, 64)
    freeze = msgspec.structs.replace(freeze, pictures=work.pictures(tmp_path / "pictures", 1))
    written = {"used": [{"index": 0, "key": cache.key(freeze.pictures[0])}], "skipped": []}
    (tmp_path / "pictures.json").write_text(json.dumps(written))
    _, moments = choose(dataset_of(), freeze, cache, tmp_path, lambda *_: None)
    assert [*map(len, moments)] == [1]
    fields = json.loads(msgspec.json.encode(freeze))
    del fields["versions"]
    assert msgspec.json.decode(json.dumps(fields), type=pipe.Freeze) == freeze


def test_more_versions_than_the_memory_holds_are_refused_with_how_many_it_would(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze, cache = frozen_in(tmp_path, [100, 100]), LatentsCache(tmp_path / "cache", base, 64)
    free = 50 * cache.bytes_of(freeze.pictures[0])
    monkeypatch.setattr(
        feed_module.psutil, "virtual_memory", lambda: SimpleNamespace(available=free)
    )
    with pytest.raises(LoraError, match=r"run fork r1 --set dataset\.versions=25`") as refused:
        choose(dataset_of(**BOTH, versions=100), freeze, cache, tmp_path, lambda *_: None)
    assert refused.value.code is Code.INVALID_RECIPE
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_run_trains_on_other_latents_and_its_file_says_so(
    base_path: Path, tmp_path: Path
) -> None:
    made = {}
    for name, options in (("plain", {}), ("both", BOTH), ("crops", {"random_crop": True})):
        order = prepared(
            tmp_path / name, base_path, compiling=False, training={"max_steps": 3},
            dataset={"flip": False, **options},
        )  # fmt: skip
        assert not isinstance(ran(order)[-1], RunFailed)
        made[name] = work.content(order)
    assert len({tensors for tensors, _ in made.values()}) == 3
    said = {name: metadata for name, (_, metadata) in made.items()}
    flags = [(one["ss_random_crop"], one["ss_color_aug"]) for one in said.values()]
    assert flags == [("False", "False"), ("True", "True"), ("True", "False")]
    assert (said["both"]["lora_tui.versions"], said["both"]["lora_tui.color_jitter"]) == (
        "8",
        "0.2",
    )
    assert "lora_tui.versions" not in said["plain"]
