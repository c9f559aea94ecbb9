"""The loop learns, and its pieces do what the textbook says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lora_daemon.engine import adapters, fused
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache, Moments, load_picture, pixels_of
from lora_daemon.engine.feed import Feed
from lora_daemon.engine.optimizers import optimizer_for
from lora_daemon.engine.randomness import generator, shuffled
from lora_daemon.engine.train import clip, train
from lora_daemon.schedules import learning_rate
from shared.recipe import Network, Recipe, Schedule, convert
from tests.engine import worker_process as work


class Steps:
    """A session with nothing around the loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.losses: list[float] = []

    def steps(self) -> Iterator[int]:
        yield from range(self.total)

    def saw(self, pictures: Sequence[int], timesteps: Tensor, losses: Tensor) -> None:
        pass

    def record(self, loss: Tensor, rate: float, norm: Tensor) -> None:
        self.losses.append(float(loss))


@pytest.fixture
def feed(base: Base, tmp_path: Path) -> Feed:
    return fed(base, tmp_path, convert({"training": {"batch_size": 2}}))


def fed(base: Base, tmp_path: Path, recipe: Recipe, pictures: int = 5) -> Feed:
    cache = LatentsCache(tmp_path / "cache", base, base.resolution)
    frozen = work.pictures(tmp_path / "pictures", pictures)
    moments = [[cache.make(cache.key(p), p)] for p in frozen]
    return Feed(recipe, base, moments, [picture.caption for picture in frozen])


def test_training_lowers_the_loss_at_fixed_noise(base: Base, tmp_path: Path) -> None:
    recipe = convert({"optimizer": {"learning_rate": 0.01}, "training": {"batch_size": 4}})
    feed = fed(base, tmp_path, recipe)
    adapter = Adapter(base, Network(rank=8), seed=0)
    try:
        before = _held_out_loss(base, feed)
        train(recipe, base, adapter, optimizer_for(adapter, recipe.optimizer), feed, Steps(60))  # type: ignore[arg-type]
        after = _held_out_loss(base, feed)
    finally:
        adapter.remove()
    assert after < 0.9 * before
    assert _held_out_loss(base, feed) == before  # the base itself has learnt nothing


@torch.no_grad()
def _held_out_loss(base: Base, feed: Feed) -> float:
    losses = []
    for step in range(100_000, 100_020):
        batch = next(feed.batches(step))
        signal = base.alphas_cumprod[batch.timesteps][:, None, None, None]
        noisy = signal.sqrt() * batch.latents + (1 - signal).sqrt() * batch.noise
        losses.append(
            float(F.mse_loss(base.denoise(noisy, batch.timesteps, batch.text), batch.noise))
        )
    return sum(losses)


