"""From kohya's options to a recipe, with a word on each: what it is here, or why it is not."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from lora_tui.kohya import network, optimizing, tables
from lora_tui.kohya.files import Given, literal
from lora_tui.kohya.report import Translation

_REPEATED = re.compile(r"(\d+)_(.+)")  # a folder of kohya's: 10_dog


def translate(given: Given, dataset: str = "") -> Translation:
    """The recipe that trains as kohya would with these options, as far as lora-tui can.

    ``dataset``: the name of the dataset here; empty takes that of the folder.
    """
    out = Translation()
    left = {name: value for name, value in given.options.items() if value is not None}
    for name, value in given.options.items():
        if value is None:
            out.idle(name, value, "not set")
    _base(left, out)
    if given.sdxl:
        out.put("base.family", "sdxl")
    _folders(given, left, dataset, out)
    _same(left, out)
    network.network(left, out)
    optimizing.rates(left, out)
    optimizing.optimizer(left, out)
    optimizing.schedule(left, out)
    optimizing.length(left, out)
    _versions(left, out)
    _buckets(left, out)
    _reading(left, out)
    _loss(left, out)
    _captions(left, out)
    _samples(given, left, out)
    _kept(left, out)
    _rest(left, out)
    return out


def _base(left: dict[str, Any], out: Translation) -> None:
    if left.get("v2") is True:
        out.take("v2", left.pop("v2"), "base.family", "sd2")
    if left.get("v_parameterization") is True and left.get("zero_terminal_snr"):
        out.take(
            "zero_terminal_snr", left.pop("zero_terminal_snr"), "noise.zero_terminal_snr", True
        )
    for name in ("v2", "v_parameterization"):
        if name in left:
            out.idle(name, left.pop(name), "read from the base itself")
    if (value := left.pop("mixed_precision", None)) is not None:
        precision = {"no": "fp32", "false": "fp32"}.get(str(value).lower(), str(value))
        out.take("mixed_precision", value, "training.precision", precision)
    for name, words in (
        ("fp8_base", ""), ("fp8_base_unet", "the text encoders, too"),
    ):  # fmt: skip
        if left.get(name) is True:
            out.take(name, left.pop(name), "base.quantize", "fp8", words)
        elif name in left:
            out.idle(name, left.pop(name), "off")
    name = "pretrained_model_name_or_path"
    if (value := left.pop(name, None)) is not None:
        words = ""
        if str(value).endswith(".ckpt"):
            words = "a pickle: convert it to .safetensors first"
        elif not str(value).startswith(("/", "~")):
            words = f"must be a base that `lora-tui model list` has: `lora-tui model add {value}`"
        out.take(name, value, "base.name", str(value), words)


def _folders(given: Given, left: dict[str, Any], dataset: str, out: Translation) -> None:
    for one in given.folders:
        folder = str(one.get("image_dir", ""))
        if one.get("is_reg") and "reg_data_dir" not in left:
            left["reg_data_dir"] = folder
        elif one.get("is_reg"):
            out.leave("is_reg", folder, "a run has one dataset for regularisation")
    trained = [one for one in given.folders if not one.get("is_reg")]
    for one in trained[1:]:
        out.leave(
            "image_dir", one.get("image_dir", ""),
            "a run has one dataset: put the folders together, with `lora-tui dataset import`, and "
            "take the first one's options",
        )  # fmt: skip
    for name in ("image_dir", "train_data_dir"):
        if (value := left.pop(name, None)) is not None:
            own, words = _folder_name(str(value)), ""
            if name == "train_data_dir" and (named := _REPEATED.fullmatch(own)):
                own = named[2]
                left.setdefault("num_repeats", int(named[1]))
            elif name == "train_data_dir":
                words = _repeats(Path(str(value)), left)
            make = f"make it: `lora-tui dataset import {shlex.quote(str(value))}`" * (not dataset)
            words = "; ".join(filter(None, (make, words)))
            out.take(name, value, "dataset.name", dataset or own, words)
            dataset = dataset or own
    if dataset:
        out.put("dataset.name", dataset)
    _regularisation(left, out)
    _masks(left, out)
    if (value := left.pop("resolution", None)) is not None:
        sides = [literal(s) for s in value.split(",")] if isinstance(value, str) else value
        sides = sides if isinstance(sides, list) else [sides]
        if not all(isinstance(side, int) for side in sides) or not sides:
            out.leave("resolution", value, "not a size in pixels")
        else:
            words = "the shorter side, squared" if len(set(sides)) > 1 else ""
            out.take("resolution", value, "dataset.resolution", min(sides), words)


def _repeats(folder: Path, left: dict[str, Any]) -> str:
    """Take the repeats that kohya reads in the names of a folder's folders; else a word on them."""
    if not folder.is_dir():
        return "a folder in it called 10_dog means dataset.repeats = 10"
    names = map(_REPEATED.fullmatch, sorted(one.name for one in folder.iterdir() if one.is_dir()))
    counts = {int(named[1]) for named in names if named}
    if len(counts) == 1:
        left.setdefault("num_repeats", counts.pop())
    elif counts:
        several = ", ".join(map(str, sorted(counts)))
        return f"its folders repeat {several} times, and dataset.repeats holds for all"
    return ""


