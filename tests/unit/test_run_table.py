"""Runs side by side, as rows and as a picture."""

from __future__ import annotations

import io
from typing import Any

import msgspec
from PIL import Image

from lora_tui.core import run_table, runs_picture
from lora_tui.core.run_table import Side
from lora_tui.core.series import braille, spread
from shared import wire
from shared.which import Candidate, Spread, Which
from tests.fixtures.make_workspace import PICTURE, RUN


def side(run: str, recipe: str, losses: list[float], **fields: Any) -> Side:
    points = [
        wire.LivePoint(step, loss, 1e-4, 1.0, float(step)) for step, loss in enumerate(losses, 1)
    ]
    told = msgspec.structs.replace(RUN, id=run, step=len(losses), **fields)
    sample = msgspec.structs.replace(PICTURE, id=f"{run}-1", run=run, step=len(losses))
    return Side(run=told, recipe=recipe, points=points, samples=[sample])


SIDES = [
    side("r0001", "[network]\nrank = 4\n", [0.2] * 40, group="g", settings=["network.rank=4"]),
    side("r0002", "[training]\nseed = 7\n", [0.2, 0.1] * 10),
]


def test_only_options_that_differ_are_told_and_defaults_count() -> None:
    assert run_table.differences(SIDES) == [
        ("network.rank", ["4", "8"]), ("training.seed", ["42", "7"]),
    ]  # fmt: skip
    assert run_table.differences([SIDES[0], SIDES[0]]) == []


def test_losses_are_told_at_the_same_steps_and_not_beyond_a_runs_end() -> None:
    told = dict(run_table.losses_at(run_table.curves(SIDES)))
    assert max(told) == 40
    assert told[20][0] is not None and told[20][1] is not None
    assert told[40][1] is None


def test_a_run_of_a_sweep_is_named_by_what_sets_it_apart() -> None:
    rows = run_table.results(SIDES, run_table.curves(SIDES))
    assert [row[0] for row in rows] == ["r0001 rank=4", "r0002 dragons"]
    assert rows[0][-1] == "0:25"  # at work


def test_samples_of_one_prompt_and_seed_stand_side_by_side() -> None:
    [(prompt, across)] = run_table.pairs(SIDES)
    assert prompt == PICTURE.prompt
    assert [one.id for one in across if one is not None] == ["r0001-1", "r0002-1"]


def test_the_sheet_has_both_curves_and_the_sample_that_is_there() -> None:
    red = io.BytesIO()
    Image.new("RGB", (8, 8), "#ff0000").save(red, "PNG")
    with Image.open(io.BytesIO(runs_picture.png(SIDES, {"r0002-1": red.getvalue()}))) as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20) or []}
    assert {(255, 0, 0), (31, 119, 180), (214, 39, 40)} <= colours


def test_curves_are_told_apart_by_a_letter_that_stands_on_them() -> None:
    lines = run_table.curves(SIDES)
    assert [line.mark for line in lines] == ["a", "b"]
    cells = braille(lines, spread(lines), 40, 8)
    text = "\n".join("".join(char for char, _ in row) for row in cells)
    assert text.count("a") == text.count("b") == 3
    silent = msgspec.structs.replace(SIDES[1], points=[])
    assert [len(line.xs) for line in run_table.curves([SIDES[0], silent])] == [40, 0]


def test_losses_kept_back_begin_at_the_base_and_leave_averages_out() -> None:
    held = Spread(mean=-0.1, low=-0.2, high=0.0, error=0.05)
    single = Candidate(name="step 20", step=20, files=["a"], measured=True, held=held)
    average = msgspec.structs.replace(single, files=["a", "b"], step=15)
    which = Which(
        run="r0001", base="", candidates=[single, average], recommended="", chosen="", reason="",
        notes=[], held_out=3, trained=3, pairs=0, wanted=3, busy=False,
    )  # fmt: skip
    lines = run_table.held_curves([msgspec.structs.replace(SIDES[0], which=which), SIDES[1]])
    assert (lines[0].xs, lines[0].ys) == ([0.0, 20.0], [0.0, -0.1])
    assert lines[1].xs == []


def test_samples_are_held_together_by_step_and_prompt() -> None:
    early = [
        msgspec.structs.replace(
            one, samples=[*one.samples, msgspec.structs.replace(one.samples[0], id="e", step=10)]
        )
        for one in SIDES
    ]
    [prompt] = run_table.prompts(early)
    assert run_table.sample_steps(early, prompt) == [10, 20, 40]
    assert [bool(one) for one in run_table.samples_at(early, prompt, 40)] == [True, False]
    assert run_table.common_step(early, prompt) == 10  # the last that both have


def test_differences_of_many_runs_are_a_row_a_run() -> None:
    head, rows = run_table.differing(SIDES)
    assert head == ["option", "a", "b"] and rows[0] == ["network.rank", "4", "8"]
    head, rows = run_table.differing([*SIDES, *SIDES, *SIDES])
    assert head == ["", "network.rank", "training.seed"] and rows[1] == ["b", "8", "7"]
    assert run_table.differing([SIDES[0]] * 6) == ([""], [])


def test_the_first_steps_do_not_flatten_the_rest_of_the_chart() -> None:
    spiked = side("r0003", "", [9.0, *[0.2, 0.3] * 30])
    lines = run_table.curves([spiked])
    found = run_table.frame(lines)
    assert max(lines[0].ys) == 9.0 and found.top < 4.0
    assert (found.left, found.right) == (1.0, 61.0)
