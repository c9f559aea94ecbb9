"""Sweeps: one recipe and some values of some options make a recipe for each combination."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import msgspec

from shared import recipe as recipes
from shared.errors import Code, LoraError
from shared.recipe import Recipe

MOST = 64  # runs of one sweep
_OPENS, _CLOSES = "[{(", "]})"


class Swept(msgspec.Struct, frozen=True):
    """One run of a sweep: its recipe, and the values that set it apart."""

    settings: list[str]  # "network.rank=4"
    recipe: Recipe


def axis(text: str) -> tuple[str, list[str]]:
    """Key and values of ``network.rank=4,8,16``. A comma inside brackets or quotes divides nothing.

    Raises LoraError(INVALID_RECIPE).
    """
    key, equals, rest = text.partition("=")
    values = [value.strip() for value in divided(rest)]
    if not equals or not key.strip() or not all(values):
        raise LoraError(
            Code.INVALID_RECIPE,
            f"--sweep takes KEY=VALUE,VALUE…, such as --sweep network.rank=4,8,16; not {text!r}.",
        )
    if len(set(values)) < len(values):
        raise LoraError(Code.INVALID_RECIPE, f"--sweep {text} has a value twice.")
    return key.strip(), values


def swept(recipe: str, sweep: Sequence[str]) -> list[Swept]:
    """Every combination, the last axis changing fastest, each recipe checked. ``recipe``: TOML.

    Raises LoraError(INVALID_RECIPE) that names the values.
    """
    axes = [axis(text) for text in sweep]
    keys = [key for key, _ in axes]
    if not axes:
        raise LoraError(Code.INVALID_RECIPE, "A sweep needs an option and its values.")
    if len(set(keys)) < len(keys):
        raise LoraError(Code.INVALID_RECIPE, "--sweep names an option twice. Put all its values "
                        "after one --sweep.")  # fmt: skip
    number = 1
    for _, values in axes:
        number *= len(values)
    if number > MOST:
        raise LoraError(
            Code.INVALID_RECIPE,
            f"This sweep is {number} runs; at most {MOST} are queued at once. Leave values out.",
        )
    found = []
    for chosen in product(*(values for _, values in axes)):
        settings = [f"{key}={value}" for key, value in zip(keys, chosen, strict=True)]
        made = recipes.parse(recipe, settings, where=f"the recipe with {', '.join(settings)}")
        found.append(Swept(settings, made))
    return found


def short(settings: Sequence[str]) -> str:
    """Settings as one reads them in a name: ``rank=4 learning_rate=1e-4``."""
    parted = (setting.partition("=") for setting in settings)
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, _, value in parted)


def divided(text: str) -> list[str]:
    """The values between commas; one inside brackets or quotes divides nothing."""
    parts = [""]
    depth, quote = 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _OPENS:
            depth += 1
        elif letter in _CLOSES:
            depth -= 1
        elif letter == "," and not depth:
            parts.append("")
            continue
        parts[-1] += letter
    return parts
