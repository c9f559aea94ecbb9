"""The heat map of a conflict, as cells of text with a tone: readable without any colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_tui.core.cells import clean, fit
from shared.conflicts import FELT, KINDS, STRONG, Conflict, Place, directed, heaviest, worst

Cell = tuple[str, str]  # text, tone
WIDE = 5  # cells of a column


def shown_pair(told: Conflict) -> tuple[int, int]:
    """The two LoRAs whose map is worth showing: who loses most, and by whom."""
    found = worst(told.cells, told.whole)
    return (found[1], found[2]) if found else heaviest(told.whole)


def lines(told: Conflict, of: int, by: int) -> Iterator[list[Cell]]:
    """What is said, each pair, and the map of what ``by`` does to ``of``."""
    yield [(clean(told.sentence), "bold")]
    yield [("", "")]
    names = [clean(name) for name in told.loras]
    for one, other in directed(len(names)):
        share, touched = told.whole.overlap[one][other], told.whole.touched[one][other]
        yield [
            (f"{names[other]} on {names[one]}: ", ""),
            (number(share), tone(share)),
            (f"; {touched:.0%} of what {names[one]} does, on inputs of both", "muted"),
        ]
    yield [("", "")]
    yield [(f"What {names[by]} does to {names[of]}, by block and kind of module:", "")]
    kinds = [kind for kind in KINDS if any(cell.kind == kind for cell in told.cells)]
    for row in _heads(kinds):
        yield [(" " * 6, ""), *((fit(head, WIDE, "right"), "muted") for head in row)]
    cells = {(cell.block, cell.kind): cell for cell in told.cells}
    for block in told.blocks:
        places = [cells.get((block.block, kind)) for kind in kinds]
        shown = (_cell(place, of, by) for place in [*places, block])
        yield [(fit(block.block, 6), ""), *shown]
    yield [("", "")]
    yield [("−1: undone  +1: doubled  ·: under .05  blank: not both", "muted")]
    ground = "the base's own inputs" if told.measured else "all inputs alike (no base was run)"
    yield [(f"Weighed by {ground}.", "muted")]
    yield from ([(clean(note), "warning")] for note in told.notes)


def number(share: float) -> str:
    """A signed share in at most four cells: −.42 +1.2 ·"""
    if abs(share) < FELT:
        return "·"
    sign = "−" if share < 0 else "+"
    size = abs(share)
    if size >= 9.95:
        return f"{sign}{min(size, 999):.0f}"
    return f"{sign}{size:.1f}" if size >= 0.995 else f"{sign}{size:.2f}".replace("0.", ".")


def tone(share: float) -> str:
    """Red for what is undone, green for what is added to; bold where it is much."""
    if abs(share) < FELT:
        return "muted"
    return f"{'error' if share < 0 else 'success'}{' bold' if abs(share) >= STRONG else ''}"


def _cell(place: Place | None, of: int, by: int) -> Cell:
    if place is None or not place.met or not (place.energy[of] and place.energy[by]):
        return " " * WIDE, ""
    share = place.overlap[of][by]
    return fit(number(share), WIDE, "right"), tone(share)


def _heads(kinds: Sequence[str]) -> Iterator[list[str]]:
    """Two lines: whose, where that begins, and what."""
    words = [kind.split() for kind in kinds]
    groups = [word[0] if len(word) > 1 else "" for word in words]
    begins = [group if groups.index(group) == at else "" for at, group in enumerate(groups)]
    yield [*begins, ""]
    yield [*(word[-1] for word in words), "all"]
