"""The weight to begin with: the earliest that cannot be told from the best."""

from __future__ import annotations

import pytest

from shared.weighing import Advised, advised


def found(*effects: list[float], plain: list[float] | None = None) -> Advised:
    """Pictures at 0.5, 1.0, 1.5, …, with more drift at each."""
    weights = [0.5 * (at + 1) for at in range(len(effects))]
    pairs = list(zip(weights, effects, strict=True))
    return advised(
        "b", ["a cat"], plain or [0.0] * len(effects[0]), pairs, [0.1 * w for w in weights]
    )


def test_the_earliest_that_is_nearly_as_good_is_taken() -> None:
    told = found([1.0, 1.1, 0.9], [1.9, 2.0, 2.1], [2.0, 2.1, 2.2], [0.5, 0.4, 0.3])
    assert told.weight == 1.0
    assert "95% of that at 1.5, and 10% drift on unrelated prompts in place of 15%" in told.reason


def test_chance_is_no_difference() -> None:
    """The best is ahead by more than a tenth, by one picture alone."""
    assert found([1.0, 1.0, 1.0], [1.0, 1.0, 2.0]).weight == 0.5
    assert found([1.0, 1.0, 1.0], [1.3, 1.4, 1.3]).weight == 1.0


def test_what_the_base_shows_by_itself_is_not_its_effect() -> None:
    told = found([1.0], [3.0], plain=[0.8])
    assert [one.effect for one in told.weights] == pytest.approx([0.2, 2.2])


def test_what_is_not_known_is_said() -> None:
    assert "still grows there" in found([1.0], [2.0]).reason
    assert "another base" in found([-2.0], [-1.0]).reason