def _regularisation(left: dict[str, Any], out: Translation) -> None:
    value = left.pop("reg_data_dir", None)
    if not value:
        return
    own = _folder_name(str(value))
    if named := _REPEATED.fullmatch(own):
        own = named[2]
    if own == out.tree.get("dataset", {}).get("name"):
        own = f"{own}-class"
    words = f"make it: `lora-tui dataset import {shlex.quote(str(value))} --name {own}`"
    out.take("reg_data_dir", value, "dataset.regularisation", own, words)
    if (weight := left.pop("prior_loss_weight", None)) is not None:
        out.convert("prior_loss_weight", weight, "loss.prior_weight")


def _masks(left: dict[str, Any], out: Translation) -> None:
    if folder := left.pop("conditioning_data_dir", None):
        out.take("conditioning_data_dir", folder, "dataset.mask_folder", str(folder))
        if left.pop("alpha_mask", False):
            out.idle("alpha_mask", True, "conditioning_data_dir goes before it")
    if (folder or left.get("alpha_mask")) and left.pop("masked_loss", False):
        out.idle("masked_loss", True, "masks are read")


def _folder_name(path: str) -> str:
    kind: type[PurePath] = PureWindowsPath if "\\" in path else PurePosixPath
    return kind(path).name or path


def _same(left: dict[str, Any], out: Translation) -> None:
    for name, value in tables.DEFAULTS.items():
        if name not in left:
            out.take(name, value, tables.SAME[name], value, "kohya's own default")
    for name, ours in tables.SAME.items():
        if name in left:
            out.convert(name, left.pop(name), ours)


def _versions(left: dict[str, Any], out: Translation) -> None:
    for name, (ours, value, words) in tables.VERSIONS.items():
        if left.get(name) is True:
            once = "from dataset.versions of each picture, which are made and cached once"
            out.take(name, left.pop(name), ours, value, words + once)


def _buckets(left: dict[str, Any], out: Translation) -> None:
    names, steps = (*tables.BUCKETS, "bucket_no_upscale"), list(tables.BUCKETS)
    enabled = left.pop("enable_bucket", None)
    if enabled is not None:
        out.take("enable_bucket", enabled, "dataset.enable_bucket", bool(enabled))
    if not enabled:
        for name in names:
            if name in left:
                out.idle(name, left.pop(name), "without enable_bucket, pictures become squares")
        return
    if left.pop("bucket_no_upscale", False):
        out.take("bucket_no_upscale", True, "dataset.bucket_no_upscale", True)
        for name in ("min_bucket_reso", "max_bucket_reso"):
            if name in left:
                out.idle(name, left.pop(name), "kohya passes it over with bucket_no_upscale")
        steps = ["bucket_reso_steps"]
    side = out.tree["dataset"].get("resolution", 0)
    for name in steps:
        given = name in left
        value = left.pop(name, tables.BUCKETS[name])
        words = "" if given else "kohya's own default"
        beyond = isinstance(value, int) and {
            "min_bucket_reso": value > side, "max_bucket_reso": value < side,
        }.get(name, False)  # fmt: skip
        if side and beyond:
            out.leave(name, value, f"it contradicts the resolution, {side}; ours follows that")
        else:
            out.convert(name, value, f"dataset.{name}", words)


