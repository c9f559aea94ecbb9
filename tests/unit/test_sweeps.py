"""Sweeps: values of options become a recipe each, all of them checked."""

from __future__ import annotations

import pytest

from shared import sweeps
from shared.errors import LoraError


def test_several_axes_multiply_and_the_last_changes_fastest() -> None:
    found = sweeps.swept("", ["network.rank=4,8", "optimizer.learning_rate=1e-4, 5e-5"])
    told = [(one.recipe.network.rank, one.recipe.optimizer.learning_rate) for one in found]
    assert told == [(4, 1e-4), (4, 5e-5), (8, 1e-4), (8, 5e-5)]
    assert found[1].settings == ["network.rank=4", "optimizer.learning_rate=5e-5"]
    assert sweeps.short(found[1].settings) == "rank=4 learning_rate=5e-5"


def test_a_comma_in_brackets_or_quotes_divides_nothing() -> None:
    key, values = sweeps.axis('network.targets=["to_q","to_k"],["to_v"]')
    assert (key, values) == ("network.targets", ['["to_q","to_k"]', '["to_v"]'])
    assert sweeps.axis('output.trigger="a, b",c')[1] == ['"a, b"', "c"]
    assert sweeps.short(["noise.offset=0.05"]) == "offset=0.05"


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        (["network.rank=4,none"], "network.rank=none: network.rank must be a whole number"),
        (["network.rnak=4,8"], "Did you mean network.rank"),
        (["network.rank=4,,8"], "KEY=VALUE,VALUE"),
        (["network.rank"], "KEY=VALUE,VALUE"),
        (["network.rank=4,4"], "a value twice"),
        (["network.rank=4", "network.rank=8"], "an option twice"),
        (["training.seed=" + ",".join(map(str, range(65)))], "65 runs; at most 64"),
        (["schedule.warmup_steps=0,50", "training.max_steps=40"], "would last the whole run"),
        ([], "an option and its values"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_by_its_value(sweep: list[str], words: str) -> None:
    with pytest.raises(LoraError, match=words):
        sweeps.swept("", sweep)
