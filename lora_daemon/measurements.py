"""What is measured of a run's checkpoints, and the records that keep it: values, no worker."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from lora_daemon import pipe
from lora_daemon.recommending import Measurement
from shared.filenames import to_text
from shared.pictures import PictureSpec
from shared.recipe import Recipe

T = TypeVar("T")

VERSION = 2  # of what is measured: raise it when numbers of before cannot be compared
PICTURES = 24  # measured at most, kept back and trained on, each
PAINTED = 6
SPOKEN = 6  # captions of which the leak is measured
STRATA = 8  # timesteps at which a picture is measured, each with ±noise
IMAGINED_STEPS, IMAGINED_CFG = 12, 5.0  # of the base's own pictures of the drift's prompts


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured, the same for all candidates."""

    version: int = VERSION
    seed: int
    resolution: int
    timesteps: tuple[int, int]
    reading: tuple[int, int, Literal["kohya", "webui"]]  # how captions are, as they were trained
    held: list[pipe.FrozenPicture]
    train: list[pipe.FrozenPicture]
    spoken: list[tuple[str, str]]  # captions without their trigger word, and with it
    unrelated: list[str]
    specs: list[PictureSpec]  # painted by each candidate, the first by captions trained on
    copies: int  # how many of these are compared with the training pictures

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Record(msgspec.Struct, kw_only=True):
    """One candidate's answers. ``rows``: by part; a part that is not there is not measured."""

    plan: str
    files: list[tuple[str, int, int]]  # path, size and time of change when it was measured
    rows: dict[str, list[list[float]]] = {}
    painted: list[str] = []
    skipped: list[tuple[str, str]] = []


@dataclass(frozen=True)
class Measurable:
    """A candidate: a checkpoint, an average of some (exactly their weighted sum), or the base."""

    name: str
    step: int
    files: tuple[Path, ...] = ()

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name)


def plan_of(recipe: Recipe, freeze: pipe.Freeze) -> Plan:
    """What to measure of a run."""
    held = evenly(freeze.held_out, PICTURES)
    train = evenly(freeze.pictures, PICTURES)
    sample, trigger = recipe.sample, recipe.output.trigger.strip()
    spoken = [
        (without(one.caption, trigger), one.caption)
        for one in held or train
        if trigger and without(one.caption, trigger) != one.caption
    ]
    trained_on = list(dict.fromkeys(one.caption for one in freeze.pictures if one.caption))
    unseen = list(dict.fromkeys(one.caption for one in freeze.held_out)) or sample.prompts
    copied = evenly(trained_on, PAINTED // 2)
    others = evenly([text for text in unseen if text not in copied], PAINTED - len(copied))
    specs = [
        PictureSpec(
            base=freeze.base, prompt=prompt, negative=sample.negative, sampler=sample.sampler,
            steps=sample.steps, cfg=sample.cfg, seed=sample.seed + number,
            width=recipe.dataset.resolution, height=recipe.dataset.resolution,
        )
        for number, prompt in enumerate([*copied, *others])
    ]  # fmt: skip
    return Plan(
        seed=recipe.training.seed, resolution=recipe.dataset.resolution,
        timesteps=(recipe.noise.min_timestep, recipe.noise.max_timestep), held=held, train=train,
        reading=(recipe.dataset.clip_skip, recipe.dataset.windows, recipe.dataset.joined),
        spoken=evenly(spoken, SPOKEN), unrelated=recipe.evaluation.unrelated, specs=specs,
        copies=len(copied),
    )  # fmt: skip


def calls(plan: Plan, one: Measurable, record: Record) -> tuple[int, int]:
    """Of the denoiser, for one picture each, in all that is not known of a candidate: in pictures
    that are painted, and in predictions. By the base's own the others' drift and leak are measured,
    so they count as its."""
    painted = 0
    things: dict[str, Sequence[object]] = {"held": plan.held, "train": plan.train}
    apart = (*plan.spoken, *plan.unrelated)
    if one.step:
        things |= {"leak": plan.spoken, "drift": plan.unrelated}
    elif not record.painted:
        painted += len(apart) * 2 * IMAGINED_STEPS
    if not record.painted:
        painted += sum(spec.steps * (2 if spec.cfg > 1 else 1) for spec in plan.specs)
    left = sum(len(those) for part, those in things.items() if part not in record.rows)
    return painted, 2 * STRATA * left


def without(caption: str, trigger: str) -> str:
    """A caption without the trigger word, and without the gap it leaves."""
    spoken = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.IGNORECASE)
    if not spoken.search(caption):
        return caption
    text = re.sub(r"\s+", " ", spoken.sub(" ", caption))
    return re.sub(r"(?:\s*,)+", ",", text).strip(" ,")


