"""Only changes are sent, and the terminal shows the same as if all of it were."""

from __future__ import annotations

import random

from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.geometry import Region
from textual.strip import Strip

from lora_tui.graphics.changes import Changes, Pieces

WIDTH, HEIGHT = 24, 5
STYLES = [Style.null(), Style(bold=True), Style(color="red")]
Screen = dict[tuple[int, int], tuple[str, Style | None]]


def line(chance: random.Random, width: int) -> Strip:
    """Few letters, so that much stays as it was."""
    segments = []
    while width:
        length = chance.randint(1, min(4, width))
        segments.append(Segment(chance.choice("ab ▀") * length, chance.choice(STYLES)))
        width -= length
    return Strip(segments)


def paint(screen: Screen, pieces: Pieces) -> None:
    for x, y, strip in pieces.pieces:
        place = x
        for segment in strip:
            for char in segment.text:
                screen[place, y] = (char, segment.style)
                place += 1


def whole(update: ChopsUpdate | LayoutUpdate) -> Pieces:
    return Changes().of(update)


def test_the_terminal_shows_what_it_would_if_all_were_sent() -> None:
    chance = random.Random(7)
    changes, ours, theirs = Changes(), Screen(), Screen()
    cut = [0, 8, 17]  # where the widgets of a line begin
    present = [
        {x: line(chance, end - x) for x, end in zip(cut, (8, 17, WIDTH), strict=True)}
        for _ in range(HEIGHT)
    ]
    sent = total = 0
    for _ in range(400):
        kind = chance.random()
        if kind < 0.1:  # a window opens or closes: other widgets in the lines
            cut = sorted({0, *chance.sample(range(1, WIDTH), 2)})
        ends = [*cut[1:], WIDTH]
        update: ChopsUpdate | LayoutUpdate
        if kind < 0.13:
            present = [
                {x: line(chance, end - x) for x, end in zip(cut, ends, strict=True)}
                for _ in range(HEIGHT)
            ]
            lines = [list(row.values()) for row in present]
            update = LayoutUpdate(lines, Region(0, 0, WIDTH, HEIGHT))  # type: ignore[arg-type]
        else:
            row, at = chance.randrange(HEIGHT), chance.randrange(3)
            present = [dict(one) for one in present]
            if kind < 0.6 and list(present[row]) == cut:
                present[row][cut[at]] = line(chance, ends[at] - cut[at])
            spans = sorted((y, *sorted(chance.sample(range(WIDTH + 1), 2))) for y in range(HEIGHT))
            stops = [[x + strip.cell_length for x, strip in one.items()] for one in present]
            update = ChopsUpdate(present, spans, stops)
        if kind > 0.95:
            changes.forget()
        paint(theirs, whole(update))
        pieces = changes.of(update)
        paint(ours, pieces)
        assert ours == theirs
        sent += sum(strip.cell_length for _, _, strip in pieces.pieces)
        total += sum(strip.cell_length for _, _, strip in whole(update).pieces)
    assert sent < total


def test_what_lies_over_cells_goes_with_the_first_of_them_that_changes() -> None:
    changes, me = Changes(), object()

    def shown(text: str) -> int:
        strips = [[Strip([Segment(char) for char in text])], [Strip([Segment("below")])]]
        return len(changes.of(LayoutUpdate(strips, Region(0, 0, 5, 2))).pieces)  # type: ignore[arg-type]

    assert shown("above") == 2
    changes.over[me] = ("a", Region(3, 0, 2, 1))
    assert shown("above") == 0 and me in changes.over
    assert shown("Above") == 1 and me in changes.over  # beside it
    changes.lift(me)
    assert shown("Above") == 1 and me not in changes.over  # that line again, as it is
    changes.over[me] = ("b", Region(3, 0, 2, 1))
    assert shown("AbovE") == 1 and me not in changes.over


def test_a_line_with_wide_characters_is_sent_whole() -> None:
    changes = Changes()

    def sent(*texts: str) -> list[tuple[int, int, Strip]]:
        strips = [[Strip([Segment(text) for text in texts])]]
        return changes.of(LayoutUpdate(strips, Region(0, 0, 6, 1))).pieces  # type: ignore[arg-type]

    sent("龍", "ab", "cd")
    [(x, _, strip)] = sent("龍", "ab", "ce")
    assert x == 0 and strip.text == "龍abce"
