"""What captions have together, near duplicates, advice: pure functions, tested directly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lora_daemon.advice import Known, advice
from lora_daemon.caption_facts import facts_of, twins
from lora_daemon.near import groups
from shared.edits import Trigger, has_word
from shared.filters import parse
from shared.health import KINDS, shown


def marked_in(marks: bytes) -> list[int]:
    return [row for row, mark in enumerate(marks) if mark]


@pytest.mark.parametrize(
    ("slip", "tag"),
    [
        ("bleu eyes", "blue eyes"), ("gren eyes", "green eyes"), ("bluee eyes", "blue eyes"),
        ("blie eyes", "blue eyes"), ("blue_eyes", "blue eyes"), ("blueeyes", "blue eyes"),
    ],
)  # fmt: skip
def test_a_slip_of_the_keyboard_is_found(slip: str, tag: str) -> None:
    assert twins(Counter({tag: 40, slip: 2, "wings": 40})) == [(slip, tag, 40)]


@pytest.mark.parametrize(
    ("rare", "frequent"),
    [
        ("night", "light"), ("1girl", "2girls"), ("3girls", "2girls"), ("eye", "eyes"),
        ("cat", "hat"), ("green eyes", "blue eyes"), ("blue eyes", "eyes"),
    ],
)  # fmt: skip
def test_another_word_is_no_slip(rare: str, frequent: str) -> None:
    assert twins(Counter({frequent: 40, rare: 1})) == []


def test_a_frequent_tag_is_no_slip_of_another() -> None:
    assert twins(Counter({"smile": 20, "smiles": 6, "smale": 6})) == []


def rows(*captions: str) -> list[tuple[int, str, str, str, int]]:
    return [
        (n, f"{n}.png", text, f",{text.replace(', ', ',')}," if text else "", 0)
        for n, text in enumerate(captions)
    ]


def test_tags_are_counted_in_lists_and_not_in_sentences() -> None:
    lists = ["solo, dragon, wings", *["solo, dragon, wings, sky"] * 9, "solo, dragon, wigns"]
    prose = ["A dragon flies, over the sea, under clouds.", "one dragon in a very long line of it"]
    facts = facts_of(rows(*lists, *prose), "")
    assert (facts.captions, facts.lists) == (13, 11)
    assert facts.everywhere == [("solo", 11), ("dragon", 11), ("wings", 10)]
    assert facts.twins == [("wigns", "wings", 10)]
    assert facts.once == []  # the slip is told as one
    assert marked_in(facts.marks["tag-twin"]) == [10]
    assert marked_in(facts.marks["tag-everywhere"]) == list(range(11))


def test_the_trigger_word_is_missing_exactly_where_the_edit_would_put_it() -> None:
    captions = ["sks dragon", "SKS, dragon", "sksy dragon", "a dragon", "(sks)", "x_sks", "s k s"]
    captions += ["龍sks", "sks、龍", "sksy sks", ""]
    facts = facts_of(rows(*captions), "sks")
    put = Trigger("sks").function()
    changed = [n for n, text in enumerate(captions) if text and put(text) != text]
    assert marked_in(facts.marks["no-trigger"]) == changed == [2, 3, 5, 6, 7]
    assert has_word("a b")("x A B y") and not has_word("a b")("ab")


def test_names_that_share_a_caption_file() -> None:
    found = [(1, "a/x.png"), (2, "a/x.jpg"), (3, "b/x.png"), (4, "a/y.png"), (5, "a/Y.png")]
    facts = facts_of([(row, name, "", "", 0) for row, name in found], "")
    assert marked_in(facts.marks["stem"]) == [1, 2, 4, 5] and facts.stems == ["a/x.png", "a/y.png"]


def test_rejected_pictures_count_for_no_number() -> None:
    facts = facts_of([(n, f"{n}", "a, b, c", ",a,b,c,", n > 0) for n in range(12)], "")
    assert facts.lists == 1 and facts.once == ["a", "b", "c"]
    assert len(marked_in(facts.marks["tag-once"])) == 12


def test_near_duplicates_are_all_pairs_up_to_seven_bits_and_no_others() -> None:
    chance = np.random.default_rng(3)
    hashes = chance.integers(0, 2**64, 3000, np.uint64)
    colours = np.zeros((3000, 48), np.uint8)
    for one, bits in ((0, 0), (1, 1), (2, 7), (3, 8)):
        flips = chance.choice(64, bits, replace=False).astype(np.uint64)
        hashes[2000 + one] = hashes[one] ^ np.bitwise_xor.reduce(np.uint64(1) << flips, initial=0)
    apart = np.bitwise_count(hashes[:, None] ^ hashes)
    pairs = {(int(a), int(b)) for a, b in np.argwhere(apart <= 7) if a < b}
    assert {tuple(group) for group in groups(hashes, colours)} == pairs
    assert {(0, 2000), (1, 2001), (2, 2002)} <= pairs


def test_a_group_is_around_its_best_picture_and_other_colours_are_another_picture() -> None:
    step = np.uint64(0x1F)  # five bits each
    hashes = np.array([0, step, step | step << np.uint64(5), 0, 0], np.uint64)
    colours = np.zeros((5, 48), np.uint8)
    colours[3] = 90
    assert groups(hashes, colours) == [[0, 1, 4]]  # 2 is near 1, but not near 0
    many = np.zeros(20_000, np.uint64)
    assert [len(group) for group in groups(many, np.zeros((20_000, 48), np.uint8))] == [20_000]
    assert groups(np.empty(0, np.uint64), np.empty((0, 48), np.uint8)) == []


def known(**changes: object) -> Known:
    values: dict[str, object] = {
        "pictures": 20, "again": 0, "resolution": 512, "reach": {512: 20, 768: 8, 1024: 0},
        "upright": 0, "square": 20, "wide": 0, "captions": 20, "framing": {},
    }  # fmt: skip
    return Known(**(values | changes))  # type: ignore[arg-type]


def test_advice_says_what_it_cannot_know_and_goes_by_what_is_there() -> None:
    told = {one.about: one for one in advice(known())}
    assert "one subject" in told["pictures"].text and "style find 30" in told["pictures"].text
    assert "50 to 150 times" in told["steps"].text
    assert "train at 512" in told["sizes"].text and "8 reach 768" in told["sizes"].text
    assert "nothing is lost" in told["shapes"].text
    assert told["framing"].text.startswith("Not known: 0 of 20")
    assert all(one.why for one in told.values())
    told = {
        one.about: one
        for one in advice(
            known(pictures=833, again=30, reach={512: 833, 768: 833, 1024: 833}, square=100,
                  wide=733, framing=Counter({"close-up": 15}))
        )
    }  # fmt: skip
    assert "803 different pictures (30 more are duplicates): good for a style" in (
        told["pictures"].text
    )
    assert "8 330" in told["steps"].text and "train at 1024" in told["sizes"].text
    assert "middle square" in told["shapes"].text
    assert "nearly all are close-up" in told["framing"].text
    assert [one.about for one in advice(known(pictures=0))] == ["pictures"]
    assert "too few" in advice(known(pictures=3))[0].text


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_has_a_filter_that_is_one(kind: object) -> None:
    filter = shown(KINDS[kind.name])  # type: ignore[attr-defined]
    assert bool(parse(filter)) == (KINDS["orphans"] is not kind)
