"""What a run will take, minutes and memory, by what runs like it took on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, ne
from statistics import fmean, median

import msgspec

from shared.recipe import Recipe, versions

# What a step's time and memory go by, its pictures aside. A LoRA's rank is little beside the base.
_SHAPE = (
    "base.name", "base.quantize", "dataset.resolution", "dataset.enable_bucket", "dataset.windows",
    "network.kind", "network.targets", "optimizer.kind", "training.precision",
    "training.checkpointing", "training.compile", "training.num_processes",
)  # fmt: skip
NEWEST = 3  # runs of a kind that are asked: the machine may be another by now
LEAST = 5  # steps that a run must have taken to say something


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What a run took. Seconds, without pauses.

    ``like``: its recipe's kind, as ``kind`` says it; ``dataset``: whose latents were then in the
    cache, as ``latents`` says it. ``batches``: in all its steps, of ``batch`` pictures each.
    ``caching``: for ``cached`` versions of pictures and their mirror images; ``painting``: for
    ``painted`` calls of the denoiser in samples. ``memory``: the most bytes that the worker was
    seen to have, of the device's memory, or of the machine's where it trains there; 0 if it ended
    before it was seen.
    """

    like: str
    device: str
    dataset: str
    loading: float
    caching: float
    cached: int
    training: float
    batches: int
    batch: int
    painting: float
    painted: int
    memory: int


class Foretold(msgspec.Struct, frozen=True):
    """``seconds`` from the start to the end, ``memory`` in bytes; None: nothing like it ran yet.
    ``alike``: whether runs of the same kind say so, not the nearest others on the same base, or of
    one other batch size."""

    seconds: float | None
    memory: float | None
    alike: bool


def kind(recipe: Recipe) -> str:
    """What must be equal for a step to take as long, its pictures aside; the base first. Of a
    recipe that says its resolution, as a run's own does."""
    shape = [str(attrgetter(key)(recipe)) for key in _SHAPE]
    learns = [recipe.optimizer.text_encoder_rate > 0, recipe.loss.preservation > 0]
    return "\n".join((*shape, *map(str, learns)))


def encodings(recipe: Recipe) -> int:
    """Of each picture, when its latents are cached."""
    return versions(recipe) * (1 + recipe.dataset.flip)


def latents(recipe: Recipe) -> str:
    """What tells the latents of one dataset and its versions from others."""
    dataset = recipe.dataset
    if versions(recipe) == 1:
        return dataset.name
    return f"{dataset.name}\n{dataset.random_crop} {dataset.color_jitter:g} {dataset.versions}"


def painted(recipe: Recipe) -> int:
    """Calls of the denoiser for one picture of each prompt, two where guidance needs both."""
    sample = recipe.sample
    return len(sample.prompts) * sample.steps * (2 if sample.cfg > 1 else 1)


def occasions(recipe: Recipe, steps: int, each: int) -> int:
    """How often a run of so many steps, ``each`` of them an epoch, paints its samples."""
    sample = recipe.sample
    intervals = (sample.every_steps, sample.every_epochs * each)
    due = {at for every in intervals if every for at in range(every, steps + 1, every)}
    return len(due) + sample.at_first


def foretell(
    recipe: Recipe, pictures: int, steps: int, each: int, past: Sequence[Spent]
) -> Foretold:
    """``recipe``: as ``kind`` takes it; ``pictures``: that it trains on; ``each``: steps of an
    epoch; ``past``: the newest first."""
    own = kind(recipe).split("\n")
    past = _on_base(own, past)
    apart = [sum(map(ne, own, one.like.split("\n"))) for one in past]
    alike = [_sized(one, own) for one, far in zip(past, apart, strict=True) if far == min(apart)]
    same = alike if apart and not min(apart) else []
    if not alike:
        return Foretold(None, None, False)
    size = recipe.training.batch_size
    batches = steps * recipe.training.accumulation
    each_batch = _at(size, [(one.batch, one.training / one.batches) for one in alike])
    told = bool(same) and each_batch is not None
    if each_batch is None:
        # Half of what a batch of one takes goes with its picture, or so.
        one = alike[0]
        each_batch = one.training / one.batches * (1 + size) / (1 + one.batch)
    seconds = _usual([one.loading for one in alike]) + batches * each_batch
    seconds += _caching(recipe, pictures, alike)
    calls = occasions(recipe, steps, each) * painted(recipe)
    if paid := [one.painting / one.painted for one in alike if one.painted]:
        seconds += calls * _usual(paid)
    elif calls:  # as the forward half of a step, or so
        seconds += calls * each_batch / size / 3
    memory = _at(size, [(one.batch, float(one.memory)) for one in same if one.memory])
    return Foretold(seconds, memory, told)


def measuring(
    recipe: Recipe, painted: int, predicted: int, past: Sequence[Spent]
) -> float | None:  # fmt: skip
    """Seconds of calls of the denoiser for one picture each: ``painted`` in samples, ``predicted``
    many at once; None: nothing ran on this base yet. ``recipe``, ``past``: as for ``foretell``."""
    own = kind(recipe).split("\n")
    alike = [_sized(one, own) for one in _on_base(own, past)]
    if not alike:
        return None
    # Of a step half goes with its pictures, and of that half again is the way forward, or so.
    each = _usual([one.training / one.batches / (1 + one.batch) / 2 for one in alike])
    paid = [one.painting / one.painted for one in alike if one.painted]
    return predicted * each + painted * (_usual(paid) if paid else 1.5 * each)


def _on_base(own: Sequence[str], past: Sequence[Spent]) -> list[Spent]:
    """Those that say something of what a recipe of kind ``own`` takes on the newest's device."""
    past = [one for one in past if one.batches >= LEAST]
    past = [one for one in past if one.device == past[0].device]
    return [one for one in past if one.like.split("\n", 1)[0] == own[0]]


def _sized(one: Spent, own: Sequence[str]) -> Spent:
    """What a run would have taken at another resolution: by the area, or so."""
    at = _SHAPE.index("dataset.resolution")
    here, there = int(own[at]), int(one.like.split("\n")[at])
    area = (here / there) ** 2 if here and there else 1.0
    return msgspec.structs.replace(
        one, training=one.training * area, caching=one.caching * area, painting=one.painting * area
    )


def _caching(recipe: Recipe, pictures: int, alike: Sequence[Spent]) -> float:
    """Latents of a dataset that was trained on are there already."""
    rates = [(one.dataset, one.caching / one.cached) for one in alike if one.cached]
    if not rates:
        return 0.0
    known = [rate for dataset, rate in rates if dataset == latents(recipe)]
    rate = min(known) if known else max(rate for _, rate in rates)
    return pictures * encodings(recipe) * rate


def _at(size: int, points: Sequence[tuple[int, float]]) -> float | None:
    """What batches of ``size`` take: as the newest of that size did, else on the line through those
    of other sizes; None where only one size is known."""
    if here := [value for batch, value in points if batch == size]:
        return _usual(here)
    by_size: dict[int, list[float]] = {}
    for batch, value in points:
        by_size.setdefault(batch, []).append(value)
    if len(by_size) < 2:
        return None
    sizes = [float(batch) for batch in by_size]
    values = [_usual(found) for found in by_size.values()]
    centre, height = fmean(sizes), fmean(values)
    spread = sum((one - centre) ** 2 for one in sizes)
    pairs = zip(sizes, values, strict=True)
    slope = sum((one - centre) * (value - height) for one, value in pairs) / spread
    return max(height + slope * (size - centre), min(values) * min(1.0, size / min(sizes)))


def _usual(values: Sequence[float]) -> float:
    return median(values[:NEWEST])