def test_the_fused_layer_computes_what_pefts_own_does(
    base: Base, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(adapters, "fuse", lambda *_: None)
        adapter = Adapter(base, Network(rank=4, alpha=1.5), seed=0)
        try:
            adapter.vector.data.add_(0.1)
            batch = next(feed.batches(0))
            predicted = base.denoise(batch.latents, batch.timesteps, batch.text)
            F.mse_loss(predicted, batch.noise).backward()  # type: ignore[no-untyped-call]
            results.append((predicted.detach(), adapter.gradient.clone()))
        finally:
            adapter.remove()
    (ours, our_gradient), (pefts, peft_gradient) = results
    assert torch.allclose(ours, pefts, atol=1e-5)
    assert torch.allclose(our_gradient, peft_gradient, atol=1e-6)
    assert float(peft_gradient.abs().max()) > 1e-4
    assert fused.fuse is not adapters.fuse


def test_a_fresh_adapter_changes_nothing_and_repeats_from_its_seed(base: Base, feed: Feed) -> None:
    batch = next(feed.batches(0))
    vectors = []
    with torch.no_grad():
        plain = base.denoise(batch.latents, batch.timesteps, batch.text)
        for seed in (1, 1, 2):
            adapter = Adapter(base, Network(), seed)
            vectors.append(adapter.vector.data.clone())
            adapted = base.denoise(batch.latents, batch.timesteps, batch.text)
            adapter.remove()
            assert torch.equal(adapted, plain)
    assert torch.equal(vectors[0], vectors[1]) and not torch.equal(vectors[0], vectors[2])


def test_a_batch_depends_on_its_step_alone(feed: Feed) -> None:
    first = next(feed.batches(7))
    next(feed.batches(0))
    torch.manual_seed(123)
    again = next(feed.batches(7))
    for name in ("latents", "noise", "timesteps", "text"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.noise, next(feed.batches(8)).noise)
    assert not torch.equal(first.noise[0], first.noise[1])


def test_an_epoch_shows_every_picture_and_the_next_in_another_order(feed: Feed) -> None:
    orders = [shuffled(20, 42, epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert feed.steps_per_epoch == 3
    assert [len(next(feed.batches(step)).timesteps) for step in range(3)] == [2, 2, 1]


def test_timesteps_cover_the_whole_schedule_and_half_the_pictures_are_mirrored(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored: list[bool] = []
    draw = Moments.draw
    monkeypatch.setattr(
        Moments,
        "draw",
        lambda self, flip, noise: (mirrored.append(flip), draw(self, flip, noise))[1],
    )
    timesteps = torch.cat([next(feed.batches(step)).timesteps for step in range(300)])
    assert timesteps.min() < 20 and timesteps.max() > 979
    assert 0.4 < sum(mirrored) / len(mirrored) < 0.6
    feed.flip = False
    mirrored.clear()
    for step in range(50):
        next(feed.batches(step))
    assert not any(mirrored)


def test_a_mirrored_latent_is_of_the_mirrored_picture(
    base: Base, feed: Feed, tmp_path: Path
) -> None:
    """Mirroring the latent instead is not the same, as the encoder is not symmetric."""
    picture = work.pictures(tmp_path / "pictures", 1)[0]
    side = base.resolution
    pixels = pixels_of(load_picture(Path(picture.path)), (side, side))
    mean, _ = base.encode_pixels(pixels.flip(-1).contiguous()[None])
    (moments,) = feed.moments[0]
    assert torch.equal(moments.mirrored_mean, mean[0])
    assert not torch.allclose(moments.mirrored_mean, moments.mean.flip(-1))


def test_a_mirror_image_is_encoded_only_where_it_is_wanted(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = work.pictures(tmp_path / "pictures", 1)[0]
    encode, times = Base.encode_pixels, []

    def counted(self: Base, pixels: Tensor) -> tuple[Tensor, Tensor]:
        times.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Base, "encode_pixels", counted)
    plain, both = (
        LatentsCache(tmp_path / "cache", base, base.resolution, mirrored=mirrored)
        for mirrored in (False, True)
    )
    key, size = plain.key(picture), plain.size(picture)
    one = plain.make(key, picture)
    assert times == [1] and one.mirrored_mean is None
    assert both.find(key, size) is None
    two = both.make(key, picture)
    assert times == [1, 1, 1] and torch.equal(two.mean, one.mean)
    again = plain.find(key, size)
    assert again is not None and again.mirrored_mean is None and torch.equal(again.mean, one.mean)


def test_generators_of_other_purposes_are_others() -> None:
    def draw(*name: int | str) -> float:
        return float(torch.rand((), generator=generator(1, "a", *name)))

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1, 2), draw(2, 1), draw(12), draw("1", "2", 0)}) == 4


@pytest.mark.parametrize(
    ("kind", "warm", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0, [1, 0.853553, 0.5, 0.146447]),
        ("constant", 2, [0.5, 1, 1, 1]),
        ("linear", 2, [0.5, 1, 1, 0.5]),
    ],
)
def test_learning_rates(kind: str, warm: int, expected: list[float]) -> None:
    schedule = convert({"schedule": {"kind": kind, "warmup_steps": warm}}).schedule
    rates = [learning_rate(schedule, 1.0, step, 4) for step in range(4)]
    assert rates == pytest.approx(expected, abs=1e-6)
    assert isinstance(schedule, Schedule)


def test_clipping_is_torchs() -> None:
    gradient = torch.full((9,), 2.0)
    assert float(clip(gradient, 1.0)) == pytest.approx(6.0)
    assert float(gradient.norm()) == pytest.approx(1.0, abs=1e-5)
    assert float(clip(gradient, 0.0)) == pytest.approx(1.0, abs=1e-5)
    assert math.isclose(float(gradient.norm()), 1.0, abs_tol=1e-5)
