"""What one run or several will come to: steps, minutes, megabytes, from what ran before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from lora_tui.core import words
from shared.foretelling import Foretold, Spent, foretell
from shared.recipe import Recipe, held_out_count, steps_per_epoch, total_steps
from shared.wire import BaseModel, Lora, Run


class Sums(msgspec.Struct, frozen=True):
    """Of all runs together."""

    runs: int
    steps: int
    shortest: int  # steps of the shortest run
    longest: int
    seconds: float | None  # by the clock, on all GPUs; None: no run on this base yet
    memory: float | None  # bytes, of the run that takes most; None: no run like it yet
    alike: bool  # whether runs of the same kind say so, not only on the same base
    bytes: float | None  # of all LoRA files; None: no LoRA of this base yet


def sums(
    recipes: Sequence[Recipe], pictures: int, shown: Sequence[int], runs: Iterable[Run],
    loras: Iterable[Lora], bases: Iterable[BaseModel], gpus: int = 1,
) -> Sums:  # fmt: skip
    """``pictures``: of the dataset, those to be kept back among them. ``shown``: samples of each
    bucket, where they are known. ``gpus``: what trains at once."""
    runs, loras, bases = list(runs), list(loras), list(bases)
    past = took(runs)
    steps, size, foretold = [], [0.0], []
    known_size = True
    for recipe in recipes:
        left = pictures - held_out_count(recipe, pictures)
        total = total_steps(recipe, left, shown)
        steps.append(total)
        epoch = steps_per_epoch(recipe, left, shown)
        foretold.append(foretell(resolved(recipe, bases), left, total, epoch, past))
        each = lora_size(recipe, loras)
        known_size &= each is not None
        size.append((each or 0) * files(recipe, total, epoch))
    seconds = [
        (one.seconds, recipe.training.num_processes)
        for one, recipe in zip(foretold, recipes, strict=True)
        if one.seconds is not None
    ]
    memory = [one.memory for one in foretold if one.memory is not None]
    return Sums(
        len(recipes), sum(steps), min(steps, default=0), max(steps, default=0),
        by_the_clock(seconds, gpus) if len(seconds) == len(recipes) else None,
        max(memory) if memory and len(memory) == len(recipes) else None,
        all(one.alike for one in foretold), sum(size) if known_size else None,
    )  # fmt: skip


def by_the_clock(runs: Iterable[tuple[float, int]], gpus: int) -> float:
    """Seconds until the last run is over: each takes so many, on so many GPUs (or on all, if there
    are fewer), and begins in its turn when these are free."""
    free = [0.0] * gpus
    for seconds, wanted in runs:
        free.sort()
        taken = min(wanted, gpus)
        free[:taken] = [free[taken - 1] + seconds] * taken
    return max(free)


def took(runs: Iterable[Run]) -> list[Spent]:
    """What finished runs took, the newest first."""
    newest = sorted(runs, key=lambda run: -run.created)
    return [run.spent for run in newest if run.spent is not None]


def resolved(recipe: Recipe, bases: Iterable[BaseModel]) -> Recipe:
    """With the base's own resolution, where it says none, as the run's recipe will have it."""
    sides = {base.name: base.resolution for base in bases}
    side = recipe.dataset.resolution or sides.get(recipe.base.name, 0)
    return replace(recipe, dataset=replace(recipe.dataset, resolution=side))


def in_words(found: Foretold | Sums) -> str:
    """Minutes and memory, and by what they are told; empty where nothing is known."""
    if found.seconds is None:
        return ""
    memory = f", {words.size(found.memory)} of memory" if found.memory is not None else ""
    like = "runs like it" if found.alike else "other runs on this base"
    return f"about {words.duration(found.seconds)}{memory}, by what {like} took"


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
