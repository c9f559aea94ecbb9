"""Options that do not go together: each with the sentence that says why."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import get_type_hints

import msgspec

from shared import patterns
from shared.errors import LoraError
from shared.recipe_families import unsuited
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
        'optimizer.kind = "adamw", "adamw8bit", "schedule_free" or "prodigy"',
        lambda r: r.optimizer.kind in ("adamw", "adamw8bit", "schedule_free", "prodigy"),
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
    "network.factor": ('network.kind = "lokr"', lambda r: r.network.kind == "lokr"),
    "network.decompose_both": ('network.kind = "lokr"', lambda r: r.network.kind == "lokr"),
    "network.rslora": (
        'network.kind = "lora" or "dora"', lambda r: r.network.kind in ("lora", "dora"),
    ),
    "network.dropout": ('network.kind = "lora"', lambda r: r.network.kind == "lora"),
    "network.rank_dropout": ('network.kind = "lora"', lambda r: r.network.kind == "lora"),
    "network.max_norm": ('network.kind = "lora"', lambda r: r.network.kind == "lora"),
    "optimizer.lora_plus": (
        'network.kind = "lora" or "dora"', lambda r: r.network.kind in ("lora", "dora"),
    ),
    "network.conv_rank": ('"conv" among network.targets', lambda r: "conv" in r.network.targets),
    "network.conv_alpha": ('"conv" among network.targets', lambda r: "conv" in r.network.targets),
    "loss.prior_weight": ("dataset.regularisation", lambda r: bool(r.dataset.regularisation)),
    "loss.unmasked_weight": (
        "dataset.alpha_mask or dataset.mask_folder",
        lambda r: r.dataset.alpha_mask or bool(r.dataset.mask_folder),
    ),
    "loss.class_caption": ("loss.preservation above 0", lambda r: r.loss.preservation > 0),
    "noise.density_mean": (
        'noise.density = "logit_normal"', lambda r: r.noise.density == "logit_normal",
    ),
    "noise.density_deviation": (
        'noise.density = "logit_normal"', lambda r: r.noise.density == "logit_normal",
    ),
    "save.keep_last": (
        "save.every_epochs or save.every_steps",
        lambda r: r.save.every_epochs > 0 or r.save.every_steps > 0,
    ),
    "dataset.joined": ("dataset.windows above 1", lambda r: r.dataset.windows > 1),
    "dataset.wildcard_folder": ("dataset.wildcards", lambda r: r.dataset.wildcards),
    "dataset.clip_skip": (
        "a base that is no SDXL, which has its own", lambda r: r.base.family != "sdxl",
    ),
    "dataset.min_bucket_reso": ("dataset.enable_bucket", lambda r: r.dataset.enable_bucket),
    "dataset.max_bucket_reso": ("dataset.enable_bucket", lambda r: r.dataset.enable_bucket),
    "dataset.bucket_reso_steps": ("dataset.enable_bucket", lambda r: r.dataset.enable_bucket),
    "dataset.bucket_no_upscale": ("dataset.enable_bucket", lambda r: r.dataset.enable_bucket),
    "dataset.versions": (
        "dataset.random_crop or dataset.color_jitter",
        lambda r: r.dataset.random_crop or r.dataset.color_jitter > 0,
    ),
    "dataset.keep_tokens": (
        "dataset.shuffle_tags or dataset.tag_dropout",
        lambda r: r.dataset.shuffle_tags or r.dataset.tag_dropout > 0,
    ),
}  # fmt: skip


def _unread(entry: str, most: int) -> str:
    """What is wrong with an entry of a list of patterns; empty if nothing is."""
    try:
        _, (number, *alpha) = patterns.read(entry, most)
    except LoraError as error:
        return error.message
    if most == 2 and (number != int(number) or number > 1024):
        return f"the rank of {entry!r} must be a whole number of at most 1024."
    if alpha and not 0 < alpha[0] <= 4096:
        return f"the alpha of {entry!r} must be above 0 and at most 4096."
    return "" if number <= 1024 else f"the factor of {entry!r} must be at most 1024."


def contradiction(recipe: Recipe) -> str:
    """Why a recipe contradicts itself, in a sentence; empty if it does not."""
    for check in (_patterns, _ignored, _pictures, _buckets, _noise, _optimizer, _family):
        if why := check(recipe):
            return why
    return ""


def _patterns(recipe: Recipe) -> str:
    if len(set(recipe.network.targets)) < len(recipe.network.targets):
        return "network.targets names a projection twice."
    for key, entries, most in (
        ("network.ranks", recipe.network.ranks, 2), ("optimizer.rates", recipe.optimizer.rates, 1),
    ):  # fmt: skip
        for entry in entries:
            if why := _unread(entry, most):
                return f"{key}: {why}"
    return ""


@functools.cache  # looked up for every value that somebody types
def _defaults(section: str) -> dict[str, object]:
    table = get_type_hints(Recipe)[section]
    return {field.name: field.default for field in msgspec.structs.fields(table)}


def _ignored(recipe: Recipe) -> str:
    for key, (reader, reads) in _READ_BY.items():
        section, _, name = key.partition(".")
        table = getattr(recipe, section)
        if getattr(table, name) != _defaults(section)[name] and not reads(recipe):
            return f"{key} is read only with {reader}. Take it out, or set that."
    return ""


def _pictures(recipe: Recipe) -> str:
    if recipe.loss.preservation and not recipe.loss.class_caption.strip():
        return "loss.preservation needs loss.class_caption: what the subject is one of."
    if recipe.dataset.alpha_mask and recipe.dataset.mask_folder:
        return (
            "dataset.alpha_mask and dataset.mask_folder both say what counts of a picture. Take "
            "one of them."
        )
    if recipe.dataset.regularisation and recipe.dataset.regularisation == recipe.dataset.name:
        return (
            "dataset.regularisation is the dataset that is trained on. It must show the class, "
            "not the subject."
        )
    return ""


def _buckets(recipe: Recipe) -> str:
    dataset = recipe.dataset
    side, step = dataset.resolution, dataset.bucket_reso_steps
    if step % 8:
        return f"dataset.bucket_reso_steps must be a multiple of 8, as latents are; not {step}."
    if side and step > side:
        return (
            f"dataset.bucket_reso_steps = {step} leaves no bucket of at most "
            f"dataset.resolution = {side}."
        )
    least, most = dataset.min_bucket_reso, dataset.max_bucket_reso
    if least and most and least > most:
        return f"dataset.min_bucket_reso = {least} is above dataset.max_bucket_reso = {most}."
    if side and least > side:
        return (
            f"dataset.min_bucket_reso = {least} is above dataset.resolution = {side}: the area of "
            "a bucket is at most the resolution's square. Take half of the resolution, or 0."
        )
    if side and 0 < most < side:
        return (
            f"dataset.max_bucket_reso = {most} is below dataset.resolution = {side}. Take twice "
            "the resolution, or 0."
        )
    return ""


def _noise(recipe: Recipe) -> str:
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
    return ""


def _optimizer(recipe: Recipe) -> str:
    optimizer = recipe.optimizer
    if 0 < recipe.training.max_steps <= recipe.schedule.warmup_steps:
        return (
            f"schedule.warmup_steps = {recipe.schedule.warmup_steps} would last the whole run: "
            f"training.max_steps = {recipe.training.max_steps}."
        )
    network = recipe.network
    drops = network.dropout or network.rank_dropout or network.module_dropout
    if recipe.training.checkpointing and drops:
        return (
            "training.checkpointing computes the LoRA a second time, and the network's dropouts "
            "would then draw something else. Take one of them."
        )
    if recipe.training.compile and drops:
        return (
            "training.compile makes kernels that draw nothing, and the network's dropouts draw at "
            "each step. Take one of them."
        )
    if optimizer.kind == "schedule_free":
        return _schedule_free(recipe)
    if optimizer.kind != "prodigy":
        return ""
    if any(patterns.read(entry, 1)[1][0] not in (0.0, 1.0) for entry in optimizer.rates):
        return (
            "optimizer.rates contradicts Prodigy, which finds one rate for all weights: only 0 "
            "and 1 go together with it."
        )
    if optimizer.lora_plus != 1:
        return (
            "optimizer.lora_plus contradicts Prodigy, which finds one rate for all weights. Take "
            "another optimizer.kind, or leave lora_plus at 1."
        )
    if optimizer.text_encoder_rate not in (0.0, optimizer.learning_rate):
        return (
            "Prodigy finds one rate for all weights: optimizer.text_encoder_rate must be 0 or "
            f"equal to optimizer.learning_rate = {optimizer.learning_rate}."
        )
    return ""


def _family(recipe: Recipe) -> str:
    """What a family that the recipe names has no use for; else that is asked of the base."""
    return "" if recipe.base.family == "any" else unsuited(recipe, recipe.base.family)[1]


def _schedule_free(recipe: Recipe) -> str:
    for key, wrong, why in (
        ("schedule.kind", recipe.schedule.kind != "constant", "its average stands for a decay"),
        ("training.ema", recipe.training.ema > 0, "it keeps an average of its own"),
        ("network.max_norm", recipe.network.max_norm > 0, "it would shorten a point in between"),
        ("optimizer.beta1 = 0", recipe.optimizer.beta1 == 0, "it takes its gradients between two "
         "points, and beta1 says where"),
    ):  # fmt: skip
        if wrong:
            return f'{key} contradicts optimizer.kind = "schedule_free": {why}.'
    return ""
