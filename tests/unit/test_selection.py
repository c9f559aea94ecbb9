"""Places chosen, held against a plain set of numbers."""

from __future__ import annotations

import random
from itertools import pairwise

from lora_tui.core.selection import Selection


def test_it_is_a_set_of_places_whatever_is_done() -> None:
    chance = random.Random(3)
    selection, plain, last = Selection(), set[int](), 0
    for _ in range(2000):
        place = chance.randrange(40)
        if chance.random() < 0.7:
            selection.toggle(place)
            plain ^= {place}
        else:
            begin = last if selection.last is not None else place
            selection.stretch(place)
            plain |= set(range(min(begin, place), max(begin, place) + 1))
        last = place
        spans = selection.spans
        assert [p for p in range(-1, 41) if p in selection] == sorted(plain)
        assert len(selection) == len(plain)
        assert all(one[1] + 1 < two[0] for one, two in pairwise(spans))


def test_all_of_a_long_list_is_one_stretch() -> None:
    selection = Selection()
    selection.toggle(5)
    selection.all(100_000)
    assert selection.spans == [(0, 99_999)]
    selection.toggle(7)
    assert selection.spans == [(0, 6), (8, 99_999)] and len(selection) == 99_999
    selection.all(100_000)
    selection.all(100_000)
    assert selection.spans == []
