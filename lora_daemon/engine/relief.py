"""Out of memory in training: what the run takes, counted, and the settings that save most of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from lora_daemon.engine.bases import best_precision
from lora_daemon.engine.memory import Need, in_words
from lora_daemon.engine.optimizers import no_8bit
from lora_daemon.engine.quantized import NONE
from shared import recipe as recipes
from shared.errors import LoraError
from shared.recipe import Recipe

ROOM = 0.92  # of the device's memory: the rest is the context's, and lies between blocks
WORTH = 0.01  # a setting that saves a smaller share is not offered


class Setting(NamedTuple):
    """What could be set besides. ``sets``: "key=value"; ``cost``: what is learnt stays the same at
    0, nearly the same at 1, and is something else at 2."""

    sets: list[str]
    cost: int


class Relief(NamedTuple):
    """``sets``: "key=value", those that save most first. ``before`` and ``after``: bytes."""

    sets: list[str]
    before: int
    after: int


def settings(recipe: Recipe, precision: str, side: int, device: torch.device) -> list[Setting]:
    """What would save memory and is not set yet, as far as it goes together with the rest."""
    training, found = recipe.training, []
    if not training.checkpointing:
        found.append(Setting(["training.checkpointing=true"], cost=0))
    if training.batch_size > 1:
        accumulation = training.accumulation * training.batch_size
        sets = ["training.batch_size=1", f"training.accumulation={accumulation}"]
        found.append(Setting(sets, cost=0))
    if device.type == "cuda" and precision == "fp32":
        found.append(Setting([f"training.precision={best_precision(device)}"], cost=0))
    if recipe.optimizer.kind == "adamw" and not no_8bit(device):
        found.append(Setting(["optimizer.kind=adamw8bit"], cost=0))
    if recipe.base.quantize == NONE:
        found.append(Setting(["base.quantize=int8"], cost=1))
    smaller = side * 3 // 4 // 64 * 64 or side // 2
    found.append(Setting([f"dataset.resolution={smaller}"], cost=2))
    return [one for one in found if _taken(recipe, one.sets)]


def relief(
    recipe: Recipe, offered: Sequence[Setting], need: Callable[[Recipe], Need], limit: int
) -> Relief:
    """What saves most, and more until what is needed is within ``limit`` bytes (0: unknown); where
    nothing is enough, all that save. What costs least of the learning comes first."""
    before = after = need(recipe).most
    sets: list[str] = []
    left = list(offered)
    while left and (not sets or (limit and after > limit)):
        tried = []
        for one in left:
            if changed := _taken(recipe, [*sets, *one.sets]):
                tried.append((-one.cost, after - need(changed).most, one))
        tried = [one for one in tried if one[1] > WORTH * before]
        if not tried:
            break
        _, saved, best = max(tried, key=lambda one: one[:2])
        sets, after = [*sets, *best.sets], after - saved
        left.remove(best)
    return Relief(sets, before, after)


def told(found: Relief, need: Need, limit: int, run: str, step: int) -> str:
    """What to set, in sentences. ``step``: the one that the run has got to."""
    text = (
        f"The memory is not enough: counted, this recipe takes {in_words(found.before)} (the base "
        f"{in_words(need.frozen)}, the LoRA and its optimiser {in_words(need.adapter)}, a step "
        f"{in_words(need.step)}, the VAE before it {in_words(need.encoding)})"
    )
    text += f" of the {in_words(limit)} that can be had." if limit else "."
    if not found.sets:
        return f"{text} Nothing is left to set that saves: close what else uses the device."
    most = "saves most" if len(found.sets) == 1 else "together save most"
    text += f" {', '.join(found.sets)} {most}: {in_words(found.after)} then."
    if limit and found.after > limit:
        text += " That is still more than there is: close what else uses the device, too."
    command = " ".join(f"--set {one}" for one in found.sets)
    goes_on = f"goes on from step {step}" if step else "begins it"
    return f"{text} `lora-tui run fork {run} {command}` {goes_on} so."


def available(device: torch.device) -> int:
    """Bytes that this process can have of the device: free ones and its own."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int((free + torch.cuda.memory_reserved(device)) * ROOM)
    return 0


def _taken(recipe: Recipe, sets: list[str]) -> Recipe | None:
    """The recipe with these settings; None where they contradict it."""
    try:
        return recipes.parse(recipes.dump(recipe), sets)
    except LoraError:
        return None


def data(found: Relief) -> dict[str, Any]:
    """The same for programs."""
    return {"settings": found.sets, "needed": found.before, "needed_so": found.after}
