"""Why a run diverged: what is known of it, the likeliest cause, and the settings that mend it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from lora_daemon import series
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base, best_precision
from lora_daemon.engine.device import poisoned
from lora_daemon.engine.feed import Feed
from lora_daemon.engine.objectives import weights_of
from lora_daemon.pipe import Point
from shared.recipe import Recipe
from shared.suited import SMALL_RATE, USUAL_RATE

SMALL = 50_000_000  # parameters: below, a denoiser learns at rates as the starter's
# Rates in units of AdamW's usual one: the usual and the highest that others' recipes have.
_RATES = {
    "adamw": (1.0, 10.0), "adamw8bit": (1.0, 10.0), "lion": (0.2, 3.0), "adafactor": (1.0, 10.0),
    "came": (1.0, 4.0), "schedule_free": (2.0, 40.0),
}  # fmt: skip
_FAR = 8.0  # so many times the others' latents are no picture's
_HEAVY = 100.0  # a timestep that counts so many times the usual one
_RISEN = 2.0  # a loss so many times what it was has risen
_SPAN = 10  # steps whose mean loss is compared
_SCALE = 8.0  # alpha / rank above this is seldom meant


@dataclass(frozen=True)
class Seen:
    """A picture of the step that failed. ``latent``: the greatest of its latents, by size."""

    path: str
    timestep: int
    latent: float
    base_fails: bool  # the bare base's prediction for it is not finite


@dataclass(frozen=True)
class Evidence:
    """What is known of a divergence.

    ``step``: the one that failed, counted from 1; ``loss`` and ``norm``: its. ``points``: all good
    steps before. ``usual_latent``: the median over all pictures of their greatest. ``weights``:
    what each timestep counts in the loss. ``precision``: fp32, bf16 or fp16; ``better``: what this
    device has that does not overflow so soon.
    """

    recipe: Recipe
    step: int
    loss: float
    norm: float
    points: Sequence[Point]
    precision: str
    better: str = "fp32"
    small: bool = False
    pictures: Sequence[Seen] = ()
    usual_latent: float = 1.0
    weights: Sequence[float] = field(default_factory=lambda: [1.0] * 1000)


class Cause(NamedTuple):
    """``why``: a sentence with the evidence. ``settings``: "key=value", as ``--set`` takes them,
    what mends it; none where no setting does. ``advice``: what else to do, a sentence."""

    why: str
    settings: list[str]
    advice: str = ""


def likely(evidence: Evidence) -> Cause:
    """The likeliest cause of a divergence: what shows in a test, before what shows in a number."""
    for judge in (_picture, _base, _unusual, _rise, _overflow):
        if cause := judge(evidence):
            return cause
    clipped = evidence.recipe.optimizer.max_grad_norm
    sudden = (
        f"nothing led up to it: the loss of the steps before was {_mean(evidence.points):.3g}, "
        "and rate and weights are usual"
    )
    if not clipped:
        return Cause(
            f"{sudden}; but optimizer.max_grad_norm = 0 lets a single step go any distance",
            ["optimizer.max_grad_norm=1.0"],
        )
    return Cause(sudden, [_lower(evidence)])


def _picture(evidence: Evidence) -> Cause | None:
    """A picture whose latents are not those of a picture."""
    for one in evidence.pictures:
        if not math.isfinite(one.latent):
            amount = "are not finite"
        elif one.latent > _FAR * evidence.usual_latent:
            amount = f"reach {one.latent:.3g}, and the others' {evidence.usual_latent:.3g}"
        else:
            continue
        return Cause(
            f"the latents of {one.path} {amount}: the base's VAE cannot make sense of it",
            [],
            f"Reject it (`lora-tui caption reject {one.path}`) and train anew",
        )
    return None


def _base(evidence: Evidence) -> Cause | None:
    """The base alone, without the LoRA, fails on what the step saw."""
    failing = [one for one in evidence.pictures if one.base_fails]
    if not failing:
        return None
    one = failing[0]
    where = f"{one.path} at timestep {one.timestep}"
    if evidence.precision == "fp32":
        return Cause(
            f"the base itself, without the LoRA, makes no finite prediction for {where}",
            [],
            "Check the base with `lora-tui model inspect`, or take another one",
        )
    return Cause(
        f"the base itself, without the LoRA, overflows in {evidence.precision} on {where}",
        [f"training.precision={evidence.better}"],
    )


def _overflow(evidence: Evidence) -> Cause | None:
    """In fp16 the loss is fine and the gradient, which is scaled up, is not."""
    if evidence.precision != "fp16" or not math.isfinite(evidence.loss):
        return None
    return Cause(
        f"the loss was fine ({evidence.loss:.3g}) and the gradient was not: in fp16, where it is "
        "multiplied by 1024 so that it does not vanish, it went beyond 65 504",
        [f"training.precision={evidence.better}"],
    )


def _unusual(evidence: Evidence) -> Cause | None:
    """Every setting that is far from what others have: mending one would leave the others."""
    found = [cause for judge in (_weight, _rate, _scale) if (cause := judge(evidence))]
    if not found:
        return None
    return Cause(
        "; and ".join(cause.why for cause in found),
        [setting for cause in found for setting in cause.settings],
    )


def _weight(evidence: Evidence) -> Cause | None:
    """A timestep that counts far more than the others."""
    usual = median(evidence.weights)
    counted = [(evidence.weights[one.timestep], one.timestep) for one in evidence.pictures]
    weight, timestep = max(counted, default=(0.0, 0))
    if not usual or weight <= _HEAVY * usual:
        return None
    weighting = evidence.recipe.loss.weighting
    return Cause(
        f'loss.weighting = "{weighting}" lets timestep {timestep}, where this base\'s schedule has '
        f"almost no picture left, count {weight / usual:.3g} times what the usual one does",
        ["loss.weighting=none"],
    )


def _rate(evidence: Evidence) -> Cause | None:
    """A rate beyond what others train at, or one that Prodigy drove up."""
    optimizer = evidence.recipe.optimizer
    if optimizer.kind == "prodigy":
        return _prodigy(evidence)
    usual, most = (one * _unit(evidence) for one in _RATES[optimizer.kind])
    rate = optimizer.learning_rate * optimizer.lora_plus
    if rate <= most:
        return None
    plus = f" × optimizer.lora_plus = {optimizer.lora_plus:g}" if optimizer.lora_plus != 1 else ""
    settings = [f"optimizer.learning_rate={usual:g}"]
    if plus and optimizer.learning_rate <= most:
        settings = ["optimizer.lora_plus=1.0"]
    return Cause(
        f"optimizer.learning_rate = {optimizer.learning_rate:g}{plus} is {rate / usual:.3g} times "
        f"what is usual for {optimizer.kind} ({usual:g})",
        settings,
    )


def _prodigy(evidence: Evidence) -> Cause | None:
    """``learning_rate`` of a point is what Prodigy found, times the recipe's."""
    found = [point.learning_rate for point in evidence.points]
    most = _RATES["adamw"][1] * _unit(evidence)
    if not found or found[-1] <= most:
        return None
    lower = evidence.recipe.optimizer.learning_rate * most / found[-1] / 2
    return Cause(
        f"Prodigy had raised its rate from {found[0]:.3g} to {found[-1]:.3g}, and above "
        f"{most:g} is more than such a base bears",
        [f"optimizer.learning_rate={float(f'{lower:.1g}'):g}"],
    )


