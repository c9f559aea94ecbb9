"""The heat map of a conflict: what it says without colours, and as a picture."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from lora_tui.core import conflict_map
from lora_tui.core.conflict_picture import png
from shared import conflicts
from shared.conflicts import Conflict, Place


def place(share: float, back: float, block: str = "", kind: str = "", met: int = 1) -> Place:
    return Place(
        block=block, kind=kind, met=met, energy=[1.0, share / back],
        overlap=[[1.0, share], [back, 1.0]], touched=[[0.0, 0.4], [0.2, 0.0]],
    )  # fmt: skip


def conflict() -> Conflict:
    """Ink (0) undoes most of pencil's (1) keys in OUT04."""
    cells = [place(-0.2, -0.8, "OUT04", "cross k"), place(0.01, 0.02, "OUT04", "ff"),
             place(0.3, 0.3, "M00", "ff", met=0)]  # fmt: skip
    blocks = [place(0.3, 0.3, "M00", met=0), place(-0.15, -0.6, "OUT04")]
    whole = place(-0.1, -0.4)
    said = conflicts.sentence(["ink", "pencil"], whole, cells, {"OUT04": "up.1"})
    return Conflict(
        loras=["ink", "pencil"], weights=[1.0, 0.5], measured=False, sentence=said, whole=whole,
        blocks=blocks, cells=cells, modules=[], notes=["ink: 3 DoRA modules left out."],
    )  # fmt: skip


def test_the_map_is_read_without_colours() -> None:
    told = conflict()
    assert conflict_map.shown_pair(told) == (1, 0)
    rows = ["".join(text for text, _ in row) for row in conflict_map.lines(told, 1, 0)]
    assert rows[0] == (
        "They pull the same keys in up.1 (OUT04) in opposite ways; pencil loses (80% of it there; "
        "over all it keeps 60%)."
    )
    assert "ink on pencil: −.40; 20% of what pencil does, on inputs of both" in rows
    assert "What ink does to pencil, by block and kind of module:" in rows
    head = next(at for at, row in enumerate(rows) if row.split() == ["cross"])
    assert rows[head + 1].split() == ["k", "ff", "all"]
    assert rows[head + 2].split() == ["M00"]  # neither meets there
    assert rows[head + 3].split() == ["OUT04", "−.80", "·", "−.60"]
    assert rows[-1] == "ink: 3 DoRA modules left out." and "all inputs alike" in rows[-2]
    tones = dict(cell for row in conflict_map.lines(told, 1, 0) for cell in row)
    assert tones[" −.80"] == "error bold" and max(map(len, rows[1:])) <= 80


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.04, "·"), (-0.42, "−.42"), (0.997, "+1.0"), (-1.26, "−1.3"), (12.4, "+12"), (-5e6, "−999")],
)
def test_a_number_has_four_cells_at_most(share: float, shown: str) -> None:
    assert conflict_map.number(share) == shown


def test_the_picture_has_a_cell_for_each_of_them() -> None:
    with Image.open(io.BytesIO(png(conflict(), 1, 0))) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 16) or []}
    assert (255, 102, 102) in colours  # 80 % undone
    assert (238, 238, 238) in colours  # not both


def test_other_sentences() -> None:
    def said(share: float, touched: float, met: int = 1) -> str:
        whole = Place(met=met, energy=[1.0, 1.0], overlap=[[1.0, share], [share, 1.0]],
                      touched=[[0.0, touched], [touched, 0.0]])  # fmt: skip
        return conflicts.sentence(["a", "b"], whole, [], {})

    assert "cannot fight" in said(0, 0, met=0)
    assert "the same way: together a is as strong as at 150%" in said(0.5, 0)
    assert "answer differently" in said(0.0, 0.6)
    assert "hardly meet" in said(0.02, 0.1)


def test_who_gains_over_all_is_not_said_to_lose() -> None:
    told = conflicts.sentence(
        ["ink", "pencil"], place(0.5, 0.5), [place(-0.16, -0.2, "OUT04", "cross k")],
        {"OUT04": "up.1"},
    )  # fmt: skip
    assert told == (
        "They change much the same in the same way: together ink is as strong as at 150%. A lower "
        "weight may do. Only the keys in up.1 (OUT04) are pulled in opposite ways, and ink "
        "gains more elsewhere."
    )
