"""What one run or several will come to: steps, minutes, megabytes, from what ran before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from shared.recipe import Recipe, held_out_count, steps_per_epoch, total_steps
from shared.wire import Lora, Run


class Sums(msgspec.Struct, frozen=True):
    """Of all runs together."""

    runs: int
    steps: int
    shortest: int  # steps of the shortest run
    longest: int
    seconds: float | None  # None: no run on this base yet
    bytes: float | None  # of all LoRA files; None: no LoRA of this base yet


def sums(
    recipes: Sequence[Recipe], pictures: int, shown: Sequence[int], runs: Iterable[Run],
    loras: Iterable[Lora],
) -> Sums:  # fmt: skip
    """``pictures``: of the dataset, those to be kept back among them. ``shown``: samples of each
    bucket, where they are known."""
    runs, loras = list(runs), list(loras)
    steps, seconds, size = [], [0.0], [0.0]
    known_seconds = known_size = True
    for recipe in recipes:
        left = pictures - held_out_count(recipe, pictures)
        total = total_steps(recipe, left, shown)
        steps.append(total)
        speed = known_speed(recipe.base.name, runs)
        each = lora_size(recipe, loras)
        known_seconds &= speed is not None
        known_size &= each is not None
        seconds.append(total / (speed or 1))
        size.append((each or 0) * files(recipe, total, steps_per_epoch(recipe, left, shown)))
    return Sums(
        len(recipes), sum(steps), min(steps, default=0), max(steps, default=0),
        sum(seconds) if known_seconds else None, sum(size) if known_size else None,
    )  # fmt: skip


def known_speed(base: str, runs: Iterable[Run]) -> float | None:
    """Steps a second of the last run on a base."""
    for run in sorted(runs, key=lambda run: -run.created):
        if run.base == base and run.speed:
            return run.speed
    return None


def lora_size(recipe: Recipe, loras: Iterable[Lora]) -> float | None:
    """Bytes of one file: those of the last LoRA trained here on this base, by the ranks."""
    for lora in sorted(loras, key=lambda lora: -lora.created):
        if lora.base == recipe.base.name and lora.run and lora.rank and not lora.problem:
            return lora.size * recipe.network.rank / lora.rank
    return None


def files(recipe: Recipe, steps: int, each: int) -> int:
    """LoRA files that a run of so many steps keeps, ``each`` of them an epoch."""
    save = recipe.save
    intervals = (save.every_steps, save.every_epochs * each)
    kept = {step for every in intervals if every for step in range(every, steps, every)}
    return len(kept) + 1
