"""Edits of captions: what was asked is done, and not a character more."""

from __future__ import annotations

import random

import msgspec
import pytest

from shared import edits
from shared.edits import (
    AddFirst,
    AddTag,
    AnyEdit,
    DedupeTags,
    EditError,
    FirstTag,
    Prefix,
    RemoveTag,
    RenameTag,
    Replace,
    ReplaceRegex,
    SortTags,
    Suffix,
    Trigger,
    Underscores,
)

PROSE = "A girl with long hair, smiling, stands in a park. She holds a red ball."


def edited(edit: AnyEdit, text: str) -> str:
    return edits.editor([edit])(text)


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (AddTag("solo"), "1girl, red hair", "1girl, red hair, solo"),
        (AddTag("solo"), "1girl,red hair", "1girl,red hair,solo"),
        (AddTag("solo"), "1girl, SOLO ", "1girl, SOLO "),
        (AddTag("red  hair"), "1girl, Red hair", "1girl, Red hair"),
        (AddTag("solo"), "", "solo"),
        (AddTag("solo"), " \n", "solo"),
        (AddTag("solo"), "a, b,", "a, b, solo,"),
        (AddTag("solo"), "a\nb\n", "a\nb, solo\n"),
        (AddTag("龍"), "絵, 猫", "絵, 猫, 龍"),
        (AddFirst("龍"), " 絵, 猫", " 龍, 絵, 猫"),
        (AddFirst("solo"), PROSE, f"solo, {PROSE}"),
        (RemoveTag("b"), "a, b, c", "a, c"),
        (RemoveTag("b"), "a,b,c", "a,c"),
        (RemoveTag("a"), "a, b, c", "b, c"),
        (RemoveTag("c"), "a, b, c", "a, b"),
        (RemoveTag("c"), "a, b, c,", "a, b,"),
        (RemoveTag("B"), "a, b, c, b", "a, c"),
        (RemoveTag("a"), "a, A ,a", ""),
        (RemoveTag("b"), "a, b\nc", "a\nc"),
        (RemoveTag("a"), "x\na, b", "x\nb"),
        (RemoveTag("a"), "x\r\na\r\nb", "x\r\nb"),
        (RemoveTag("a"), "x\na", "x"),
        (RemoveTag("a"), "a, a\nb, a", "b"),
        (RemoveTag("smiling"), PROSE, PROSE.replace(", smiling", "")),
        (RemoveTag("girl"), PROSE, PROSE),
        (RemoveTag(r"miku \(vocaloid\)"), r"a, miku \(vocaloid\), b", "a, b"),
        (RemoveTag("miku (vocaloid)"), r"a, miku \(vocaloid\)", r"a, miku \(vocaloid\)"),
        (RenameTag("red", "blue"), "a,  red ,b", "a,  blue ,b"),
        (RenameTag("red", "blue"), "blue, a, red", "blue, a"),
        (RenameTag("red", "blue"), "red, a, Blue", "a, Blue"),
        (RenameTag("red", "Red"), "a, red, RED", "a, Red, Red"),
        (RenameTag("red", "blue"), "red hair, infrared", "red hair, infrared"),
        (FirstTag("c"), "a, b, C", "C, a, b"),
        (FirstTag("c"), "a,b,c", "c,a,b"),
        (FirstTag("a"), "a, b", "a, b"),
        (FirstTag("x"), "a, b", "a, b"),
        (FirstTag("c"), "a, b\nc, d", "c, a, b\nd"),
        (SortTags(), "c, a,B", "a, B,c"),
        (SortTags(keep=1), "trig, c, a", "trig, a, c"),
        (SortTags(), "b, a\nd, c", "a, b\nc, d"),
        (SortTags(), PROSE, PROSE),
        (SortTags(), f"b, a\n{PROSE}", f"a, b\n{PROSE}"),
        (DedupeTags(), "a, b, A, c, b", "a, b, c"),
        (DedupeTags(), "a\na", "a\na"),
        (DedupeTags(), "a, a, a", "a"),
        (DedupeTags(), "run, run.", "run, run."),
        (Replace("red", "blue"), "Red red, infrared", "Red blue, infrablue"),
        (Replace("RED", r"\1", any_case=True), "Red, red", r"\1, \1"),
        (Replace("(", r"\("), "a (b)", r"a \(b)"),
        (ReplaceRegex(r"(\w+) hair", r"\1-haired"), "red hair, a", "red-haired, a"),
        (ReplaceRegex(r"\bRED\b", "x", any_case=True), "red infrared", "x infrared"),
        (ReplaceRegex(r"(?P<n>\d)girls?", r"\g<n> woman"), "1girl", "1 woman"),
        (ReplaceRegex(r"\s+$", ""), "a \n", "a"),
        (Prefix("photo of "), "a cat", "photo of a cat"),
        (Prefix("photo of "), "photo of a cat", "photo of a cat"),
        (Suffix(", best"), "a\n", "a\n, best"),
        (Suffix("。"), "猫。", "猫。"),
        (Trigger("sks"), "a dog", "sks, a dog"),
        (Trigger("sks"), "a SKS dog", "a SKS dog"),
        (Trigger("sks"), "sksy, a", "sks, sksy, a"),
        (Trigger("c++"), "in c++, b", "in c++, b"),
        (Trigger("sks"), "", "sks"),
        (Underscores(), r"long_hair, ^_^, miku_\(v\), O_O", r"long hair, ^_^, miku \(v\), O_O"),
    ],
)  # fmt: skip
def test_an_edit_does_just_what_it_says(edit: AnyEdit, before: str, after: str) -> None:
    assert edited(edit, before) == after


