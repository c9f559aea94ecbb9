"""Which checkpoint to take, from what was measured: plain arithmetic, without torch.

The rule is the one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984):
the earliest of those that cannot be told from the best. Losses are compared picture by picture, so
that a picture that is hard for all of them counts for none.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.recipe import LEAST_HELD_OUT
from shared.which import Spread

RESAMPLES = 1000
BASE = "step 0"
ENOUGH = 0.8  # of the gain on trained pictures: what to take where none was kept back
_ALONE = "is the only checkpoint kept and measured, so there is nothing to choose between"
NEAR = 2.0  # standard deviations from which a picture is more like a copy than like a relative


@dataclass(frozen=True)
class Measurement:
    """A candidate's numbers. Losses are relative to the bare base's, one a picture, in the same
    order for all candidates."""

    name: str
    step: int
    average: bool = False
    held: Sequence[float] = ()
    train: Sequence[float] = ()
    drift: float | None = None
    leak: float | None = None
    nearness: float | None = None


@dataclass
class Judgement:
    """What follows. ``behind``: of each candidate, how far its loss is above the best's."""

    best: str = ""
    recommended: str = ""
    reason: str = ""
    tied: list[str] = field(default_factory=list)
    behind: dict[str, Spread] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def spread(values: Sequence[float], seed: int = 0) -> Spread:
    """Mean, 95 % percentile interval and standard error by bootstrap; one value has no spread."""
    mean = statistics.fmean(values)
    number = len(values)
    if number < 2:
        return Spread(mean=mean, low=mean, high=mean, error=0.0)
    rng = random.Random(seed)
    # The same draws for the same number of pictures: what is compared is compared in pairs.
    means = sorted(sum(rng.choices(values, k=number)) / number for _ in range(RESAMPLES))
    return Spread(
        mean=mean, low=means[RESAMPLES // 40], high=means[-RESAMPLES // 40 - 1],
        error=statistics.stdev(means),
    )  # fmt: skip


def gain(measured: Mapping[str, Measurement], name: str, what: str) -> Spread | None:
    """The change of a candidate's loss from the bare base; None where either is not known."""
    own, base = getattr(measured[name], what), getattr(measured.get(BASE), what, ())
    if not own or not base:
        return None
    return spread([one - other for one, other in zip(own, base, strict=True)])


def best_of(measured: Mapping[str, Measurement]) -> Measurement | None:
    """The single checkpoint with the lowest loss, on pictures kept back where there are any."""
    _, singles, what = _singles(measured)
    return min(singles, key=lambda one: statistics.fmean(getattr(one, what)), default=None)


def judge(measured: Mapping[str, Measurement]) -> Judgement:
    """What to take of what is measured, by name; the bare base is ``BASE`` among it."""
    whole, singles, what = _singles(measured)
    best = best_of(measured)
    if best is None:
        return Judgement()
    by = _by_held_out if what == "held" else _by_trained
    found = by(whole, singles, best)
    _warn(whole, found)
    return found


def _singles(
    measured: Mapping[str, Measurement],
) -> tuple[dict[str, Measurement], list[Measurement], str]:
    """Those whose losses are all known, and the single checkpoints of them by step; and which loss
    they are judged by. One whose turn has not come keeps no other from being judged."""
    base = measured.get(BASE)
    what = "held" if base is not None and base.held else "train"
    parts = {what, "train"} if base is not None and base.train else {what}
    whole = {
        name: one for name, one in measured.items() if all(getattr(one, part) for part in parts)
    }
    singles = [one for one in whole.values() if one.step and not one.average]
    return whole, sorted(singles, key=lambda one: one.step) if BASE in whole else [], what


def _by_held_out(
    measured: Mapping[str, Measurement], singles: Sequence[Measurement], best: Measurement
) -> Judgement:
    found = Judgement(best=best.name)
    for one in measured.values():
        if one.held and one.name != BASE:
            pairs = zip(one.held, best.held, strict=True)
            found.behind[one.name] = spread([own - least for own, least in pairs])
    tied = [one for one in singles if _ties(found.behind[one.name])]
    found.tied = [one.name for one in tied]
    take = tied[0]
    pictures = len(best.held)
    own, top = gain(measured, take.name, "held"), gain(measured, best.name, "held")
    assert own is not None and top is not None
    if len(singles) == 1:
        text = f"{_ALONE}: its loss on {pictures} pictures kept back is {own.mean:+.1%} from the "
        text += f"bare base's (95 % {own.low:+.1%} to {own.high:+.1%})"
    elif take is best:
        text = f"has the lowest loss on {pictures} pictures kept back ({own.mean:+.1%} from the "
        text += f"bare base, 95 % {own.low:+.1%} to {own.high:+.1%})"
        text += ", and no earlier checkpoint is within one standard error of it"
    else:
        behind = found.behind[take.name]
        text = f"is the earliest whose loss on {pictures} pictures kept back ({own.mean:+.1%} from "
        text += f"the bare base) is within one standard error of the best, {best.name} "
        text += f"({top.mean:+.1%}; {behind.mean:.1%} apart, ±{behind.error:.1%})"
    found.recommended, found.reason = take.name, f"{_capital(take.name)} {text}."
    for one in measured.values():
        if one.average and one.held and (apart := found.behind[one.name]).mean < -apart.error:
            found.recommended = one.name
            found.reason = (
                f"The {one.name} has a lower loss on {pictures} pictures kept back than any single "
                f"checkpoint: {-apart.mean:.1%} below {best.name}, ±{apart.error:.1%}."
            )
    _say_of_the_curve(measured, singles, best, top, found)
    return found


def _ties(behind: Spread) -> bool:
    return behind.mean <= behind.error


def _say_of_the_curve(
    measured: Mapping[str, Measurement], singles: Sequence[Measurement], best: Measurement,
    top: Spread, found: Judgement,
) -> None:  # fmt: skip
    last = singles[-1]
    if len(best.held) < LEAST_HELD_OUT:
        found.notes.append(
            f"Only {len(best.held)} of the pictures kept back could be measured: too few for the "
            "intervals to mean much."
        )
    if top.high >= 0:
        found.notes.append(
            "No checkpoint is surely better than the bare base on the pictures kept back: what "
            "was learnt does not carry over to them."
        )
    if last is best and len(singles) > 1:
        found.notes.append(
            f"The loss on pictures kept back was still falling at {last.name}: a longer run may "
            "be better."
        )
    behind = found.behind[last.name]
    learnt = gain(measured, last.name, "train"), gain(measured, best.name, "train")
    if behind.low > 0 and learnt[0] and learnt[1] and learnt[0].mean < learnt[1].mean:
        found.notes.append(
            f"After {best.name} the loss on pictures kept back rises ({behind.mean:+.1%} by "
            f"{last.name}), and on trained pictures it goes on falling: over-fitting."
        )


def _by_trained(
    measured: Mapping[str, Measurement], singles: Sequence[Measurement], best: Measurement
) -> Judgement:
    """Where no picture was kept back, the loss cannot tell learning from over-fitting."""
    gains = {one.name: gain(measured, one.name, "train") for one in singles}
    most = min(one.mean for one in gains.values() if one is not None)
    enough = [
        one for one in singles
        if (own := gains[one.name]) is not None and own.mean <= ENOUGH * most
    ] if most < 0 else []  # fmt: skip
    found = Judgement(
        notes=[
            "No picture was kept back, so over-fitting cannot be measured: compare by eye. With "
            "more than ten pictures, evaluation.held_out = 0.15 keeps some back; with ten or fewer "
            "save often, stop early, and let the blind choice decide."
        ]
    )
    if not enough:
        found.notes.append("The loss on the trained pictures is not below the bare base's.")
        return found
    take = enough[0]
    own = gains[take.name]
    assert own is not None
    found.best = best.name
    found.tied = [one.name for one in enough]
    found.recommended = take.name
    if len(singles) == 1:
        found.reason = (
            f"{_capital(take.name)} {_ALONE}: its loss on its own pictures is {own.mean:+.1%} from "
            "the bare base's. A smaller save.every_epochs keeps more."
        )
        return found
    found.reason = (
        f"{_capital(take.name)} is the earliest with {ENOUGH:.0%} of what the run learnt of its "
        f"own pictures ({own.mean:+.1%} of {most:+.1%}): a place to begin comparing by eye, for no "
        "picture was kept back to measure by."
    )
    return found


def _warn(measured: Mapping[str, Measurement], found: Judgement) -> None:
    take = measured.get(found.recommended)
    if take is None:
        return
    if take.nearness is not None and take.nearness > NEAR:
        found.notes.append(
            f"Pictures by {take.name} are more like single training pictures than those are like "
            f"one another ({take.nearness:+.1f} standard deviations): it may copy."
        )
    if take.leak is not None and take.leak > 0.9:
        found.notes.append(
            f"{_capital(take.name)} does nearly as much without the trigger word as with it "
            f"({take.leak:.0%})."
        )


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
