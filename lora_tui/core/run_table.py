"""Runs side by side: where their recipes differ, how their losses went, what came of them."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from lora_tui.core import words
from lora_tui.core.series import Frame, Line, rounded, smooth, spread
from shared import recipe as recipes
from shared import wire
from shared.which import Which

MOST_COLUMNS = 4  # of a table with a column a run
MOMENTS = 8  # steps at which the losses are told
TONES = ("primary", "success", "warning", "error", "secondary", "accent", "muted")
MARKS = string.ascii_lowercase + string.ascii_uppercase


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the runs that are compared. ``norm``: ‖ΔW‖ (Frobenius) of its last LoRA, if known."""

    run: wire.Run
    recipe: str  # TOML
    points: list[wire.LivePoint]
    samples: list[wire.Picture]
    which: Which | None = None  # as far as its checkpoints are measured
    norm: float | None = None

    @property
    def held(self) -> float | None:
        """The change of the loss on pictures kept back, of its best measured checkpoint."""
        return self.which.best_held if self.which is not None else None


def differences(sides: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """(key, each run's value) of every option in which the runs are not all alike. A recipe of an
    older version has the present default where it says nothing."""
    values = [_values(side.recipe) for side in sides]
    rows = []
    for option in recipes.options():
        own = [recipes.written(one.get(option.key, option.default)) for one in values]
        if len(set(own)) > 1 and option.key != "title":
            rows.append((option.key, own))
    return rows


def curves(sides: Sequence[Side]) -> list[Line]:
    """The smoothed loss of each run, in a tone and with a mark of its own. All are smoothed over as
    many steps, so that a long run does not look calmer than a short one."""
    longest = max((side.points[-1].step for side in sides if side.points), default=1)
    span = max(8.0, longest * 0.04)
    lines = []
    for number, side in enumerate(sides):
        steps = [float(point.step) for point in side.points]
        losses = smooth(steps, [point.loss for point in side.points], span)
        lines.append(Line(steps, losses, tone_of(number), name_of(side), mark_of(number)))
    return lines


def settled(line: Line) -> Line:
    """A smoothed line without its first steps: their mean is of one or two, and would flatten all
    that follows."""
    begin = next((n for n, x in enumerate(line.xs) if x >= min(8.0, line.xs[-1])), 0)
    return replace(line, xs=line.xs[begin:], ys=line.ys[begin:])


def frame(lines: Sequence[Line]) -> Frame:
    """The part of the plane in which curves are compared."""
    whole, high = spread(lines), spread([settled(line) for line in lines])
    return rounded(Frame(whole.left, whole.right, high.bottom, high.top), whole.right)


def held_curves(sides: Sequence[Side]) -> list[Line]:
    """The change of the loss on pictures kept back, of each run's measured checkpoints by step; the
    bare base is where all begin. Of a run without such figures, a line without points."""
    lines = []
    for number, side in enumerate(sides):
        found = side.which.candidates if side.which is not None else []
        points = [(one.step, one.held.mean) for one in found if one.held and len(one.files) == 1]
        if points:
            points.insert(0, (0, 0.0))
        xs, ys = [float(x) for x, _ in points], [y for _, y in points]
        lines.append(Line(xs, ys, tone_of(number), name_of(side), mark_of(number)))
    return lines


def tone_of(number: int) -> str:
    return TONES[number % len(TONES)]


def mark_of(number: int) -> str:
    """The letter of a run among those it is compared with: a, b, c …"""
    return MARKS[number % len(MARKS)]


def losses_at(lines: Sequence[Line]) -> list[tuple[int, list[float | None]]]:
    """(step, each curve's loss there) at a few steps; None where a run was not so far."""
    last = int(max((line.xs[-1] for line in lines if line.xs), default=0))
    steps = sorted({max(1, round(last * part / MOMENTS)) for part in range(1, MOMENTS + 1)})
    return [(step, [_at(line, step) for line in lines]) for step in steps if last]


def pairs(sides: Sequence[Side]) -> list[tuple[str, list[wire.Picture | None]]]:
    """(prompt, each run's latest sample of it), of prompts and seeds that at least one run has."""
    latest: list[dict[tuple[str, int], wire.Picture]] = []
    for side in sides:
        own: dict[tuple[str, int], wire.Picture] = {}
        for picture in sorted(side.samples, key=lambda one: (one.step, one.created)):
            own[picture.prompt, picture.seed] = picture
        latest.append(own)
    keys = dict.fromkeys(key for own in latest for key in own)
    return [(key[0], [own.get(key) for own in latest]) for key in keys]


def prompts(sides: Sequence[Side]) -> list[tuple[str, int]]:
    """(prompt, seed) of all samples, in the order they were first made."""
    made = sorted(
        (one for side in sides for one in side.samples),
        key=lambda one: (one.step, one.created, one.id),
    )
    return list(dict.fromkeys((one.prompt, one.seed) for one in made))


def sample_steps(sides: Sequence[Side], prompt: tuple[str, int]) -> list[int]:
    """The steps at which at least one run has made a sample of this prompt."""
    found = {one.step for side in sides for one in side.samples if (one.prompt, one.seed) == prompt}
    return sorted(found)


def common_step(sides: Sequence[Side], prompt: tuple[str, int]) -> int:
    """The last step of which the most runs have a sample of this prompt."""
    steps = sample_steps(sides, prompt)
    have = {step: sum(map(bool, samples_at(sides, prompt, step))) for step in steps}
    return max(step for step in steps if have[step] == max(have.values()))


def samples_at(
    sides: Sequence[Side], prompt: tuple[str, int], step: int
) -> list[wire.Picture | None]:
    """Each run's sample of a prompt at this very step: others would compare other things."""
    return [
        next(
            (one for one in side.samples if (one.prompt, one.seed) == prompt and one.step == step),
            None,
        )
        for side in sides
    ]


def differing(sides: Sequence[Side]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of where the recipes differ: a column a run while that is narrow, a row a run
    where there are many."""
    rows = differences(sides)
    marks = [mark_of(number) for number in range(len(sides))]
    if len(sides) <= MOST_COLUMNS:
        return ["option", *marks], [[key, *own] for key, own in rows]
    turned = [[mark, *(own[n] for _, own in rows)] for n, mark in enumerate(marks)]
    return ["", *(key for key, _ in rows)], turned if rows else []


def name_of(side: Side) -> str:
    """The run as one tells it from the others: by what was set otherwise, else by its name."""
    apart = " ".join(setting.partition(".")[2] or setting for setting in side.run.settings)
    return f"{side.run.id} {apart if side.run.group and apart else side.run.name}"


HEAD = ("RUN", "STATE", ">STEPS", ">FIRST LOSS", ">LAST LOSS", ">KEPT BACK", ">‖ΔW‖", ">TIME")


def results(sides: Sequence[Side], losses: Sequence[Line]) -> list[Sequence[str]]:
    """One row a run, as HEAD has them. ``losses``: their curves."""
    return [_row(side, line) for side, line in zip(sides, losses, strict=True)]


def _row(side: Side, line: Line) -> Sequence[str]:
    run = side.run
    known = settled(line).ys
    return (
        name_of(side),
        run.state,
        words.count(run.step),
        words.number(known[0] if known else None),
        words.number(line.ys[-1] if line.ys else None),
        "–" if side.held is None else f"{side.held:+.1%}",
        "–" if side.norm is None else f"{side.norm:.3g}",
        words.duration(run.took or None),
    )


def said(sides: Sequence[Side]) -> Iterator[str]:
    """How to read the table."""
    yield "LOSS: smoothed, each run's own loss: comparable where [loss] and [noise] are alike."
    if any(side.held is not None for side in sides):
        yield "KEPT BACK: change from the bare base, of the best checkpoint; comparable throughout."
    else:
        yield "KEPT BACK: `lora-tui run which RUN` measures it, if evaluation.held_out keeps some."
    if len({side.run.dataset for side in sides}) > 1:
        yield "The runs are of different datasets."


def _at(line: Line, step: int) -> float | None:
    if not line.xs or step > line.xs[-1]:
        return None
    known = [y for x, y in zip(line.xs, line.ys, strict=True) if x <= step]
    return known[-1] if known else None


def _values(recipe: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(tree: dict[str, Any], prefix: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value

    walk(tomllib.loads(recipe), "")
    return found
