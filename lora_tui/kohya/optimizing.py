"""Kohya's learning rates, optimisers, schedules and lengths."""

from __future__ import annotations

from typing import Any

from lora_tui.kohya import tables
from lora_tui.kohya.files import arguments
from lora_tui.kohya.report import Translation

EPOCHS_NEVER = 100_000  # where a number of steps alone decides
_PRODIGY = {
    "d_coef": "d_coef",
    "use_bias_correction": "bias_correction",
    "bias_correction": "bias_correction",
    "safeguard_warmup": "safeguard_warmup",
}


def rates(left: dict[str, Any], out: Translation) -> None:
    """Learning rates of the UNet and of the text encoder."""
    rate = left.pop("learning_rate", None)
    own = left.pop("unet_lr", None)
    words = "" if rate is not None or own is not None else "kohya's own default"
    everywhere = 2e-6 if rate is None else rate
    if own is not None:
        out.convert("unet_lr", own, "optimizer.learning_rate")
        if rate is not None:
            out.idle("learning_rate", rate, "unet_lr and text_encoder_lr go before it")
    else:
        out.convert("learning_rate", everywhere, "optimizer.learning_rate", words)
    text = left.pop("text_encoder_lr", everywhere)
    pair = text if isinstance(text, list) and text else [text]
    first, second = left.pop("text_encoder_lr1", pair[0]), left.pop("text_encoder_lr2", pair[-1])
    alone = {
        name: left.pop(name)
        for name in (
            "network_train_unet_only", "cache_text_encoder_outputs",
            "cache_text_encoder_outputs_to_disk",
        ) if name in left
    }  # fmt: skip
    if any(alone.values()):
        for name, value in alone.items():
            out.idle(name, value, "the text encoder stays as it is, and its output is cached")
        first = second = 0.0
    out.convert("text_encoder_lr", first or second or 0.0, "optimizer.text_encoder_rate")
    _second(first, second, out)


def _second(first: Any, second: Any, out: Translation) -> None:
    """The rate of SDXL's second text encoder, where it is another than the first's."""
    if second == first or not all(type(rate) in (int, float) for rate in (first, second)):
        return
    key, entry = "text_encoder_lr of the second", "text_encoder.*=0"
    if first:
        entry = f"text_encoder_2.*={second / first:g}"
    out.take(key, second, "optimizer.rates", [entry])


def optimizer(left: dict[str, Any], out: Translation) -> None:
    """The optimiser and its arguments."""
    name = str(left.pop("optimizer_type", "AdamW"))
    for flag, meant in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if left.pop(flag, False):
            name = meant
    kind, words = tables.OPTIMIZERS.get(name.rpartition(".")[2].lower(), ("", ""))
    if not kind:
        out.leave("optimizer_type", name, "AdamW is taken in its place: check the learning rate")
        kind = "adamw"
    else:
        out.take("optimizer_type", name, "optimizer.kind", kind, words)
    given = arguments(left.pop("optimizer_args", []))
    out.put("optimizer.weight_decay", tables.WEIGHT_DECAY[kind])
    if kind == "lion":
        out.put("optimizer.beta2", 0.99)
    for key, value in given.items():
        _optimizer_argument(key, value, kind, out)
    if kind == "adafactor" and given.get("relative_step", True):
        out.leave(
            "optimizer_args relative_step", True,
            "the recipe's learning rate is used: set it, such as 1e-4",
        )  # fmt: skip


def _optimizer_argument(key: str, value: Any, kind: str, out: Translation) -> None:
    name = f"optimizer_args {key}"
    if key == "weight_decay":
        out.convert(name, value, "optimizer.weight_decay")
    elif key == "betas" and isinstance(value, list) and len(value) >= 2 and kind != "adafactor":
        out.convert(f"{name} 1", value[0], "optimizer.beta1")
        out.convert(f"{name} 2", value[1], "optimizer.beta2")
    elif key == "eps" and kind in ("adamw", "adamw8bit", "schedule_free", "prodigy"):
        out.convert(name, value, "optimizer.epsilon")
    elif key in _PRODIGY and kind == "prodigy":
        out.convert(name, value, f"optimizer.{_PRODIGY[key]}")
    elif key in ("decouple", "weight_decouple") and value is True:
        out.idle(name, value, "weight decay is always decoupled")
    elif key in ("relative_step", "scale_parameter", "warmup_init") and value is False:
        out.idle(name, value, "the recipe's learning rate is always used as it is")
    elif key != "relative_step":
        out.leave(name, value, f"not an option of {kind} here")


def schedule(left: dict[str, Any], out: Translation) -> None:
    """The learning rate's course."""
    name = str(left.pop("lr_scheduler", "constant"))
    kinds = {
        "constant": "constant", "constant_with_warmup": "constant", "linear": "linear",
        "cosine": "cosine", "cosine_with_min_lr": "cosine", "polynomial": "polynomial",
        "cosine_with_restarts": "cosine_with_restarts", "rex": "rex",
    }  # fmt: skip
    kind = kinds.get(name.lower())
    free = out.tree["optimizer"].get("kind") == "schedule_free"
    if kind is None or (free and kind != "constant"):
        out.leave("lr_scheduler", name, "the rate stays constant")
        kind = "constant"
    else:
        out.take("lr_scheduler", name, "schedule.kind", kind)
    warm = left.pop("lr_warmup_steps", None)
    if warm is not None:
        steps = left.get("max_train_steps")
        if not warm or type(warm) not in (int, float):
            out.convert("lr_warmup_steps", warm or 0, "schedule.warmup_steps")
        elif name.lower() == "constant":
            out.idle("lr_warmup_steps", warm, "kohya's constant does not warm up")
        elif 0 < warm < 1 and (type(steps) is not int or "max_train_epochs" in left):
            out.leave("lr_warmup_steps", warm, "a share of the steps: set schedule.warmup_steps")
        else:
            count = int(warm * steps) if 0 < warm < 1 else int(warm)
            out.take("lr_warmup_steps", warm, "schedule.warmup_steps", count)
    for key, reader, ours in (
        ("lr_scheduler_num_cycles", "cosine_with_restarts", "schedule.cycles"),
        ("lr_scheduler_power", "polynomial", "schedule.power"),
    ):
        value = left.pop(key, None)
        if value is not None and kind == reader:
            out.convert(key, value, ours)
        elif value is not None:
            out.idle(key, value, f"read by {reader} alone")
    floor = left.pop("lr_scheduler_min_lr_ratio", None)
    if floor is not None and name.lower() == "cosine_with_min_lr":
        out.convert("lr_scheduler_min_lr_ratio", floor, "schedule.floor")
    elif floor is not None:
        out.idle("lr_scheduler_min_lr_ratio", floor, "read by cosine_with_min_lr alone")


def length(left: dict[str, Any], out: Translation) -> None:
    """Epochs or steps."""
    epochs, steps = left.pop("max_train_epochs", None), left.pop("max_train_steps", None)
    if epochs is not None:
        out.take("max_train_epochs", epochs, "training.epochs", epochs)
        if steps is not None:
            out.idle("max_train_steps", steps, "max_train_epochs goes before it")
        return
    words = "kohya's own default" if steps is None else ""
    out.put("training.epochs", EPOCHS_NEVER)
    steps = 1600 if steps is None else steps
    out.take("max_train_steps", steps, "training.max_steps", steps, words)
