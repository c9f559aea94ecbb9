"""What a recipe asks for and the daemon does not have, as far as its state tells."""

from __future__ import annotations

from collections.abc import Iterable

from shared import wire
from shared.recipe import Recipe


def base_wanting(name: str, bases: Iterable[wire.BaseModel]) -> str:
    """Why this base cannot be trained on, in words; empty if it can. A path is the daemon's to look
    at, and so is everything while it has told of no base."""
    known = {base.name: base for base in bases}
    if not known or name.startswith(("/", "~")):
        return ""
    if name not in known:
        return "this daemon has no such base yet"
    return known[name].problem


def dataset_wanting(name: str, datasets: Iterable[wire.Dataset]) -> str:
    """Why there is nothing to train on, in words; empty if there is."""
    if not name:
        return "choose a dataset first"
    known = [dataset.name for dataset in datasets]
    return "" if name in known else "this daemon has no such dataset"


def wanting(recipes: Iterable[Recipe], state: wire.State) -> dict[str, str]:
    """Both for every run of a sweep, by the option's key."""
    found: dict[str, str] = {}
    for recipe in recipes:
        base = base_wanting(recipe.base.name, state.bases)
        dataset = dataset_wanting(recipe.dataset.name, state.datasets)
        for key, why in (("base.name", base), ("dataset.name", dataset)):
            if why:
                found.setdefault(key, why)
    return found
