"""``run move``: one way to say where to, and only one."""

from __future__ import annotations

import pytest

from lora_tui.cli import parser


def test_a_run_is_moved_by_a_word_or_before_another_run() -> None:
    assert parser().parse_args(["run", "move", "r0009", "first"]).move == "first"
    before = parser().parse_args(["run", "move", "r0009", "--before", "r0007"])
    assert (before.before, before.move) == ("r0007", None)


@pytest.mark.parametrize("rest", [[], ["first", "--before", "r0007"], ["middle"]])
def test_neither_or_both_is_wrong_usage(rest: list[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "move", "r0009", *rest])
