"""A caption as it is shown in one step: wildcards chosen, tags shuffled or left out, or all of it.

A wildcard is ``{red|green}``, or ``__colour__`` for a line of the file ``colour.txt``; they may
hold others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from lora_daemon.engine.encoders import Reading
from lora_daemon.engine.randomness import generator
from shared.recipe_schema import Dataset, Recipe
from shared.wildcards import NAMED

_CHOICE = re.compile(r"\{([^{}]*)\}")
_MOST = 100  # replacements in a caption: files that name each other in a circle


def reading(recipe: Recipe) -> Reading:
    """How a run reads its captions and prompts."""
    dataset = recipe.dataset
    return Reading(dataset.clip_skip, dataset.windows, dataset.joined)


def varies(settings: Dataset) -> bool:
    """Whether a caption has more forms than itself and none."""
    return settings.shuffle_tags or settings.tag_dropout > 0 or settings.wildcards


def shown(
    caption: str, settings: Dataset, seed: int, step: int, slot: int,
    files: Mapping[str, list[str]] | None = None,
) -> str:  # fmt: skip
    """The caption of a picture in a step; it depends on the seed, the step and the slot alone.

    ``files``: the lines of wildcards, by name.
    """
    if not (varies(settings) or settings.caption_dropout):
        return caption
    own = generator(seed, "caption", step, slot)
    if settings.caption_dropout and _chance(own) < settings.caption_dropout:
        return ""
    if settings.wildcards:
        caption = _chosen(caption, files or {}, own)
    if not (settings.shuffle_tags or settings.tag_dropout):
        return caption
    tags = [tag for part in caption.split(",") if (tag := part.strip())]
    kept, tags = tags[: settings.keep_tokens], tags[settings.keep_tokens :]
    if settings.shuffle_tags:
        tags = [tags[place] for place in torch.randperm(len(tags), generator=own).tolist()]
    if settings.tag_dropout:
        tags = [tag for tag in tags if _chance(own) >= settings.tag_dropout]
    return ", ".join(kept + tags)


def _chosen(caption: str, files: Mapping[str, list[str]], own: torch.Generator) -> str:
    """Wildcards replaced, the innermost first."""
    for _ in range(_MOST):
        if match := _CHOICE.search(caption):
            options = match[1].split("|")
        elif match := NAMED.search(caption):
            options = files.get(match[1], [""])
        else:
            break
        one = options[int(torch.randint(len(options), (), generator=own))]
        caption = caption[: match.start()] + one + caption[match.end() :]
    return caption


def _chance(own: torch.Generator) -> float:
    return float(torch.rand((), generator=own))
