"""What a LoRA file tells other tools of its making: kohya's ``ss_*`` and ``modelspec`` 1.0.1."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from lora_daemon.engine.bases import Base
from lora_daemon.engine.feed import Feed
from lora_daemon.pipe import Freeze
from shared import buckets
from shared.framing import Size
from shared.provenance import kohya_hashes
from shared.recipe import Network, Recipe, pictures_per_step, versions
from shared.safetensors_file import Tensor, encode

_OPTIMIZERS = {  # as kohya's trainer names the classes it would have used
    "adamw": "torch.optim.AdamW",
    "adafactor": "transformers.optimization.Adafactor",
    "lion": "pytorch_optimizer.Lion",
    "prodigy": "pytorch_optimizer.Prodigy",
    "came": "pytorch_optimizer.CAME",
    "adamw8bit": "bitsandbytes.optim.AdamW8bit",
    "schedule_free": "pytorch_optimizer.ScheduleFreeAdamW",
}


@dataclass(frozen=True)
class Made:
    """What is fixed about a run's file before its first step."""

    name: str
    recipe: Recipe
    freeze: Freeze
    base: Base
    captions: list[str]  # of the pictures used
    resolution: int
    total: int
    fits: Fits | None = None  # with buckets


@dataclass(frozen=True)
class Fits:
    """A run's buckets: ``counts``, of samples by width and height; ``apart``: the mean difference
    of aspect ratio between a picture and its bucket."""

    counts: dict[Size, int]
    apart: float


def fits(recipe: Recipe, feed: Feed) -> Fits | None:
    """The buckets of what a run is fed; None without."""
    if not recipe.dataset.enable_bucket:
        return None
    regular = len(feed.moments) - feed.trained
    places = buckets.in_epoch(feed.trained, regular, feed.repeats)
    apart = [
        abs(wide / high - moments.size[1] / moments.size[0])
        for (wide, high), (moments, *_) in zip(feed.sizes, feed.moments, strict=True)
        if moments.size is not None
    ]
    counts = Counter(feed.sizes[place] for place in places)
    return Fits(dict(sorted(counts.items())), sum(apart) / max(1, len(apart)))


