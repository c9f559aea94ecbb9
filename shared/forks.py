"""Which settings of a fork let it go on with its parent's state, and which begin something anew."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from shared.recipe import Recipe, options

# Options that decide which pictures there are, and at what size: they are frozen anew.
_DATA = (
    "base.name", "base.family", "dataset.name", "dataset.resolution", "dataset.enable_bucket",
    "dataset.min_bucket_reso", "dataset.max_bucket_reso", "dataset.bucket_reso_steps",
    "dataset.bucket_no_upscale", "dataset.regularisation", "dataset.mask_folder",
    "dataset.random_crop", "dataset.color_jitter", "dataset.versions", "dataset.wildcards",
    "dataset.wildcard_folder", "evaluation.held_out", "evaluation.pictures",
)  # fmt: skip
# Options that a state of other ones does not fit: its tensors or its steps.
_MEMORY = (
    "network.", "optimizer.kind", "optimizer.rates", "optimizer.lora_plus", "dataset.repeats",
    "training.batch_size", "training.accumulation", "training.ema", "training.num_processes",
    "optimizer.text_encoder_rate",
)  # fmt: skip


def changed(before: Recipe, after: Recipe) -> list[str]:
    """Keys of the options that differ."""
    keys = [option.key for option in options()]
    return [key for key in keys if attrgetter(key)(before) != attrgetter(key)(after)]


def new_data(keys: Iterable[str]) -> list[str]:
    """Those of ``keys`` that have pictures and captions frozen anew."""
    return [key for key in keys if _is(key, _DATA)]


def unfit(keys: Iterable[str]) -> list[str]:
    """Those of ``keys`` that a state does not go together with."""
    keys = list(keys)
    return [*new_data(keys), *(key for key in keys if _is(key, _MEMORY))]


def _is(key: str, of: Iterable[str]) -> bool:
    return any(key == one or (one.endswith(".") and key.startswith(one)) for one in of)
