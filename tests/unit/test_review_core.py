"""What Review thinks with: a caption in tags, what is being typed, the pace."""

from __future__ import annotations

import pytest

from lora_tui.core.chips import ChipRow
from lora_tui.core.completion import news, still, typed
from lora_tui.core.pace import Pace
from shared.wire import TagCount


def test_tags_that_are_off_stay_so_wherever_they_go() -> None:
    row = ChipRow("a, b,  c\nd")
    assert row.current == "d"
    row.go(1)
    row.toggle()  # b
    row.shift(1)
    assert (row.text, row.result, row.cursor) == ("a, c,  b\nd", "a, c\nd", 2)
    row.go(-5)
    row.remove()
    assert (row.text, row.result) == ("c,  b\nd", "c\nd")
    row.put("x, y")
    assert (row.text, row.result, row.current) == ("x, y,  b\nd", "x, y\nd", "y")
    row.add(" B , z ")  # it is there: on again
    assert (row.result, row.current) == ("x, y,  b\nd, z", "z")
    row.put(" , ")
    assert (row.text, row.current) == ("x, y,  b\nd", "d")
    row.shift(1)
    assert row.current == "d"


def test_an_empty_caption_has_no_tag_until_one_is_added() -> None:
    row = ChipRow("")
    row.toggle()
    row.remove()
    row.shift(-1)
    row.put("x")
    assert (row.current, row.result) == ("", "")
    row.add("x")
    row.toggle()
    assert (row.text, row.result) == ("x", "")


@pytest.mark.parametrize(
    ("line", "column", "wanted"),
    [
        ("red, gre", 8, "gre"), ("red, gre, x", 8, "gre"), ("red, gre", 7, ""), ("red", 3, "red"),
        ("red,", 4, ""), ("", 0, ""), ("w " * 40, 80, ""), ("dark gre", 8, "dark gre"),
    ],
)  # fmt: skip
def test_the_tag_that_is_being_typed(line: str, column: int, wanted: str) -> None:
    assert typed(line, column) == wanted


def test_suggestions_are_what_goes_on_and_is_new() -> None:
    tags = [TagCount(tag=tag, count=1) for tag in ("red_hair", "dark red", "Red Hat", "blue")]
    assert [tag.tag for tag in still(tags, "red h")] == ["red_hair", "Red Hat"]
    assert [tag.tag for tag in still(tags, "RED")] == ["red_hair", "dark red", "Red Hat"]
    assert still(tags, "") == []
    assert [tag.tag for tag in news(tags, "Blue", ["red  hat"])] == ["red_hair", "dark red"]


def test_a_pause_is_not_work() -> None:
    pace = Pace()
    for at in (0.0, 4.0):
        pace.did(at)
    assert pace.seconds is None
    pace.did(6.0)
    assert pace.seconds == 3.0
    pace.did(1000.0)
    pace.did(1003.0)
    assert pace.seconds == 3.0