def metadata(made: Made, tensors: Mapping[str, Tensor], step: int, epoch: int) -> dict[str, str]:
    """The header of a LoRA at a step. Between two identical runs only the finish time differs, and
    its length is fixed, so that ``sshs_legacy_hash`` sees the same bytes."""
    recipe, freeze, family = made.recipe, made.freeze, made.base.family
    version = family.base_versions[made.base.objective]
    text_rate = recipe.optimizer.text_encoder_rate
    gamma = recipe.loss.min_snr_gamma if recipe.loss.weighting == "min_snr" else None
    images = len(made.captions) * recipe.dataset.repeats
    size, windows = made.resolution, recipe.dataset.windows
    module, args = network_module(recipe.network, family.lora_module)
    training = {
        "ss_output_name": made.name,
        "ss_session_id": freeze.run,
        "ss_training_comment": recipe.title,
        "ss_training_started_at": f"{freeze.queued_at:.6f}",
        "ss_training_finished_at": f"{time.time():.6f}",
        "ss_sd_model_name": freeze.base,
        "ss_new_sd_model_hash": made.base.model_hash,
        "ss_base_model_version": version,
        "ss_v2": str(version.startswith("sd_v2")),
        "ss_clip_skip": str(recipe.dataset.clip_skip) if recipe.dataset.clip_skip > 1 else "None",
        "ss_max_token_length": str(75 * windows) if windows > 1 else "None",
        **({"lora_tui.long_prompts": recipe.dataset.joined} if windows > 1 else {}),
        "ss_network_module": module,
        "ss_network_dim": str(recipe.network.rank),
        "ss_network_alpha": str(float(recipe.network.alpha)),
        "ss_network_args": json.dumps(args),
        "ss_network_dropout": _or_none(recipe.network.dropout),
        "ss_scale_weight_norms": _or_none(recipe.network.max_norm),
        "ss_learning_rate": str(recipe.optimizer.learning_rate),
        "ss_unet_lr": str(recipe.optimizer.learning_rate),
        "ss_text_encoder_lr": _or_none(text_rate),
        "ss_optimizer": _OPTIMIZERS[recipe.optimizer.kind],
        "ss_max_grad_norm": str(recipe.optimizer.max_grad_norm),
        "ss_lr_scheduler": recipe.schedule.kind,
        "ss_lr_warmup_steps": str(recipe.schedule.warmup_steps),
        "ss_gradient_checkpointing": str(recipe.training.checkpointing),
        "ss_gradient_accumulation_steps": str(recipe.training.accumulation),
        "ss_zero_terminal_snr": str(recipe.noise.zero_terminal_snr or made.base.zero_snr),
        "ss_noise_offset": _or_none(recipe.noise.offset),
        "ss_multires_noise_iterations": _or_none(recipe.noise.multires_iterations),
        "ss_multires_noise_discount": str(recipe.noise.multires_discount),
        "ss_ip_noise_gamma": _or_none(recipe.noise.input_perturbation),
        "ss_loss_type": recipe.loss.kind,
        "ss_min_snr_gamma": str(gamma),
        "ss_debiased_estimation": str(recipe.loss.weighting == "debiased"),
        "ss_shuffle_caption": str(recipe.dataset.shuffle_tags),
        "ss_keep_tokens": str(recipe.dataset.keep_tokens),
        "ss_caption_dropout_rate": str(recipe.dataset.caption_dropout),
        "ss_caption_tag_dropout_rate": str(recipe.dataset.tag_dropout),
        "ss_seed": str(recipe.training.seed),
        "ss_mixed_precision": str(made.base.dtype).removeprefix("torch."),
        **_quantized(made.base),
        "ss_num_train_images": str(images),
        "ss_num_reg_images": str(len(freeze.regularisation)),
        "ss_num_epochs": str(recipe.training.epochs),
        "ss_epoch": str(epoch),
        "ss_max_train_steps": str(made.total),
        "ss_steps": str(step),
        "ss_total_batch_size": str(pictures_per_step(recipe)),
        "ss_batch_size_per_device": str(recipe.training.batch_size),
        "ss_resolution": f"({size}, {size})",
        **_bucketed(made, images),
        "ss_cache_latents": "True",
        "ss_color_aug": str(recipe.dataset.color_jitter > 0),
        "ss_random_crop": str(recipe.dataset.random_crop),
        "ss_flip_aug": str(recipe.dataset.flip),
        **_versions(recipe),
        "ss_dataset_dirs": json.dumps(
            {freeze.dataset: {"n_repeats": recipe.dataset.repeats, "img_count": len(made.captions)}}
        ),
        "ss_tag_frequency": json.dumps({freeze.dataset: _tags(made.captions)}, ensure_ascii=False),
        "ss_prior_loss_weight": str(recipe.loss.prior_weight),
        "ss_masked_loss": str(bool(recipe.dataset.alpha_mask or recipe.dataset.mask_folder)),
    }
    if family.flows:
        training |= _flow(made)
    # kohya hashes the file as it is with the ss_ entries alone.
    model_hash, legacy_hash = kohya_hashes(encode(tensors, training))
    prediction = {"epsilon": "epsilon", "v_prediction": "v", "flow": ""}[made.base.objective]
    queued = datetime.fromtimestamp(int(freeze.queued_at), UTC)
    specification = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": family.architectures[made.base.objective],
        "modelspec.implementation": family.implementation,
        "modelspec.title": made.name,
        "modelspec.date": queued.strftime("%Y-%m-%dT%H:%M:%S"),
        "modelspec.resolution": f"{size}x{size}",
        **({"modelspec.prediction_type": prediction} if prediction else {}),
        "modelspec.hash_sha256": f"0x{model_hash}",
    }
    if recipe.output.trigger:
        specification["modelspec.trigger_phrase"] = recipe.output.trigger
    hashes = {"sshs_model_hash": model_hash, "sshs_legacy_hash": legacy_hash}
    return training | specification | hashes


