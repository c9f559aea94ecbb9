"""Recipes from five answers: what users of the field would have written themselves."""

from __future__ import annotations

from typing import Any

import pytest

from shared import recipe
from shared.suited import KEPT, suited


def made(**changed: Any) -> recipe.Recipe:
    answers = {"teaches": "subject", "dataset": "dragons", "pictures": 25, "base": "sd15",
               "family": "sd1", "trigger": "drgn"}  # fmt: skip
    return suited(**answers | changed)


@pytest.mark.parametrize("pictures", [3, 10, 15, 40, 100, 833, 20_000])
@pytest.mark.parametrize("teaches", ["subject", "style"])
def test_pictures_seen_are_as_many_as_users_expect(pictures: int, teaches: str) -> None:
    one = made(pictures=pictures, teaches=teaches)
    seen = recipe.total_steps(one, pictures) * recipe.pictures_per_step(one)
    assert 300 <= seen <= max(3100, 1.05 * pictures)
    assert seen >= 800 or pictures < 8  # of so few, each is seen a hundred times and no more
    assert one.training.epochs / one.save.every_epochs <= KEPT


def test_what_it_is_to_learn_decides_rank_words_and_rates() -> None:
    assert (made().network.rank, made(pictures=6).network.rank) == (16, 8)
    assert made(teaches="style").network.rank == 32
    assert made().optimizer.text_encoder_rate == 5e-5
    assert made(family="sdxl").optimizer.text_encoder_rate == 0
    assert made(teaches="style", trigger="").dataset.caption_dropout == 0.1
    assert made().sample.prompts == ["drgn"] and made(trigger="").sample.prompts == []
    assert made().output.trigger == "drgn"
    assert made(base="starter").optimizer.learning_rate == 2e-3


def test_pictures_keep_their_shapes_where_that_is_said() -> None:
    assert made(buckets=True).dataset.enable_bucket and not made().dataset.enable_bucket


def test_effort_halves_and_doubles_the_epochs() -> None:
    quick, usual, thorough = (
        made(effort=effort).training.epochs for effort in ("quick", "usual", "thorough")
    )
    assert (quick, thorough) == (usual // 2, usual * 2)
