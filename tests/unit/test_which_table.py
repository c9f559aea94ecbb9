"""What is said of a run's checkpoints on a terminal."""

from __future__ import annotations

from msgspec.structs import replace

from lora_tui.core import which_table
from shared.which import Candidate, Spread, Which

SPREAD = Spread(mean=-0.05, low=-0.06, high=-0.04, error=0.005)
FOUND = Which(
    run="r0001", base="b",
    candidates=[
        Candidate(name="step 10", step=10, files=["/a"], measured=True, held=SPREAD, train=SPREAD,
                  tied=True, drift=0.1234, leak=0.5, nearness=-0.31, wins=1.5, met=2),
        Candidate(name="step 20", step=20, files=["/b"], measured=True, held=SPREAD, tied=True),
        Candidate(name="step 30", step=30, files=["/c"], measured=False),
    ],
    recommended="step 10", chosen="", reason="Because.", notes=["Note."], held_out=5, trained=6,
    pairs=0, wanted=3, busy=False,
)  # fmt: skip


def test_a_row_has_the_numbers_and_dashes_for_what_is_not_known() -> None:
    first, second, third = which_table.rows(FOUND)
    assert list(first) == [
        "★", "step 10", "-5.0%", "-6.0% … -4.0%", "-5.0%", "0.123", "50%", "-0.3", "1.5/2",
    ]  # fmt: skip
    assert second[0] == "≈" and second[4] == "–"
    assert list(third) == ["", "step 30", "–", "", "–", "–", "–", "–", ""]
    assert len(which_table.HEAD) == len(first)


def test_the_persons_choice_is_what_is_marked() -> None:
    chosen = replace(FOUND, chosen="step 20")
    assert [row[0] for row in which_table.rows(chosen)] == ["≈", "★", ""]


def test_the_reason_comes_first_then_the_tied_then_the_notes() -> None:
    said = list(which_table.said(FOUND))
    assert said[:3] == [
        "Because.", "Within one standard error of the best: step 10 to step 20.", "Note.",
    ]  # fmt: skip
    assert "5 pictures not trained on" in said[-1]
    none = list(which_table.said(replace(FOUND, held_out=0)))
    assert none[-1].startswith("TRAINED: change of the loss from the bare base on 6 pictures that")
    nothing = replace(FOUND, candidates=FOUND.candidates[2:], recommended="", notes=[])
    assert list(which_table.said(nothing)) == ["Nothing is measured yet."]
    long = list(which_table.said(replace(nothing, seconds=130.0), " m measures."))
    assert long == [
        "Nothing is measured yet. m measures. It takes about 2:10, by what training here took."
    ]
    rest = "1 checkpoint not measured yet. It takes about 2:10, by what training here took."
    assert rest in list(which_table.said(replace(FOUND, seconds=130.0)))
    assert "1 checkpoint not measured yet." in list(
        which_table.said(replace(FOUND, seconds=130.0, busy=True))
    )
    some = replace(FOUND, recommended="", notes=[])
    assert next(which_table.said(some)) == "Too little is measured to say which to take."
