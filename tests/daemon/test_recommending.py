"""Which checkpoint is said to be the one: the rule, its reason, and what is said besides."""

from __future__ import annotations

import random

import pytest

from lora_daemon.measurements import Measurable, Record, evenly, measurements, without
from lora_daemon.recommending import BASE, Judgement, Measurement, gain, judge, spread


def curve(
    held: dict[int, float], train: dict[int, float] | None = None, noise: float = 0.002,
    pictures: int = 16, **more: float,
) -> dict[str, Measurement]:  # fmt: skip
    """Losses by step (0: the bare base) of pictures that are differently hard, with chance of
    their own in each."""
    rng = random.Random(3)
    hard = [rng.uniform(0.05, 0.5) for _ in range(pictures)]

    def losses(level: float) -> list[float]:
        return [own + level + rng.gauss(0, noise) for own in hard]

    found = {}
    for step, level in held.items():
        name = BASE if not step else f"step {step}"
        found[name] = Measurement(
            name=name, step=step, held=losses(level),
            train=losses((train or held)[step]), **more,
        )  # fmt: skip
    return found


def test_the_earliest_that_cannot_be_told_from_the_best_is_taken() -> None:
    flat = {0: 0.0, 100: -0.03, 200: -0.0498, 300: -0.05, 400: -0.0499}
    told = judge(curve(flat, noise=0.004))
    assert told.recommended == "step 200"
    assert set(told.tied) >= {"step 200", told.best} and "step 100" not in told.tied
    assert told.best in told.reason and "16 pictures" in told.reason


def test_losses_are_compared_picture_by_picture() -> None:
    """Pictures differ by far more than checkpoints do: unpaired, all would be tied."""
    measured = curve({0: 0.0, 100: -0.02, 200: -0.03}, noise=0.001)
    assert spread(measured["step 200"].held).error > 0.02
    assert judge(measured).tied == ["step 200"]


def test_over_fitting_is_seen_and_said() -> None:
    held = {0: 0.0, 100: -0.05, 200: -0.02, 300: 0.01}
    train = {0: 0.0, 100: -0.05, 200: -0.09, 300: -0.12}
    told = judge(curve(held, train))
    assert told.recommended == "step 100"
    assert any("over-fitting" in note for note in told.notes)
    calm = judge(curve({0: 0.0, 100: -0.02, 200: -0.05}))
    assert calm.recommended == "step 200"
    assert any("longer run" in note for note in calm.notes)
    assert not any("over-fitting" in note for note in calm.notes)


def test_an_average_has_to_be_better_than_every_single_one() -> None:
    measured = curve({0: 0.0, 100: -0.04, 200: -0.05, 300: -0.045})
    steps = "average of steps 100, 200, 300"
    for gained, taken in ((0.0, "step 200"), (0.01, steps)):
        best = [loss - gained for loss in measured["step 200"].held]
        more = Measurement(name=steps, step=300, average=True, held=best, train=best)
        told = judge({**measured, steps: more})
        assert told.recommended == taken
        assert all(name != steps for name in told.tied)


def test_nothing_is_said_before_there_is_something_to_say() -> None:
    assert judge({}) == Judgement()
    assert judge(curve({0: 0.0})) == Judgement()
    measured = curve({0: 0.0, 100: -0.1})
    assert judge({"step 100": measured["step 100"]}) == Judgement()
    assert gain({"step 100": measured["step 100"]}, "step 100", "held") is None


def test_one_whose_turn_has_not_come_keeps_no_other_from_being_judged() -> None:
    measured = curve({0: 0.0, 100: -0.04, 200: -0.05})
    measured["step 300"] = Measurement(name="step 300", step=300)
    measured["step 400"] = Measurement(name="step 400", step=400, held=measured["step 100"].held)
    told = judge(measured)
    assert told.recommended == "step 200" and "step 300" not in told.behind


def test_few_pictures_kept_back_are_called_few() -> None:
    told = judge(curve({0: 0.0, 100: -0.04, 200: -0.05}, pictures=2))
    assert any("Only 2 of the pictures" in note for note in told.notes)


def test_what_does_not_carry_over_is_called_so() -> None:
    told = judge(curve({0: 0.0, 100: 0.01}, {0: 0.0, 100: -0.1}))
    assert any("does not carry over" in note for note in told.notes)


def test_without_pictures_kept_back_it_says_what_cannot_be_known() -> None:
    measured = {
        name: Measurement(name=name, step=one.step, train=one.train)
        for name, one in curve({0: 0.0, 100: -0.05, 200: -0.09, 300: -0.1}).items()
    }
    told = judge(measured)
    assert told.recommended == "step 200"
    assert "no picture was kept back" in told.reason
    assert any("over-fitting cannot be measured" in note for note in told.notes)


def test_a_checkpoint_alone_is_not_said_to_be_the_best_of_several() -> None:
    kept_back = curve({0: 0.0, 60: -0.36})
    none = {
        name: Measurement(name=name, step=one.step, train=one.train)
        for name, one in kept_back.items()
    }
    for told in (judge(kept_back), judge(none)):
        assert told.recommended == "step 60"
        assert "only checkpoint kept and measured" in told.reason
        assert "nothing to choose between" in told.reason
        assert "earliest" not in told.reason and "lowest" not in told.reason


def test_copying_and_a_leak_are_told() -> None:
    told = judge(curve({0: 0.0, 100: -0.1}, nearness=3.5, leak=0.97))
    assert any("may copy" in note for note in told.notes)
    assert any("without the trigger word" in note for note in told.notes)
    assert len(judge(curve({0: 0.0, 100: -0.1}, nearness=0.5, leak=0.4)).notes) == 0


def test_the_spread_is_that_of_the_mean() -> None:
    rng = random.Random(1)
    values = [rng.gauss(2.0, 1.0) for _ in range(100)]
    found = spread(values)
    assert 0.08 < found.error < 0.12
    assert found.low < 2.0 < found.high
    assert spread([0.5]).error == 0.0


def test_a_caption_without_its_trigger_word_has_no_gap() -> None:
    assert without("a drgn, in the snow", "drgn") == "a, in the snow"
    assert without("drgn, red, wings", "DRGN") == "red, wings"
    assert without("wings, drgn", "drgn") == "wings"
    assert without("dragon wings", "drag") == "dragon wings"


def test_some_of_many_are_taken_evenly_and_the_last_is_among_them() -> None:
    assert evenly(range(10), 16) == list(range(10))
    some = evenly(range(1, 101), 4)
    assert some == [25, 50, 75, 100]


def test_every_stretch_of_timesteps_counts_alike() -> None:
    """What is won where the loss is large anyway does not hide what is lost where it is small."""
    rows = {0: [[0.8, 0.01], [0.4, 0.03]], 10: [[0.7, 0.02], [0.35, 0.06]], 20: [[0.8, 0.005], []]}
    records = {
        Measurable(f"step {step}", step): Record(plan="", files=[], rows={"held": found})
        for step, found in rows.items()
    }
    losses = {name: list(one.held) for name, one in measurements(records).items()}
    assert losses["step 0"] == [1.0]  # the second picture is lacking in one of them
    assert losses["step 10"] == pytest.approx([(0.7 / 0.8 + 2.0) / 2])
    assert losses["step 20"] == pytest.approx([(1.0 + 0.5) / 2])
    del records[Measurable("step 0", 0)]
    assert all(not one.held for one in measurements(records).values())
