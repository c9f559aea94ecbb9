"""Which modules of a base a recipe trains, and by which of its patterns. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lora_daemon import base_look
from lora_daemon.families import Network
from lora_daemon.names import GROUPS, denoiser_names, targeted, text_names
from shared import blocks, patterns, recipe
from shared.errors import Code, LoraError
from shared.recipe import Recipe

Place = tuple[str, str]  # network and module path


class Trained(NamedTuple):
    """A module that is to be trained. ``ranks``: the entry of ``network.ranks`` that fits it.
    ``pace``: how much faster than the others it learns."""

    name: str  # in LoRA files
    ranks: str | None
    pace: float


def trained(
    names: Mapping[Network, Mapping[str, str]], layers: int, network: recipe.Network,
    rates: Sequence[str],
) -> dict[Place, Trained]:  # fmt: skip
    """What a recipe trains of a base, network by network. ``names``: the table of each, the
    denoiser's first; ``layers``: of a UNet's block, 0 where blocks are single ones.

    Raises LoraError(INVALID_RECIPE): a pattern that fits nothing, or nothing is left.
    """
    denoiser, *_ = names
    rows = {
        (part, path): name
        for part, table in names.items()
        for path, name in (
            targeted(table, network.targets, GROUPS[part]) if part == denoiser else table
        ).items()
    }
    found: dict[Place, Trained] = {}
    used: dict[str, set[int | None]] = {"network.ranks": set(), "optimizer.rates": set()}
    like: list[str] = []  # what the first is called, the denoiser's
    for (part, path), name in rows.items():
        if part == denoiser:
            called = [blocks.label(path, layers), f"{part}.{path}"]
        else:  # which transformers has under text_model in some versions and not in others
            bare = path.removeprefix("text_model.")
            called = [blocks.TEXT, f"{part}.{bare}", f"{part}.text_model.{bare}"]
        like = like or called
        ranked, paced = patterns.find(network.ranks, called), patterns.find(rates, called)
        used["network.ranks"].add(ranked)
        used["optimizer.rates"].add(paced)
        entry = None if ranked is None else network.ranks[ranked]
        pace = 1.0 if paced is None else patterns.read(rates[paced], 1)[1][0]
        if pace and (entry is None or patterns.read(entry, 2)[1][0]):
            found[part, path] = Trained(name, entry, pace)
    for key, entries in (("network.ranks", network.ranks), ("optimizer.rates", rates)):
        if idle := [one for number, one in enumerate(entries) if number not in used[key]]:
            raise _invalid(
                key,
                f"{idle[0]} fits none of the modules that are trained, or one before it fits them "
                f"all. Their names are like {like[0]} and {like[1]}.",
            )
    if not found:
        raise _invalid("network.ranks", "with optimizer.rates they leave nothing to train.")
    return found


def check(path: Path, recipe: Recipe) -> None:
    """Hold a recipe's patterns against the base at ``path``. Raises LoraError: INVALID_RECIPE, and
    as ``base_look.look``."""
    network, rates = recipe.network, recipe.optimizer.rates
    if not network.ranks and not rates:
        return
    family = base_look.family(path)
    config = base_look.config(path, family.denoiser)
    names = {family.denoiser: denoiser_names(family, config)}
    for use in family.encoders if recipe.optimizer.text_encoder_rate > 0 else ():
        count = base_look.config(path, use.network)["num_hidden_layers"]
        names[use.network] = text_names(count, "", use.lora_prefix)
    trained(names, int(config.get("layers_per_block", 0)), network, rates)


def _invalid(key: str, why: str) -> LoraError:
    return LoraError(Code.INVALID_RECIPE, f"{key}: {why}", data={"key": key})
