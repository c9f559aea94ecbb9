"""What a fork's window says while one fills it in: options, present values, how far it goes."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from operator import attrgetter

from lora_tui.core import words
from shared import forks
from shared import recipe as recipes
from shared.errors import Code, LoraError
from shared.wire import RunDetail

LINES = 4  # for what is set otherwise
_KEYS = [option.key for option in recipes.options()]


def epoch(detail: RunDetail) -> tuple[int, str]:
    """The steps of an epoch of a run (with buckets, about), and what more steps of it will be."""
    recipe = recipes.parse(detail.recipe)
    each = recipes.steps_per_epoch(recipe, detail.run.pictures)
    kind = recipe.schedule.kind
    becomes = (
        "It becomes what it would have been with so many from the beginning."
        if kind == "constant"
        else f"Its {kind} schedule is worked out anew over all steps, so the rate jumps."
    )
    return each, f"An epoch is {words.plural(each, 'step')}. {becomes}"


def steps(detail: RunDetail) -> list[tuple[int, str]]:
    """(step, in words) that a fork can begin from, its latest (-1) first."""
    kept = sorted({one.step for one in detail.checkpoints}, reverse=True)
    latest = max([detail.run.step, *kept])
    found = [(-1, f"its latest, step {words.count(latest)}" if latest else "the beginning")]
    found += [(step, f"the LoRA of step {words.count(step)}") for step in kept if step != latest]
    return found if not latest else [*found, (0, "the beginning")]


def offered(detail: RunDetail) -> tuple[int, list[str]]:
    """The step and the settings of the `run fork` that a failed run's message names: its latest
    (-1) and none where it names no fork."""
    named = re.search(r"`lora-tui run fork (.+?)`", detail.run.message)
    parts = shlex.split(named[1]) if named and detail.run.state == "failed" else []
    said = list(pairwise(parts))
    known = {step for step, _ in steps(detail)}
    at = next((int(value) for option, value in said if option == "--at" and value.isdecimal()), -1)
    settings = [value for option, value in said if option == "--set"][:LINES]
    return at if at in known else -1, settings


def completed(text: str) -> str | None:
    """The option that begins as ``text`` does, or whose last part does; None if there is none or
    its value is being typed already."""
    if not text or "=" in text:
        return None
    return next((f"{key}=" for key in _KEYS if key.startswith(text)), None)


def about(text: str, recipe: str) -> str:
    """What is typed at: the option's value in the parent, and its help."""
    key = text.partition("=")[0].strip()
    option = next((one for one in recipes.options() if one.key == key), None)
    if option is None:
        near = [one for one in _KEYS if key and key in one][:6]
        return f"Options with {key!r}: {', '.join(near)}" if near else ""
    now = recipes.written(attrgetter(key)(recipes.parse(recipe)))
    return f"{key} is {now} in the parent. {option.help}"


def foretold(detail: RunDetail, settings: list[str], step: int) -> str:
    """What a fork begins from and how far it goes (with buckets, about).

    Raises LoraError(INVALID_RECIPE) for settings that cannot be.
    """
    for setting in settings:
        if "=" not in setting:
            raise LoraError(
                Code.INVALID_RECIPE,
                f"{setting!r} has no value: OPTION=VALUE, such as network.rank=16.",
            )
    before = recipes.parse(detail.recipe)
    recipe = recipes.parse(detail.recipe, settings, where="the fork's recipe")
    total = recipes.total_steps(recipe, detail.run.pictures)
    if not settings:
        return f"Nothing is set otherwise yet. Its parent goes to step {words.count(total)}."
    unfit = forks.unfit(forks.changed(before, recipe))
    kept = max((one.step for one in detail.checkpoints), default=0)
    latest = kept if unfit else max(detail.run.step, kept)
    begins = latest if step < 0 else step
    if not begins:
        return f"Takes {words.plural(total, 'step')} from the beginning."
    if unfit or begins < detail.run.step:
        why = f", as {', '.join(unfit)} does not go with its state" if unfit else ""
        return (
            f"Begins from the LoRA of step {words.count(begins)}{why}: takes "
            f"{words.plural(total, 'step')} with a new optimiser."
        )
    if total <= begins:
        raise LoraError(
            Code.INVALID_RECIPE,
            f"It would end at step {words.count(total)} and begins at {words.count(begins)}. Set "
            f"training.epochs or training.max_steps to more, or begin earlier.",
        )
    return f"Goes on from step {words.count(begins)} to {words.count(total)}; nothing begins anew."
