"""A sweep typed into the Train form: its values, what is wrong with them, what all runs come to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lora_tui.core.form import Form
from lora_tui.core.form_sweep import Axes, toml
from lora_tui.core.train_sums import by_the_clock, files, resolved, sums
from shared import recipe as recipes
from shared import sweeps, wire
from shared.foretelling import Spent, kind
from tests.fixtures.make_workspace import BASE, LORA, RUN


def axes(**texts: str) -> Axes:
    made = Axes(Form(recipes.parse("[training]\nmax_steps = 40\n")))
    made.texts = {key.replace("__", "."): text for key, text in texts.items()}
    return made


def test_values_of_every_kind_of_field_become_the_recipes_they_say() -> None:
    found = axes(
        network__rank="4, 8", optimizer__learning_rate="1e-4, .0002", schedule__kind="cosine",
        dataset__flip="yes,no", sample__prompts='a dog | a cat, ["a, b"]',
        sample__sampler="Euler a",
    ).runs()  # fmt: skip
    assert len(found) == 16
    last = found[-1].recipe
    assert (last.network.rank, last.optimizer.learning_rate, last.dataset.flip) == (8, 2e-4, False)
    assert (last.schedule.kind, last.sample.sampler) == ("cosine", "Euler a")
    assert found[0].recipe.sample.prompts == ["a dog", "a cat"]
    assert last.sample.prompts == ["a, b"]
    assert "optimizer.learning_rate=1e-4" in found[0].settings  # a run's name is as it was typed


def test_text_that_toml_would_read_otherwise_is_quoted() -> None:
    options = {option.key: option for option in recipes.options()}
    trigger = options["output.trigger"]
    assert toml(trigger, "sks dog") == "sks dog"
    for piece in ("42", "true", "a=b", "1-2"):
        [setting] = sweeps.swept("", [f"output.trigger={toml(trigger, piece)}"])
        assert setting.recipe.output.trigger == piece


@pytest.mark.parametrize(
    ("texts", "key", "words"),
    [
        ({"network.rank": "4, x"}, "network.rank", "x: must be a whole number"),
        ({"network.rank": "4,,8"}, "network.rank", "a value is missing"),
        ({"network.rank": " "}, "network.rank", "no value yet"),
        ({"network.rank": "4, 8, 4"}, "network.rank", "4 is there twice"),
        ({"dataset.flip": "yes, maybe"}, "dataset.flip", "maybe: must be true or false"),
        ({"schedule.kind": "cosine, cosin"}, "schedule.kind", "cosin: must be one of"),
        (
            {"training.seed": "1,2", "schedule.warmup_steps": "0,50"}, "schedule.warmup_steps",
            "last the whole run",
        ),
        ({"training.seed": ",".join(map(str, range(65)))}, "training.seed", "at most 64"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_the_field_that_holds_it(
    texts: dict[str, str], key: str, words: str
) -> None:
    made = axes()
    made.texts = texts
    found = made.problems()
    assert list(found) == [key]
    assert words in found[key]


def test_an_option_that_another_one_reads_is_swept_beside_it() -> None:
    made = axes(dataset__versions="4, 8")
    assert "read only with" in made.problems()["dataset.versions"]
    made._form.texts["dataset.random_crop"] = "yes"
    assert made.problems() == {}
    assert [one.recipe.dataset.versions for one in made.runs()] == [4, 8]


def run(number: int, **fields: Any) -> wire.Run:
    return msgspec.structs.replace(RUN, created=float(number), base="starter", **fields)


def test_minutes_and_megabytes_are_summed_over_all_runs() -> None:
    made = [one.recipe for one in axes(network__rank="4, 8", training__max_steps="40, 20").runs()]
    lora = msgspec.structs.replace(LORA, base="starter", rank=8, size=1000, run="r0001", problem="")
    took = Spent(
        like=kind(resolved(made[0], [BASE])), device="cpu", dataset="", loading=5.0, caching=0.0,
        cached=0, training=25.0, batches=100, batch=1, painting=0.0, painted=0, memory=700,
    )  # fmt: skip
    past = [run(1, spent=took), run(2), run(3, spent=msgspec.structs.replace(took, batches=4))]
    found = sums(made, 100, (), past, [lora], [BASE])
    assert (found.runs, found.steps, found.shortest, found.longest) == (4, 120, 20, 40)
    assert found.seconds == 4 * 5.0 + 120 * 0.25 and found.alike
    two = sums(made, 100, (), past, [lora], [BASE], gpus=2)
    assert two.seconds == 25.0  # 15 and then 10; 10 and then 15
    assert found.memory == 700
    assert found.bytes == 2 * 500 + 2 * 1000
    unknown = sums(made, 100, (), [], [], [])
    assert unknown.seconds is None and unknown.bytes is None


def test_by_the_clock_a_run_waits_for_as_many_gpus_as_it_takes() -> None:
    assert by_the_clock([(10, 1), (4, 1), (4, 1), (3, 1)], 2) == 11  # 10; 4, 4, 3
    assert by_the_clock([(10, 1), (4, 2), (1, 1)], 2) == 15  # the second waits for both
    assert by_the_clock([(10, 8)], 2) == 10  # more than there are: all


def test_kept_files_are_counted_as_the_run_keeps_them() -> None:
    recipe = recipes.parse("[save]\nevery_epochs = 1\nevery_steps = 15\n")
    assert files(recipe, 40, 10) == 5  # 10, 15, 20, 30 (once), and the end
    assert files(recipes.parse(""), 40, 10) == 1