def test_edits_follow_each_other() -> None:
    both = edits.editor([AddTag("solo"), FirstTag("solo"), Underscores()])
    assert both("red_hair") == "solo, red hair"


REPEATABLE: list[AnyEdit] = [
    AddTag("b b"), AddFirst("c"), RemoveTag("a"), RenameTag("a", "c"), FirstTag("c"), SortTags(),
    DedupeTags(), Prefix("x "), Suffix(" x"), Trigger("龍"), Underscores(),
]  # fmt: skip


@pytest.mark.parametrize("edit", REPEATABLE, ids=edits.told)
def test_made_twice_an_edit_has_done_nothing_more(edit: AnyEdit) -> None:
    """On odd texts too; and what is no comma, no line break and no tag of its own stays."""
    chance = random.Random(1)
    pieces = [*"aAbc龍🐉,\n \t.", "b  b", "a_b", "e\u0301", "\\(", ", ", " ,", "\r\n"]
    function = edits.editor([edit])
    for _ in range(2000):
        text = "".join(chance.choices(pieces, k=chance.randrange(12)))
        once = function(text)
        assert function(once) == once, text
        if not isinstance(edit, DedupeTags):
            assert once.count("🐉") == text.count("🐉"), text
        if isinstance(edit, RemoveTag | SortTags | DedupeTags | FirstTag):
            assert not set(once) - set(text) - set(", "), text


def test_a_removed_tag_is_gone_and_the_others_are_as_they_were() -> None:
    chance = random.Random(2)
    for _ in range(2000):
        pieces = ["a", "b", "c d", ",", ", ", "\n", " "]
        text = "".join(chance.choices(pieces, k=chance.randrange(14)))
        tags = [tag.strip() for line in text.split("\n") for tag in line.split(",")]
        left = edited(RemoveTag("a"), text)
        found = [tag.strip() for line in left.split("\n") for tag in line.split(",")]
        want = [tag for tag in tags if tag and tag != "a"]
        assert [tag for tag in found if tag] == want, text


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (AddTag(" "), "missing"),
        (AddTag("a, b"), "more than one tag"),
        (RenameTag("a", "b\nc"), "more than one tag"),
        (Replace("", "x"), "which text"),
        (ReplaceRegex("(", "x"), "makes no sense"),
        (ReplaceRegex("a", r"\1"), "first parentheses"),
        (ReplaceRegex("a", r"\g<n>"), "first parentheses"),
        (Prefix(""), "missing"),
        (Suffix("a\0"), "NUL"),
        (Suffix("x" * 3000), "At most 2000"),
        (Suffix("\udcff"), "no valid text"),
        (Trigger("\n"), "trigger word"),
        (SortTags(keep=-1), "0 or more"),
    ],
)  # fmt: skip
def test_an_edit_that_makes_no_sense_is_refused_in_words(edit: AnyEdit, said: str) -> None:
    with pytest.raises(EditError, match=said):
        edits.editor([edit])


def test_a_list_too_long_is_refused() -> None:
    with pytest.raises(EditError, match="At most 20 edits"):
        edits.editor([SortTags()] * 21)


def test_thousands_of_tags_take_no_time() -> None:
    many = "a," * 16_000
    assert edited(DedupeTags(), many) == "a,"
    assert edited(RemoveTag("a"), many) == ""


def test_every_edit_travels_and_has_its_words() -> None:
    for kind in edits.KINDS.values():
        edit = kind.make(*["x"] * len(kind.arguments))
        again = msgspec.json.decode(msgspec.json.encode(edit), type=edits.AnyEdit)
        assert again == edit
        assert edits.told(edit).startswith(kind.label)
    assert edits.told(RenameTag("red", "b" * 50)) == f"rename tag “red” “{'b' * 39}…”"
