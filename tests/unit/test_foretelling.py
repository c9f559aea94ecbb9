"""What a run will take is told from what others took, and by how much they are like it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lora_daemon import pipe
from lora_daemon.metering import Meter
from shared.foretelling import (
    Foretold,
    Spent,
    foretell,
    kind,
    latents,
    measuring,
    occasions,
    painted,
)
from shared.recipe import Recipe, convert

SET = {"name": "set", "flip": False}
PLAIN = convert({"dataset": SET})


def took(recipe: Recipe = PLAIN, batch: int = 1, seconds: float = 1.0, **fields: Any) -> Spent:
    """A run of 100 batches."""
    one = Spent(
        like=kind(recipe), device="cpu", dataset="set", loading=10.0, caching=8.0, cached=4,
        training=100 * seconds, batches=100, batch=batch, painting=0.0, painted=0,
        memory=1000 + 100 * batch,
    )  # fmt: skip
    return msgspec.structs.replace(one, **fields)


def told(past: list[Spent], steps: int = 50, pictures: int = 4, **sections: Any) -> Foretold:
    recipe = convert({"dataset": SET} | sections)
    return foretell(recipe, pictures, steps, 10, past)


def test_a_run_like_others_takes_as_long_and_as_much() -> None:
    assert told([took()]) == Foretold(10.0 + 8.0 + 50.0, 1100.0, True)
    assert told([]) == Foretold(None, None, False)
    assert told([took(), took(seconds=3.0), took(seconds=1.1), took(seconds=9.0)]).seconds == (
        pytest.approx(10.0 + 8.0 + 55.0)  # the middle of the newest three
    )
    other = msgspec.structs.replace(took(seconds=7.0), device="another")
    assert told([took(), other]) == told([took()])
    assert told([took(batches=4)]).seconds is None  # too short to say anything
    assert told([took(memory=0)]) == Foretold(68.0, None, True)  # nobody saw it
    assert told([took(memory=0), took()]).memory == 1100.0


def test_calls_of_the_denoiser_alone_are_told_from_steps_and_samples() -> None:
    assert measuring(PLAIN, 10, 100, []) is None
    assert measuring(convert({"base": {"name": "other"}}), 10, 100, [took()]) is None
    assert measuring(PLAIN, 10, 100, [took()]) == pytest.approx(100 * 0.25 + 10 * 0.375)
    four = took(batch=4, seconds=2.5)  # the same machine: half of a step goes with each picture
    assert measuring(PLAIN, 0, 100, [four]) == measuring(PLAIN, 0, 100, [took()])
    sampled = took(painting=30.0, painted=60)
    assert measuring(PLAIN, 10, 100, [sampled]) == pytest.approx(100 * 0.25 + 10 * 0.5)
    double = convert({"dataset": SET | {"resolution": 1024}})
    half = [took(convert({"dataset": SET | {"resolution": 512}}))]
    assert measuring(double, 0, 100, half) == pytest.approx(4 * 100 * 0.25)


def test_other_batches_lie_on_the_line_through_those_that_ran() -> None:
    past = [took(batch=1, seconds=1.0), took(batch=4, seconds=2.5)]
    for size, each, memory in ((1, 1.0, 1100.0), (2, 1.5, 1200.0), (8, 4.5, 1800.0)):
        training = {"batch_size": size, "accumulation": 2}
        found = told(past, training=training)
        assert found.seconds == pytest.approx(18.0 + 50 * 2 * each)
        assert found.memory == pytest.approx(memory) and found.alike
    alone = told([took()], training={"batch_size": 2})
    assert alone == Foretold(18.0 + 50 * 1.5, None, False)


@pytest.mark.parametrize(
    "sections",
    [
        {"base": {"quantize": "int8"}}, {"training": {"checkpointing": True}},
        {"training": {"compile": True}},
        {"dataset": SET | {"resolution": 256}}, {"loss": {
            "preservation": 0.5, "class_caption": "a thing"}},
        {"optimizer": {"text_encoder_rate": 1e-4}}, {"network": {"targets": ["to_q"]}},
    ],
)  # fmt: skip
def test_what_changes_a_step_is_another_kind(sections: dict[str, Any]) -> None:
    found = told([took()], **sections)
    assert found.seconds is not None and found.memory is None and not found.alike
    assert told([took()], base={"name": "another"}).seconds is None
    far = took(convert({"dataset": SET, "base": {"quantize": "fp8"}, "training": {
        "checkpointing": True, "num_processes": 2}}), seconds=9.0)  # fmt: skip
    assert told([far, took()], **sections) == found  # the nearest says it


def test_another_resolution_takes_as_long_as_its_area_is_larger() -> None:
    small, large = ({"dataset": SET | {"resolution": side}} for side in (128, 512))
    past = [took(convert(large), seconds=16.0, caching=64.0)]
    assert told(past, **small) == Foretold(10.0 + 4.0 + 50.0, None, False)


def test_latents_are_made_once_and_samples_cost() -> None:
    past = [took(caching=0.4), took(dataset="other", caching=8.0)]
    assert told(past).seconds == pytest.approx(60.4)  # its own are in the cache
    assert told(past, dataset={"name": "third", "flip": False}).seconds == pytest.approx(60 + 8)
    assert told(past, dataset={"name": "third", "flip": True}).seconds == pytest.approx(60 + 16)
    sample = {"prompts": ["a", "b"], "steps": 5, "cfg": 2.0, "every_epochs": 2, "every_steps": 25}
    recipe = convert({"sample": sample})
    assert (painted(recipe), occasions(recipe, 50, 10)) == (20, 5)  # at 0, 20, 25, 40 and 50
    paid = [took(painting=4.0, painted=8)]
    assert told(paid, sample=sample).seconds == pytest.approx(68 + 5 * 20 * 0.5)


def test_versions_are_counted_and_are_other_latents() -> None:
    crops = SET | {"random_crop": True, "versions": 5}
    past = [took(caching=0.4), took(caching=8.0)]
    assert told(past, dataset=crops).seconds == pytest.approx(60 + 5 * 8)  # not in the cache yet
    again = took(dataset=latents(convert({"dataset": crops})), caching=2.0, cached=20)
    assert told([again, *past], dataset=crops).seconds == pytest.approx(60 + 2)
    assert told([again, *past]).seconds == pytest.approx(60.4)
    moved = crops | {"color_jitter": 0.1}
    assert told([again, *past], dataset=moved).seconds == pytest.approx(60 + 5 * 8)


def test_a_meter_keeps_what_each_phase_took() -> None:
    clock = iter([0.0, 2.0, 5.0, 6.0, 10.0, 12.0, 14.0, 100.0, 101.0, 102.0, 103.0, 104.0])
    recipe = convert(
        {"dataset": SET, "sample": {"prompts": ["a"], "steps": 3}, "training": {"accumulation": 2}}
    )
    meter = Meter(lambda: next(clock))

    def phase(name: Any, done: int = 0, total: int = 0) -> None:
        meter.take(pipe.Phase(run="r1", phase=name, done=done, total=total), None)

    phase("caching", 0, 7)  # loading until 2
    phase("caching", 7, 7)
    phase("training", 10, 20)  # taken up at step 10; caching until 6
    tick = pipe.Tick(run="r1", step=20, steps=20, epoch=1, epochs=1, points=[], speed=1.0)
    meter.take(tick, pipe.Memory(allocated=5, cached=2, peak=6))
    phase("sampling", 0, 1)  # training until 10
    meter.take(pipe.SampleSaved(run="r1", step=20, path="", prompt="a", seed=1), None)
    phase("training", 20, 20)  # sampling until 12
    phase("paused")
    phase("saving", 20, 20)
    found = meter.spent(recipe, "cpu")
    assert (found.loading, found.caching, found.training, found.painting) == (3.0, 4.0, 6.0, 2.0)
    assert (found.cached, found.batches, found.painted, found.memory) == (7, 20, 6, 7)
    flipped = convert({"dataset": {**SET, "flip": True}})
    assert meter.spent(flipped, "cpu").cached == 14  # mirror images as well
    several = convert({"dataset": {**SET, "random_crop": True}})
    found = meter.spent(several, "cpu")
    assert found.cached == 7  # each version was one of those told
    assert found.dataset == latents(several) != "set"


def test_a_pause_is_not_time_at_work() -> None:
    clock = iter([0.0, 2.0, 5.0, 105.0, 106.0])
    meter = Meter(lambda: next(clock))
    for name in ("training", "paused", "training"):
        meter.take(pipe.Phase(run="r1", phase=name, done=0, total=9), None)  # type: ignore[arg-type]
    assert meter.at_work == 6.0
