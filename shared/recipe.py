"""The recipe: one typed TOML that says everything about a training run, and says no to the rest.

The schema is the only place where an option exists: its checks, help texts, the form in the TUI and
the page in ``docs/`` are generated from it.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import math
import re
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from shared.errors import Code, LoraError
from shared.recipe_contradictions import contradiction
from shared.recipe_schema import (
    Loss,
    Network,
    Noise,
    Optimizer,
    Recipe,
    Sampler,
    Schedule,
    Table,
    Text,
)

__all__ = [  # the schema's types come from here too
    "FEW_PICTURES", "Loss", "Network", "Noise", "Optimizer", "Option", "Recipe", "Sampler",
    "Schedule", "Text", "convert", "dump", "held_out_count", "load", "must_be", "options", "parse",
    "pictures_per_step", "section_help", "steps_per_epoch", "total_steps", "versions", "written",
]  # fmt: skip

FEW_PICTURES = 10  # of which none can be spared for judging
LEAST_HELD_OUT = 3  # fewer say nothing about the spread between pictures
MAX_NAME = 200  # bytes of output.name; file systems allow 255, and a step and suffix follow it


class Option(msgspec.Struct, frozen=True):
    """One line of the schema, as forms and pages need it."""

    key: str  # "network.rank"
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...] = ()  # of the value, or of each entry of a list
    must: str = ""  # what it must be, in words: "a whole number from 1 to 1024"


@functools.cache  # the schema stands, and every value that somebody types asks for it
def options() -> tuple[Option, ...]:
    """Every option of a recipe, in order, from the schema."""

    def walk(table: type[Table], prefix: str) -> Iterator[Option]:
        hints = get_type_hints(table, include_extras=True)
        for field in msgspec.structs.fields(table):
            hint = hints[field.name]
            if isinstance(hint, type) and issubclass(hint, Table):
                yield from walk(hint, f"{prefix}{field.name}.")
                continue
            kind, metas = _taken_apart(hint)
            help_text = next((m.description for m in metas if m.description), "")
            default = (
                field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            )
            entry = get_args(kind)[0] if get_origin(kind) is list else kind
            choices = get_args(entry) if get_origin(entry) is Literal else ()
            must = must_be(hint)
            yield Option(f"{prefix}{field.name}", kind, default, help_text, choices, must)

    return tuple(walk(Recipe, ""))


def section_help(name: str) -> str:
    """What a ``[section]`` is about, from the schema."""
    return (get_type_hints(Recipe)[name].__doc__ or "").strip()


def written(value: Any) -> str:
    """One value as TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def must_be(hint: Any) -> str:
    """What a value of this type must be, in words that follow "must be"."""
    kind, metas = _taken_apart(hint)
    bounds: dict[str, Any] = {}
    for meta in metas:
        for bound in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if getattr(meta, bound) is not None:
                bounds[bound] = getattr(meta, bound)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is list:
        least = "at least one" if bounds.get("min_length") else ""
        most = f"at most {bounds['max_length']}" if "max_length" in bounds else ""
        rest = "".join(f", {part}" for part in (least, most) if part)
        return f"a list, each entry {must_be(get_args(kind)[0])}{rest}"
    if kind is bool:
        return "true or false"
    if kind is str:
        words = "text that is not empty" if bounds.get("min_length") else "text"
        length = f" of at most {bounds['max_length']} characters" if "max_length" in bounds else ""
        return words + length
    return {int: "a whole number", float: "a number"}[kind] + _range(bounds)


def _range(bounds: dict[str, Any]) -> str:
    parts = [
        f"{word} {bounds[bound]:g}" if bounds[bound] < 1e6 else f"{word} {bounds[bound]}"
        for bound, word in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
        if bound in bounds
    ]
    return f" {' and '.join(parts)}" if parts else ""


def _taken_apart(hint: Any) -> tuple[Any, list[Meta]]:
    """The bare type, and what ``Annotated`` says of it."""
    if get_origin(hint) is not Annotated:
        return hint, []
    kind, *metas = get_args(hint)
    return kind, metas


