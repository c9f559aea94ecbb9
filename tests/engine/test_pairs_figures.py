"""The campaign over pairs of LoRAs: its arithmetic, and what it asks for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.pairs import figures
from bench.pairs.figures import Told
from bench.pairs.plan import LORAS, STRENGTHS, Group, pairs
from bench.pairs.training import file_of
from lora_daemon.starter import world
from lora_daemon.starter.evaluate import spearman


def told(loss: float, count: int = 80, noise: float = 1.0, seed: int = 0) -> Told:
    """A LoRA that takes margins from −2 to 4, and loses this much of it in the mix."""
    draw = np.random.default_rng(seed)
    scene = draw.normal(0, noise, count)  # what a prompt and a seed bring to every arm
    own = draw.normal(0, noise / 4, (3, count))
    means = (-2.0, 4.0, 4.0 - 6.0 * loss)
    margins = [mean + scene + one for mean, one in zip(means, own, strict=True)]
    return Told(*margins, other=margins[0])


def test_the_loss_is_a_share_of_what_a_lora_does_alone() -> None:
    base, solo, mix = np.full(4, -2.0), np.array([3.0, 5.0, 4.0, 4.0]), np.full(4, 1.0)
    assert Told(base, solo, mix, base).loss == pytest.approx(0.5)
    assert Told(base, solo, solo, base).loss == 0
    assert Told(base, solo, 2 * solo - base, base).loss == pytest.approx(-1)  # doubled
    assert math.isnan(
        Told(base, base + 0.5, mix, base).loss
    )  # alone it shows nothing: nothing to lose


def test_what_the_other_lora_brings_by_itself_is_no_loss_of_this_one() -> None:
    base, solo, mix, other = (np.full(4, one) for one in (-2.0, 4.0, 3.0, -4.0))
    one = Told(base, solo, mix, other)
    assert one.loss == pytest.approx(1 / 6)  # it takes 2 by itself, and there is 1 more than that
    assert one.apart == pytest.approx(-1 / 6)


def test_arms_of_which_fewer_pictures_are_there_are_compared_over_those() -> None:
    mix = np.array([1.0, 1.0, 1.0, 1.0, -9.0])
    one = Told(np.full(9, -2.0), np.full(4, 4.0), mix, np.full(9, -2.0))
    assert len(one) == 4
    assert one.loss == pytest.approx(0.5)
    assert one.halves() == pytest.approx((0.5, 0.5))


def test_the_interval_holds_the_loss_and_narrows_with_pictures() -> None:
    few, many = told(0.4, 40), told(0.4, 640)
    widths = []
    for one in (few, many):
        low, high = one.interval()
        assert low < one.loss < high
        widths.append(high - low)
    assert 2 < widths[0] / widths[1] < 8  # √16


def test_ranks_that_are_shared_are_shared() -> None:
    first, second = [0.3, 0.1, 0.2, 0.2, 0.9, 0.0], [3.0, 1.0, 1.0, 2.0, 2.0, 0.0]
    assert figures.spearman(first, second) == pytest.approx(spearman(first, second))
    assert figures.spearman([1, 2, 3], [10, 30, 900]) == pytest.approx(1)
    assert math.isnan(figures.spearman([1, 1], [1, 2]))


def test_losses_that_are_all_noise_are_not_reliable() -> None:
    clear = [told(loss / 10, seed=loss) for loss in range(10)]
    noise = [told(0.5, seed=seed, count=20) for seed in range(40)]
    assert figures.reliability(clear) > 0.95
    assert abs(figures.reliability(noise)) < 0.6


def test_a_score_is_held_against_pairs_drawn_again() -> None:
    good = [(told(at / 20, seed=at), at / 20) for at in range(20)]
    low, high = figures.interval_of(good)
    assert 0.9 < low <= high <= 1
    chance = [(one, float(7 * at % 20)) for at, (one, _) in enumerate(good)]
    low, high = figures.interval_of(chance)
    assert low < 0.3 < high - low


def test_what_is_chosen_on_one_half_is_scored_on_the_other() -> None:
    """b is best on the even seeds, a on the odd ones."""
    gains = {("a", 0): 0.1, ("a", 1): 0.9, ("b", 0): 0.8, ("b", 1): 0.2}
    assert figures.crossed(["a", "b"], lambda one, half: gains[one, half]) == ("a", "b")


def test_what_is_won_back_is_a_share_of_what_plain_weights_lose() -> None:
    assert figures.won_back(0.75, 0.5) == pytest.approx(0.5)
    assert figures.won_back(0.4, 0.5) < 0
    assert math.isnan(figures.won_back(1.0, 0.95))
    base, solo = np.full(6, 0.0), np.full(6, 4.0)
    arm = np.array([1.0, 3.0, 1.0, 3.0, 1.0, 3.0])
    assert [figures.kept(Told(base, solo, arm, base), half) for half in (0, 1)] == [0.25, 0.75]


def test_obedience_counts_every_attribute_that_was_asked() -> None:
    rows = [{"object": True, "colour": False}, {"object": True, "colour": True}]
    assert figures.obeyed(rows) == 0.75
    assert math.isnan(figures.obeyed([]))


def test_no_lora_of_the_development_part_is_tested() -> None:
    names = [taught.name for part in LORAS.values() for taught in part]
    assert len(set(names)) == len(names)
    assert len(pairs("test")) * 2 >= 40  # directed values
    shows = {taught.shows for taught in LORAS["test"]}
    assert shows == {*world.CONTENTS, *world.STYLES}
    assert {taught.kind for taught in LORAS["test"]} >= {"lora", "dora", "loha"}
    assert STRENGTHS[0] == (1.0, 1.0)


def test_prompts_do_not_depend_on_how_many_are_asked() -> None:
    group = Group("ghost", "neon")
    assert group.asked(8)[:3] == group.asked(3)
    assert all(words.startswith("a neon drawing of a") for words, _ in group.asked(8))
    assert {wanted[0] for _, wanted in group.asked(8)} == {"ghost"}
    assert not any(wanted[1] in words for words, wanted in Group("ghost", "pencil").asked(8))
    assert {wanted[0] for _, wanted in Group("", "neon").asked(8)} <= {*world.OBJECTS}


def test_another_recipe_is_another_file() -> None:
    taught = LORAS["test"][0]
    assert file_of(Path("work"), taught) == file_of(Path("work"), replace(taught))
    assert file_of(Path("work"), taught) != file_of(Path("work"), replace(taught, steps=1))