def evenly(things: Sequence[T], number: int) -> list[T]:
    """At most ``number`` of them, evenly from the whole, the last included."""
    if len(things) <= number:
        return list(things)
    return [things[(place + 1) * len(things) // number - 1] for place in range(number)]


def measurements(records: Mapping[Measurable, Record]) -> dict[str, Measurement]:
    """The numbers of what is measured, by name. Losses are relative to the bare base's, so none are
    known before it is measured."""
    losses = {part: _relative(records, part) for part in ("held", "train")}
    return {
        one.name: Measurement(
            name=one.name, step=one.step, average=len(one.files) > 1,
            held=losses["held"].get(one, ()), train=losses["train"].get(one, ()),
            drift=_drift(record), leak=leak(record.rows.get("leak", ())),
            nearness=_nearness(record),
        )
        for one, record in records.items()
    }  # fmt: skip


def _relative(records: Mapping[Measurable, Record], part: str) -> dict[Measurable, list[float]]:
    """Of each candidate, the loss of each picture: the mean over the stretches of timesteps, each
    in units of the bare base's mean loss there.

    The loss with little noise is up to a hundred times that with much, and in a plain mean it would
    say all; what a picture shows is decided where there is much. A picture that one candidate lacks
    counts for none, so that all are of the same pictures.
    """
    known = {one: record.rows[part] for one, record in records.items() if part in record.rows}
    base = next((rows for one, rows in known.items() if not one.step), None)
    if base is None:
        return {}
    usable = [n for n, rows in enumerate(zip(*known.values(), strict=False)) if all(rows)]
    units = [statistics.fmean(column) for column in zip(*(base[n] for n in usable), strict=True)]
    return {
        one: [
            statistics.fmean(loss / unit for loss, unit in zip(rows[n], units, strict=True))
            for n in usable
        ]
        for one, rows in known.items()
    }


def _drift(record: Record) -> float | None:
    values = [value for row in record.rows.get("drift", ()) for value in row]
    return statistics.fmean(values) if values else None


def leak(rows: Sequence[Sequence[float]]) -> float | None:
    """Of what a LoRA does by captions with its trigger word, the share that it does by them without
    it. ``rows``: of each caption, without and with the word; one that is empty was skipped."""
    known = [row for row in rows if row]
    spoken = math.fsum(row[1] ** 2 for row in known)
    return math.sqrt(math.fsum(row[0] ** 2 for row in known) / spoken) if spoken else None


def _nearness(record: Record) -> float | None:
    near, control = record.rows.get("nearness", ((), ()))
    if not near or len(control) < 2 or not (deviation := statistics.stdev(control)):
        return None
    return (statistics.fmean(near) - statistics.fmean(control)) / deviation


def loras_of(one: Measurable) -> list[pipe.LoraFile]:
    """A candidate as the worker takes it: an average is the sum of equal shares, exactly."""
    return [
        pipe.LoraFile(path=str(path), weight=1 / len(one.files), name=to_text(path.stem))
        for path in one.files
    ]


def stamp(path: Path) -> tuple[str, int, int]:
    """What tells one state of a file from another; zeros if it is not there."""
    with contextlib.suppress(OSError):
        now = path.stat()
        return str(path), now.st_size, now.st_mtime_ns
    return str(path), 0, 0
