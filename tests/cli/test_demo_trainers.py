"""What `lora-tui demo --trainers` trains, and what it says of the counts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lora_tui.commands.demo import Share
from lora_tui.commands.demo_trainers import PROMPTS, Result, Trained, between, reasons


def test_between_the_two_trainers_each_section_is_changed_alone() -> None:
    made = dict(between([]))
    first, last = made["lesson"], made["lesson-kohya"]
    for name, one in made.items():
        assert (one.base.name, one.dataset.resolution) == ("starter", 128)
        assert one.sample.prompts == PROMPTS
        assert (one.sample, one.save, one.evaluation) == (
            first.sample,
            first.save,
            first.evaluation,
        )
        apart = [
            field.name for field in msgspec.structs.fields(type(one))
            if getattr(one, field.name) != getattr(first, field.name) and field.name != "title"
        ]  # fmt: skip
        if "+" in name:
            (section,) = apart
            assert name == f"lesson + kohya's [{section}]"
            assert getattr(one, section) == getattr(last, section)
    told = {name.rpartition(" ")[2] for name in made if "+" in name}
    assert told == {
        "[dataset]", "[network]", "[optimizer]", "[schedule]", "[noise]", "[loss]", "[training]",
    }  # fmt: skip
    # Scaled alike: kohya's text encoder still learns at half of the UNet's rate.
    assert first.optimizer.learning_rate == last.optimizer.learning_rate
    assert last.optimizer.text_encoder_rate == last.optimizer.learning_rate / 2


def test_every_run_takes_what_is_set() -> None:
    short = ["training.max_steps=7", "schedule.warmup_steps=0"]
    assert {one.training.max_steps for _, one in between(short)} == {7}


def _trained(name: str, hits: int, low: float, high: float) -> Trained:
    share = Share(hits=hits, number=100, low=low, high=high)
    return Trained(
        name=name, run="r0001", steps=1, seconds=1.0, held=None, norm=None, creature=share, lora="l"
    )


def test_only_what_is_beyond_chance_is_given_as_a_reason() -> None:
    trained = [
        _trained("lesson", 20, 0.13, 0.29),
        _trained("lesson + kohya's [network]", 80, 0.71, 0.87),
        _trained("lesson + kohya's [noise]", 24, 0.17, 0.33),
        _trained("lesson-kohya", 90, 0.83, 0.94),
    ]
    result = Result(
        trained=trained, differences={}, without=trained[0].creature, sheet=str(Path("s.png"))
    )
    first, network, rest = reasons(result)
    assert first.startswith("lesson makes a creature in 20 of 100 pictures, lesson-kohya in 90")
    assert network == "[network] alone makes that 80."
    assert rest.startswith("[noise] alone: no difference beyond chance")