def _scale(evidence: Evidence) -> Cause | None:
    network = evidence.recipe.network
    scale = network.alpha / (math.sqrt(network.rank) if network.rslora else network.rank)
    if scale <= _SCALE:
        return None
    return Cause(
        f"network.alpha = {network.alpha:g} at rank {network.rank} multiplies what the LoRA says "
        f"by {scale:.3g}; 0.5 to 1 is usual",
        [f"network.alpha={network.rank}.0"],
    )


def _rise(evidence: Evidence) -> Cause | None:
    begin = risen_from(evidence.points)
    if not begin:
        return None
    before = [point for point in evidence.points if point.step < begin]
    last = evidence.points[-_SPAN:]
    norms = [sum(p.grad_norm for p in part) / len(part) for part in (before, last)]
    return Cause(
        f"the loss had risen since step {begin}, from {_mean(before):.3g} to {_mean(last):.3g}, "
        f"and the gradient from {norms[0]:.3g} to {norms[1]:.3g}: the rate is too high for this "
        "recipe",
        [_lower(evidence)],
    )


def risen_from(points: Sequence[Point]) -> int:
    """The step from which on the loss stayed far above what it was before; 0 if it did not."""
    usual = median([point.loss for point in points[: len(points) // 2]] or [0.0])
    low = [
        first
        for first in range(len(points) - _SPAN + 1)
        if _mean(points[first : first + _SPAN]) <= _RISEN * usual
    ]
    if not low or low[-1] == len(points) - _SPAN:
        return 0
    return points[low[-1] + 1].step


def told(cause: Cause, run: str, at: int) -> str:
    """The cause and how to go on, in sentences. ``at``: the step to go on from; 0: from none."""
    text = f"Likely cause: {cause.why}."
    if cause.advice:
        text += f" {cause.advice}."
    if cause.settings:
        sets = " ".join(f"--set {one}" for one in cause.settings)
        where = f"goes on from step {at}" if at else "begins anew"
        text += f" `lora-tui run fork {run} --at {at} {sets}` {where} without it."
    return text


@torch.no_grad()
def gathered(
    recipe: Recipe, base: Base, adapter: Adapter, feed: Feed, paths: Sequence[str], run_dir: Path,
    bad: Point,
) -> Evidence:  # fmt: skip
    """Look into the step that failed. ``paths``: of the run's pictures, in the feed's order."""
    precision = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(base.dtype, "fp32")
    best = best_precision(base.device)
    pictures: list[Seen] = []
    try:
        with adapter.set_aside():
            pictures = _asked_again(base, feed, paths, bad.step - 1)
    except RuntimeError as error:  # such as no memory: the rest of the evidence is still there
        if poisoned(error):
            raise
    return Evidence(
        recipe=recipe,
        step=bad.step,
        loss=bad.loss,
        norm=bad.grad_norm,
        points=points_of(run_dir / "metrics.csv", bad.step),
        precision=precision,
        better="bf16" if best == "bf16" and precision == "fp16" else "fp32",
        small=sum(one.numel() for one in base.denoiser.parameters()) < SMALL,
        pictures=pictures,
        usual_latent=median(latent_of(feed, index) for index in range(len(feed.moments))),
        weights=weights_of(recipe.loss, base).tolist(),
    )


def _asked_again(base: Base, feed: Feed, paths: Sequence[str], step: int) -> list[Seen]:
    """Each picture of a step, counted from 0, as it was, through the bare base."""
    found = []
    for part in range(feed.parts):
        for batch in feed.batches(step, part):
            t = batch.timesteps
            signal, spread = (
                one.to(base.device)[t][:, None, None, None] for one in (base.signal, base.spread)
            )
            noisy = signal * batch.latents + spread * batch.mixed
            predicted = base.denoise(noisy, t, batch.text, batch.views)
            fails = ~torch.isfinite(predicted).flatten(1).all(1)
            found += [
                Seen(paths[index], int(t[n]), latent_of(feed, index), bool(fails[n]))
                for n, index in enumerate(batch.pictures)
            ]
    return found


def latent_of(feed: Feed, index: int) -> float:
    """The greatest of a picture's latents, by size."""
    return max(float((one.mean.abs() + one.deviation).max()) for one in feed.moments[index])


def points_of(path: Path, before: int) -> list[Point]:
    """The rows of a run's ``metrics.csv`` from steps before ``before``, as far as there are any."""
    with contextlib.suppress(OSError):
        return [point for point in series.points(path) if point.step < before]
    return []


def _unit(evidence: Evidence) -> float:
    return SMALL_RATE if evidence.small else USUAL_RATE


def _lower(evidence: Evidence) -> str:
    return f"optimizer.learning_rate={evidence.recipe.optimizer.learning_rate / 3:.1g}"


def _mean(points: Sequence[Point]) -> float:
    return sum(point.loss for point in points) / len(points) if points else math.nan
