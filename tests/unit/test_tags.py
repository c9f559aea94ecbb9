"""Tags in a caption: told from sentences, moved and taken out with all else as it stands."""

from __future__ import annotations

import pytest

from lora_tui.core.offers import parts, taken
from shared import tags


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("dragon, solo, white background", True),
        ("1girl,solo\nlong_hair", True),
        ("龍, 赤い髪", True),
        ("dragon", None),
        ("", None),
        ("a drawing of a green dragon with small wings, white background", False),
        ("A dragon, green.", False),
        ("masterpiece, a girl who stands in a wide field of flowers", False),
    ],
)
def test_a_list_is_told_from_sentences(text: str, wanted: bool | None) -> None:
    assert tags.is_list(text) is wanted


def test_two_tags_change_places_and_nothing_else_moves() -> None:
    text = " a,  big b ,\nc,"
    assert tags.swap(text, 0, 1) == " big b,  a ,\nc,"
    assert tags.swap(text, 2, 0) == " c,  big b ,\na,"
    assert tags.swap(text, 1, 1) == text
    assert tags.put(text, 1, "x (y)") == " a,  x (y) ,\nc,"
    assert tags.without(text, {0, 2}) == " big b,"
    assert tags.without(text, {0, 1, 2}) == ""


def test_words_are_compared_whatever_stands_between_them() -> None:
    assert tags.plain(" Red_Hair (dark)") == "red hair dark" == tags.plain("red-hair dark")


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("a red dragon with wings", "a small blue dragon with wings", [("red", "small blue")]),
        ("dragon, solo", "dragon, solo, wings", [("", ", wings")]),
        ("one two three", "1 2 three", [("one two", "1 2")]),
        ("", "a dragon", [("", "a dragon")]),
        ("赤い髪, solo", "青い髪, solo", [("赤い髪", "青い髪")]),
    ],
)
def test_a_difference_is_taken_part_by_part(
    old: str, new: str, changed: list[tuple[str, str]]
) -> None:
    found = parts(old, new)
    assert [(part.old, part.new) for part in found if not part.same] == changed
    assert taken(found, ()) == old
    assert taken(found, range(len(found))) == new


def test_one_part_alone() -> None:
    found = parts("a red dragon, solo", "a blue dragon, two heads")
    first = next(n for n, part in enumerate(found) if not part.same)
    assert taken(found, [first]) == "a blue dragon, solo"
