"""Options that do not go together: each with the sentence that says why."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shared.recipe_schema import Recipe

# Options that one choice alone reads: with any other they would be ignored without a word.
_READ_BY: dict[str, tuple[str, Callable[[Recipe], bool]]] = {
    "optimizer.d_coef": ('optimizer.kind = "prodigy"', lambda r: r.optimizer.kind == "prodigy"),
    "optimizer.bias_correction": (
        'optimizer.kind = "prodigy"', lambda r: r.optimizer.kind == "prodigy",
    ),
    "optimizer.safeguard_warmup": (
        'optimizer.kind = "prodigy"', lambda r: r.optimizer.kind == "prodigy",
    ),
    "optimizer.epsilon": (
        'optimizer.kind = "adamw" or "prodigy"',
        lambda r: r.optimizer.kind in ("adamw", "prodigy"),
    ),
    "optimizer.beta1": (
        "another optimizer.kind than adafactor", lambda r: r.optimizer.kind != "adafactor",
    ),
    "optimizer.beta2": (
        "another optimizer.kind than adafactor", lambda r: r.optimizer.kind != "adafactor",
    ),
    "schedule.cycles": (
        'schedule.kind = "cosine_with_restarts"',
        lambda r: r.schedule.kind == "cosine_with_restarts",
    ),
    "schedule.power": (
        'schedule.kind = "polynomial"', lambda r: r.schedule.kind == "polynomial",
    ),
    "schedule.floor": ("a schedule.kind that falls", lambda r: r.schedule.kind != "constant"),
    "loss.huber_c": (
        'loss.kind = "huber" or "smooth_l1"', lambda r: r.loss.kind in ("huber", "smooth_l1"),
    ),
    "loss.huber_schedule": (
        'loss.kind = "huber" or "smooth_l1"', lambda r: r.loss.kind in ("huber", "smooth_l1"),
    ),
    "loss.min_snr_gamma": (
        'loss.weighting = "min_snr"', lambda r: r.loss.weighting == "min_snr",
    ),
    "noise.multires_discount": (
        "noise.multires_iterations above 0", lambda r: r.noise.multires_iterations > 0,
    ),
    "network.conv_rank": ('"conv" among network.targets', lambda r: "conv" in r.network.targets),
    "network.conv_alpha": ('"conv" among network.targets', lambda r: "conv" in r.network.targets),
    "dataset.keep_tokens": (
        "dataset.shuffle_tags or dataset.tag_dropout",
        lambda r: r.dataset.shuffle_tags or r.dataset.tag_dropout > 0,
    ),
}  # fmt: skip


def contradiction(recipe: Recipe) -> str:
    """Why a recipe contradicts itself, in a sentence; empty if it does not."""
    optimizer, training = recipe.optimizer, recipe.training
    if len(set(recipe.network.targets)) < len(recipe.network.targets):
        return "network.targets names a projection twice."
    for key, (reader, reads) in _READ_BY.items():
        section, _, name = key.partition(".")
        table = getattr(recipe, section)
        field = next(f for f in msgspec.structs.fields(table) if f.name == name)
        if getattr(table, name) != field.default and not reads(recipe):
            return f"{key} is read only with {reader}. Take it out, or set that."
    if 0 < training.max_steps <= recipe.schedule.warmup_steps:
        return (
            f"schedule.warmup_steps = {recipe.schedule.warmup_steps} would last the whole run: "
            f"training.max_steps = {training.max_steps}."
        )
    if recipe.noise.offset and recipe.noise.multires_iterations:
        return (
            "noise.offset and noise.multires_iterations are two ways to the same end, and "
            "together they give more noise than the base knows. Take one."
        )
    if recipe.evaluation.held_out and recipe.evaluation.pictures:
        return (
            "evaluation.held_out and evaluation.pictures both say which pictures are kept back. "
            "Take one out."
        )
    if recipe.noise.min_timestep >= recipe.noise.max_timestep:
        return (
            f"noise.min_timestep = {recipe.noise.min_timestep} leaves no timestep below "
            f"noise.max_timestep = {recipe.noise.max_timestep}."
        )
    if optimizer.kind == "prodigy" and optimizer.lora_plus != 1:
        return (
            "optimizer.lora_plus contradicts Prodigy, which finds one rate for all weights. Take "
            "another optimizer.kind, or leave lora_plus at 1."
        )
    if optimizer.kind == "prodigy" and optimizer.text_encoder_rate not in (
        0.0, optimizer.learning_rate,
    ):  # fmt: skip
        return (
            "Prodigy finds one rate for all weights: optimizer.text_encoder_rate must be 0 or "
            f"equal to optimizer.learning_rate = {optimizer.learning_rate}."
        )
    return ""
