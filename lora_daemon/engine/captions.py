"""A caption as it is shown in one step: tags shuffled or left out, or the whole of it."""

from __future__ import annotations

import torch

from lora_daemon.engine.randomness import generator
from shared.recipe_schema import Dataset


def varies(settings: Dataset) -> bool:
    """Whether a caption has more forms than itself and none."""
    return settings.shuffle_tags or settings.tag_dropout > 0


def shown(caption: str, settings: Dataset, seed: int, step: int, slot: int) -> str:
    """The caption of a picture in a step; it depends on the seed, the step and the slot alone."""
    if not (varies(settings) or settings.caption_dropout):
        return caption
    own = generator(seed, "caption", step, slot)
    if settings.caption_dropout and _chance(own) < settings.caption_dropout:
        return ""
    if not varies(settings):
        return caption
    tags = [tag for part in caption.split(",") if (tag := part.strip())]
    kept, tags = tags[: settings.keep_tokens], tags[settings.keep_tokens :]
    if settings.shuffle_tags:
        tags = [tags[place] for place in torch.randperm(len(tags), generator=own).tolist()]
    if settings.tag_dropout:
        tags = [tag for tag in tags if _chance(own) >= settings.tag_dropout]
    return ", ".join(kept + tags)


def _chance(own: torch.Generator) -> float:
    return float(torch.rand((), generator=own))