def _bucketed(made: Made, images: int) -> dict[str, str]:
    """What kohya says of buckets; without them, of the one that there is."""
    if made.fits is None:
        size = made.resolution
        one = {"resolution": [size, size], "count": images}
        return {
            "ss_enable_bucket": "False",
            "ss_bucket_info": json.dumps({"buckets": {"0": one}}),
        }
    rules = buckets.rules_of(made.recipe.dataset, made.resolution)
    assert rules is not None  # there are buckets
    info = {
        "buckets": {
            str(number): {"resolution": list(size), "count": count}
            for number, (size, count) in enumerate(made.fits.counts.items())
        },
        "mean_img_ar_error": made.fits.apart,
    }
    return {
        "ss_enable_bucket": "True",
        "ss_bucket_no_upscale": str(rules.no_upscale),
        "ss_min_bucket_reso": str(rules.least),
        "ss_max_bucket_reso": str(rules.most),
        "ss_bucket_info": json.dumps(info),
    }


def network_module(network: Network, plain: str = "networks.lora") -> tuple[str, dict[str, object]]:
    """What kohya's metadata would have as ``network_module`` and under ``network_args``, and our
    targets. A DoRA is LyCORIS's there, with the norm of each output. ``plain``: the module of a
    plain LoRA."""
    args: dict[str, object] = {"targets": network.targets}
    if network.kind != "lora":
        args["algo"] = network.kind.replace("dora", "lora")
    if network.kind == "dora":
        args |= {"dora_wd": True, "wd_on_output": True}
    if network.kind == "lokr":
        args |= {"factor": network.factor or -1, "decompose_both": network.decompose_both}
    if network.ranks:
        args["ranks"] = network.ranks
    if "conv" in network.targets:
        args["conv_dim"] = network.conv_rank or network.rank
        args["conv_alpha"] = network.conv_alpha or network.alpha
    return plain if network.kind == "lora" else "lycoris.kohya", args


def _flow(made: Made) -> dict[str, str]:
    """What kohya's trainer for FLUX says besides. Its names for how noise levels are drawn: a shift
    by the picture's size is flux_shift, another one shift, and both are of sigmoid draws."""
    noise = made.recipe.noise
    kind = "sigmoid" if noise.density == "logit_normal" else "uniform"
    if noise.shift != 1.0:
        kind = "shift" if noise.shift else "flux_shift"
    return {
        "ss_guidance_scale": str(made.recipe.training.guidance),
        "ss_timestep_sampling": kind,
        "ss_sigmoid_scale": str(noise.density_deviation),
        "ss_discrete_flow_shift": str(noise.shift),
        "ss_model_prediction_type": "raw",
        "lora_tui.timestep_density": noise.density,
    }


def _quantized(base: Base) -> dict[str, str]:
    """What kohya says of a base in fp8, and which 8 bits; nothing of one in full."""
    if base.quantize == "none":
        return {}
    return {"ss_fp8_base": str(base.quantize == "fp8"), "lora_tui.quantize": base.quantize}


def _versions(recipe: Recipe) -> dict[str, str]:
    """What kohya has no name for: how many versions of a picture there are, and their colours."""
    if (count := versions(recipe)) == 1:
        return {}
    jitter = recipe.dataset.color_jitter
    return {"lora_tui.versions": str(count), "lora_tui.color_jitter": str(jitter)}


def _or_none(value: float) -> str:
    """A number as kohya's metadata has it: None where the option is off."""
    return str(value) if value else "None"


def _tags(captions: list[str]) -> dict[str, int]:
    """How often each comma-separated tag occurs, commonest first."""
    tags = (tag.strip() for caption in captions for tag in caption.split(","))
    return dict(sorted(Counter(filter(None, tags)).items(), key=lambda item: (-item[1], item[0])))