def load(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from a TOML file, then apply ``a.b=value`` overrides.

    Raises LoraError: INVALID_RECIPE naming the key and what was meant, NOT_FOUND, STORAGE.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise LoraError(
            Code.NOT_FOUND,
            f"There is no recipe {path}. `lora-tui recipe list` shows those that come with "
            "lora-tui.",
        ) from None
    except UnicodeDecodeError:
        raise LoraError(
            Code.INVALID_RECIPE, f"{path} is not UTF-8 text, so it is not a recipe."
        ) from None
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    return parse(text, overrides, where=str(path))


def parse(text: str, overrides: list[str] | None = None, where: str = "the recipe") -> Recipe:
    """A recipe from TOML text. Raises LoraError(INVALID_RECIPE)."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LoraError(Code.INVALID_RECIPE, f"{where} is not valid TOML: {error}.") from None
    for override in overrides or []:
        _override(tree, override)
    return convert(tree, where)


def convert(tree: dict[str, Any], where: str = "the recipe") -> Recipe:
    """A checked recipe from plain values. Raises LoraError(INVALID_RECIPE)."""
    _refuse_unknown(tree, Recipe, "", where)
    try:
        recipe = msgspec.convert(tree, Recipe, strict=True)
    except msgspec.ValidationError as error:
        raise LoraError(Code.INVALID_RECIPE, _in_words(str(error), tree, where)) from None
    _refuse_contradictions(recipe, where)
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as TOML, every option spelled out."""
    return tomli_w.dumps(msgspec.to_builtins(recipe))


def steps_per_epoch(recipe: Recipe, pictures: int, shown: Collection[int] = ()) -> int:
    """Optimiser steps in one epoch: ceil(pictures × repeats / pictures in a step). Beside each
    picture comes one for regularisation, where there are some.

    ``shown``: the samples of each bucket (``shared.buckets.shown``), where there are buckets: a
    batch is of one bucket, so the last one of each may be smaller. Without it they count as one.
    """
    both = 2 if recipe.dataset.regularisation else 1
    shown = shown or [pictures * recipe.dataset.repeats * both]
    batches = sum(math.ceil(one / recipe.training.batch_size) for one in shown)
    return math.ceil(batches / (recipe.training.accumulation * recipe.training.num_processes))


def pictures_per_step(recipe: Recipe) -> int:
    """Batch size × accumulated batches × processes."""
    training = recipe.training
    return training.batch_size * training.accumulation * training.num_processes


def versions(recipe: Recipe) -> int:
    """How many versions of each picture are trained on."""
    dataset = recipe.dataset
    return dataset.versions if dataset.random_crop or dataset.color_jitter else 1


def held_out_count(recipe: Recipe, pictures: int) -> int:
    """How many of a dataset's pictures a run keeps back, where near-duplicates allow it."""
    named = recipe.evaluation.pictures
    if named:
        return min(len(named), max(pictures - 1, 0))
    if not recipe.evaluation.held_out or pictures <= FEW_PICTURES:
        return 0
    return max(LEAST_HELD_OUT, round(pictures * recipe.evaluation.held_out))


def total_steps(recipe: Recipe, pictures: int, shown: Collection[int] = ()) -> int:
    """Optimiser steps of the whole run, as every screen and the trainer count them; ``shown`` as
    in ``steps_per_epoch``."""
    steps = steps_per_epoch(recipe, pictures, shown) * recipe.training.epochs
    return min(steps, recipe.training.max_steps) if recipe.training.max_steps else steps


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise LoraError(
            Code.INVALID_RECIPE,
            f"--set takes KEY=VALUE, such as --set network.rank=16; not {override!r}.",
        )
    parsed: Any = value  # a bare word is a string
    with contextlib.suppress(tomllib.TOMLDecodeError):
        tree_of_one = tomllib.loads(f"value = {value}")
        if len(tree_of_one) == 1:  # not a line break and another key
            parsed = tree_of_one["value"]
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise LoraError(Code.INVALID_RECIPE, f"--set {key}: {parent} is not a section.")
        node = child
    node[leaf] = parsed


@functools.cache
def _hints(table: type[Table]) -> dict[str, Any]:
    return get_type_hints(table)


def _refuse_unknown(tree: Any, table: type[Table], prefix: str, where: str) -> None:
    if not isinstance(tree, dict):
        return  # the wrong type is said by the converter
    hints = _hints(table)
    for key, value in tree.items():
        hint = hints.get(key)
        if hint is None:
            raise LoraError(
                Code.INVALID_RECIPE,
                f"{where}: unknown key {prefix}{key}.{_suggestion(prefix, key)}",
                data={"key": f"{prefix}{key}"},
            )
        if isinstance(hint, type) and issubclass(hint, Table):
            _refuse_unknown(value, hint, f"{prefix}{key}.", where)


# Names from other trainers, for the suggestion only.
_ALIASES = {
    "network_dim": "network.rank",
    "dim": "network.rank",
    "network_alpha": "network.alpha",
    "unet_lr": "optimizer.learning_rate",
    "lr": "optimizer.learning_rate",
    "train_batch_size": "training.batch_size",
    "max_train_epochs": "training.epochs",
    "num_train_epochs": "training.epochs",
    "max_train_steps": "training.max_steps",
    "mixed_precision": "training.precision",
    "pretrained_model_name_or_path": "base.name",
    "random_flip": "dataset.flip",
    "flip_aug": "dataset.flip",
    "color_aug": "dataset.color_jitter",
    "num_repeats": "dataset.repeats",
    "lr_scheduler": "schedule.kind",
    "lr_warmup_steps": "schedule.warmup_steps",
    "output_name": "output.name",
    "optimizer_type": "optimizer.kind",
    "text_encoder_lr": "optimizer.text_encoder_rate",
    "gradient_accumulation_steps": "training.accumulation",
    "noise_offset": "noise.offset",
    "loss_type": "loss.kind",
    "conv_dim": "network.conv_rank",
    "scale_weight_norms": "network.max_norm",
    "network_weights": "network.start",
    "shuffle_caption": "dataset.shuffle_tags",
    "reg_data_dir": "dataset.regularisation",
    "prior_loss_weight": "loss.prior_weight",
    "alpha_mask": "dataset.alpha_mask",
    "fp8_base": "base.quantize",
    "fp8_base_unet": "base.quantize",
    "base_model_precision": "base.quantize",
}


def _suggestion(prefix: str, key: str) -> str:
    if key == "face_crop_aug_range":
        return (
            " Faces are not looked for here: dataset.random_crop crops at any place, and a picture "
            "is cropped to a face by hand (`x` in Datasets)."
        )
    keys = [option.key for option in options()]
    leaves = {k.rsplit(".", 1)[-1]: k for k in keys}
    sections = {k.split(".", 1)[0]: f"[{k.split('.', 1)[0]}]" for k in keys if "." in k}
    meant = _ALIASES.get(key)
    if meant is None:
        here = {k: k for k in keys if k.startswith(prefix)} if prefix else sections
        for pool in (here, leaves, sections):
            names = {name.removeprefix(prefix): full for name, full in pool.items()}
            close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
            if close:
                meant = names[close[0]]
                break
    return f" Did you mean {meant}?" if meant else " `lora-tui recipe options` lists them all."


def _in_words(error: str, tree: dict[str, Any], where: str) -> str:
    """What the converter found, said with the schema's own words."""
    match = re.fullmatch(r".*? - at `\$\.?([^`\[]*)(?:\[(\d+)\])?`", error, re.DOTALL)
    if match is None:
        return f"{where}: {error}."
    key, index = match[1], match[2]
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    option = next((o for o in options() if o.key == key), None)
    if option is None:
        keys = ", ".join(o.key.rpartition(".")[2] for o in options() if o.key.startswith(f"{key}."))
        return f"{where}: {key} must be a section, [{key}], with {keys}; not {_shown(value)}."
    must = option.must
    if index is not None:
        value = value[int(index)]
        must = must_be(get_args(option.type)[0])
        key = f"{key}[{index}]"
    close = difflib.get_close_matches(str(value), option.choices, n=1)
    meant = f" Did you mean {close[0]}?" if close and close[0] != value else ""
    return f"{where}: {key} must be {must}; not {_shown(value)}.{meant} {option.help}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _refuse_contradictions(recipe: Recipe, where: str) -> None:
    def refuse(why: str) -> None:
        raise LoraError(Code.INVALID_RECIPE, f"{where}: {why}")

    resolution = recipe.dataset.resolution
    if resolution % 8 or 0 < resolution < 64:
        near = max(64, round(resolution / 8) * 8)
        refuse(
            f"dataset.resolution must be a multiple of 8 and at least 64; not {resolution}. "
            f"{near} is near."
        )
    for option in options():
        section, _, leaf = option.key.partition(".")
        value = getattr(getattr(recipe, section), leaf) if leaf else None
        if isinstance(value, float) and not math.isfinite(value):
            refuse(f"{option.key} must be {option.must}; not {value}.")
    if why := contradiction(recipe):
        refuse(why)
    name = recipe.output.name
    if re.search(r"[/\\\x00-\x1f\x7f]", name) or name in (".", ".."):
        refuse("output.name must be a file's name: without folders or control characters.")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME:
        refuse(f"output.name must be at most {MAX_NAME} bytes long, as file names are.")
