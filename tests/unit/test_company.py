"""What LoRAs are foretold to lose, and in which words."""

from __future__ import annotations

from shared import company


def test_a_loss_is_what_is_missing_of_what_is_shown_alone() -> None:
    assert company.loss(alone=0.4, mixed=0.4, base=-0.1) == 0.0  # as much of it as alone
    assert company.loss(alone=0.4, mixed=-0.1, base=-0.1) == 1.0  # as little as in the base's
    assert company.loss(alone=0.4, mixed=0.65, base=-0.1) == -0.5  # the others help it
    assert company.loss(alone=0.01, mixed=-0.3, base=0.0) is None  # it does not know its own


def test_who_loses_beside_whom_is_said() -> None:
    assert company.sentence(["ink", "pencil"], [0.234, -0.1]) == (
        "Beside pencil, ink is foretold to lose 23% of what it shows alone; beside ink, pencil is "
        "foretold to show 10% more than alone."
    )
    three = company.sentence(["a", "b", "c"], [0.001, None, 1.0])
    assert "Beside b and c, a is foretold to lose nothing of what it shows alone; " in three
    assert "beside a and c, b shows too little alone to foretell anything; " in three