def _reading(left: dict[str, Any], out: Translation) -> None:
    """How captions are read, and what of the rest would contradict something."""
    skip = left.pop("clip_skip", None)
    if skip and out.tree.get("base", {}).get("family") == "sdxl":
        out.idle("clip_skip", skip, "an SDXL's last layer but one is always read, as kohya does")
    elif skip:
        out.convert("clip_skip", skip, "dataset.clip_skip")
    if left.get("max_token_length") in (150, 225):
        tokens = left.pop("max_token_length")
        out.take("max_token_length", tokens, "dataset.windows", tokens // 75)
    network = out.tree.get("network", {})
    if any(network.get(name) for name in ("dropout", "rank_dropout", "module_dropout")):
        for name in ("checkpointing", "compile"):
            out.take_back(f"training.{name}", "it contradicts the network's dropouts here")
    if out.tree["optimizer"].get("kind") == "schedule_free":
        out.take_back("network.max_norm", "it contradicts schedule-free training")
    if out.tree.get("noise", {}).get("offset"):
        why = "noise_offset is taken: with both, noise is more than the base knows"
        out.take_back("noise.multires_iterations", why)


def _loss(left: dict[str, Any], out: Translation) -> None:
    gamma = left.pop("min_snr_gamma", None)
    if gamma:
        out.take("min_snr_gamma", gamma, "loss.weighting", "min_snr")
        out.put("loss.min_snr_gamma", gamma)
    elif gamma is not None:
        out.idle("min_snr_gamma", gamma, "off")
    if (debiased := left.pop("debiased_estimation_loss", None)) is not None:
        if debiased and gamma:
            out.leave("debiased_estimation_loss", True, "min_snr_gamma weighs the loss already")
        else:
            weighting = "debiased" if debiased else "none"
            out.take("debiased_estimation_loss", debiased, "loss.weighting", weighting)
    for name in ("huber_c", "huber_schedule"):
        if (value := left.pop(name, None)) is not None:
            if out.tree.get("loss", {}).get("kind") in ("huber", "smooth_l1"):
                out.convert(name, value, f"loss.{name}")
            else:
                out.idle(name, value, "read by huber and smooth_l1 alone")
    if (value := left.pop("multires_noise_discount", None)) is not None:
        if out.tree.get("noise", {}).get("multires_iterations"):
            out.convert("multires_noise_discount", value, "noise.multires_discount")
        else:
            out.idle("multires_noise_discount", value, "read with multires noise alone")


def _captions(left: dict[str, Any], out: Translation) -> None:
    if (value := left.pop("keep_tokens", None)) is not None:
        shuffled = out.tree["dataset"].get("shuffle_tags") or out.tree["dataset"].get("tag_dropout")
        if shuffled:
            out.convert("keep_tokens", value, "dataset.keep_tokens")
        else:
            out.idle("keep_tokens", value, "tags are neither shuffled nor dropped")
    if (value := left.pop("caption_separator", None)) is not None:
        if str(value).strip() == ",":
            out.idle("caption_separator", value, "the comma, as here")
        else:
            out.leave("caption_separator", value, "tags are separated by commas alone")


def _samples(given: Given, left: dict[str, Any], out: Translation) -> None:
    every = {key: left.pop(f"sample_every_n_{key}", 0) or 0 for key in ("epochs", "steps")}
    for key, value in every.items():
        out.put(f"sample.every_{key}", value)
        if value:
            out.convert(f"sample_every_n_{key}", value, f"sample.every_{key}")
    if (value := left.pop("sample_sampler", None)) is not None:
        _sampler("sample_sampler", value, out)
    if (value := left.pop("sample_prompts", None)) is not None:
        out.leave("sample_prompts", value, "not found here: give the file as another FILE")
    if not given.prompts:
        return
    parsed = [_prompt(line) for line in given.prompts]
    out.take(
        "sample prompts", f"{len(parsed)} prompts", "sample.prompts", [text for text, _ in parsed]
    )
    flags = parsed[0][1]
    for flag in sorted({flag for _, own in parsed for flag in own} - flags.keys()):
        out.leave(f"sample --{flag}", "", "only the first prompt's options hold, for all of them")
    if (sampler := flags.pop("ss", None)) is not None:
        _sampler("sample --ss", sampler, out)
    for flag, ours, name in (
        ("n", "sample.negative", "negative prompt"), ("s", "sample.steps", "steps"),
        ("l", "sample.cfg", "guidance"), ("d", "sample.seed", "seed"),
    ):  # fmt: skip
        if flag in flags:
            value = flags[flag] if flag == "n" else literal(flags[flag])
            told = [other.get(flag) for _, other in parsed]
            words = f"the first prompt's {name} for all" if set(told) != {flags[flag]} else ""
            if flag == "d":
                words = "the first prompt's, the next ones for the others" * any(told[1:])
            out.convert(f"sample --{flag}", value, ours, words)
    if any(flag in flags for flag in "wh"):
        out.leave("sample --w --h", "", "samples have the size that is trained at")
    for flag in sorted(flags.keys() - set("nsldwh")):
        out.leave(f"sample --{flag}", flags[flag], "lora-tui does not know it")


def _sampler(key: str, name: Any, out: Translation) -> None:
    if str(name) in tables.SAMPLERS:
        out.take(key, name, "sample.sampler", tables.SAMPLERS[str(name)])
    else:
        out.leave(key, name, "Euler is taken; see sample.sampler")


def _prompt(line: str) -> tuple[str, dict[str, str]]:
    text, *flags = re.split(r"\s--(?=[a-z]+\b)", line)
    pairs = (flag.partition(" ") for flag in flags)
    return text.strip(), {name: value.strip() for name, _, value in pairs}


def _kept(left: dict[str, Any], out: Translation) -> None:
    """How many checkpoints stay; kohya counts saves by epochs, and steps by steps."""
    last, every = left.pop("save_last_n_steps", None), out.tree.get("save", {}).get("every_steps")
    if last and every and isinstance(last, int):
        out.take("save_last_n_steps", last, "save.keep_last", last // every + 1)
    elif last is not None:
        out.idle("save_last_n_steps", last, "read with save_every_n_steps alone")
    save = out.tree.get("save", {})
    if not (save.get("every_epochs") or save.get("every_steps")):
        out.take_back("save.keep_last", "none are kept on the way")


def _rest(left: dict[str, Any], out: Translation) -> None:
    for name, value in left.items():
        if name in tables.ANYWAY:
            out.idle(name, value, tables.ANYWAY[name])
        elif name not in tables.NOT_HERE:
            out.leave(name, value, "lora-tui does not know it")
        elif not value or (name, value) == ("max_token_length", 75):
            out.idle(name, value, "off")
        elif isinstance(value, float) and not math.isfinite(value):
            out.leave(name, value, "not a number")
        else:
            out.leave(name, value, tables.NOT_HERE[name])
