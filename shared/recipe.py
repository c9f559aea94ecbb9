"""The recipe: one typed TOML that says everything about a training run, and says no to the rest.

The schema below is the only place where an option exists: its checks, help texts, the form in the
TUI and the page in ``docs/`` are generated from it.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from shared.errors import Code, LoraError

Sampler = Literal[
    "Euler", "Euler a", "Heun", "DPM++ 2M", "DPM++ 2M Karras", "DPM++ 2M SDE", "DDIM", "UniPC"
]
Text = Annotated[str, Meta(max_length=10_000)]


class Table(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False
):
    """One ``[section]`` of the recipe."""


class Base(Table, frozen=True, kw_only=True):
    """The model the LoRA is trained on."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            description="A base from `lora-tui model list`, or the path of a diffusers folder. "
            "Take one close to the style you want.",
        ),
    ] = "starter"


class Dataset(Table, frozen=True, kw_only=True):
    """The pictures and how they are shown to the model."""

    name: Annotated[
        str, Meta(description="A dataset from `lora-tui dataset list`.", max_length=200)
    ] = ""
    resolution: Annotated[
        int,
        Meta(
            ge=0,
            le=4096,
            description="Side of the square training crop in pixels, a multiple of 8; 0 takes the "
            "base's own (512 for SD 1.5, 128 for the starter).",
        ),
    ] = 0
    flip: Annotated[
        bool,
        Meta(
            description="Show each picture mirrored half of the time. Leave off where left and "
            "right matter (lettering, a scar on one cheek)."
        ),
    ] = True
    repeats: Annotated[
        int, Meta(ge=1, le=10_000, description="How often each picture comes up in one epoch.")
    ] = 1


class Network(Table, frozen=True, kw_only=True):
    """The LoRA itself."""

    rank: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            description="Width of the low-rank pair. 4–32; more learns more detail, "
            "and more of your pictures' faults.",
        ),
    ] = 8
    alpha: Annotated[
        float,
        Meta(
            gt=0,
            le=4096,
            description="The LoRA is scaled by alpha / rank. Equal to rank means 1.0.",
        ),
    ] = 8.0
    targets: Annotated[
        list[Literal["to_q", "to_k", "to_v", "to_out.0"]],
        Meta(min_length=1, description="Which attention projections of the UNet get a LoRA."),
    ] = msgspec.field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])


class Optimizer(Table, frozen=True, kw_only=True):
    """AdamW and its settings."""

    learning_rate: Annotated[
        float, Meta(gt=0, le=1, description="Step size. 1e-4 is the lesson's.")
    ] = 1e-4
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="AdamW's decay.")] = 1e-2
    beta1: Annotated[float, Meta(ge=0, lt=1, description="AdamW's first momentum.")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="AdamW's second momentum.")] = 0.999
    epsilon: Annotated[float, Meta(gt=0, le=1, description="AdamW's epsilon.")] = 1e-8
    max_grad_norm: Annotated[
        float, Meta(ge=0, description="Gradients longer than this are shortened to it; 0: never.")
    ] = 1.0


class Schedule(Table, frozen=True, kw_only=True):
    """How the learning rate moves."""

    kind: Annotated[
        Literal["constant", "linear", "cosine"],
        Meta(description="Constant, or falling to zero in a line or half a cosine."),
    ] = "constant"
    warmup_steps: Annotated[
        int, Meta(ge=0, description="Steps over which the rate first rises from zero.")
    ] = 0


class Training(Table, frozen=True, kw_only=True):
    """How long, how much at a time, and with which randomness."""

    seed: Annotated[int, Meta(ge=0, lt=2**62, description="All randomness follows from it.")] = 42
    batch_size: Annotated[int, Meta(ge=1, le=1024, description="Pictures in one step.")] = 1
    epochs: Annotated[int, Meta(ge=1, le=100_000, description="Passes over the dataset.")] = 10
    max_steps: Annotated[
        int, Meta(ge=0, description="Stop after this many steps whatever the epochs say; 0: no.")
    ] = 0
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Meta(
            description="Number format of the frozen base. auto: bf16 where the GPU has it, else "
            "fp16; fp32 on a CPU. The LoRA itself is always trained in fp32."
        ),
    ] = "auto"


class Save(Table, frozen=True, kw_only=True):
    """Which LoRA files are kept, and how often the run can be taken up again."""

    every_epochs: Annotated[
        int, Meta(ge=0, description="Keep a LoRA each N epochs; 0: only the last.")
    ] = 0
    every_steps: Annotated[int, Meta(ge=0, description="Keep a LoRA each N steps; 0: no.")] = 0
    resume_seconds: Annotated[
        float,
        Meta(gt=0, le=86_400, description="Seconds between resume states (at most this is lost)."),
    ] = 30.0


class Sample(Table, frozen=True, kw_only=True):
    """Pictures made while training, always from the same seed."""

    prompts: Annotated[
        list[Text], Meta(max_length=64, description="One picture each; none: no samples.")
    ] = []
    negative: Annotated[Text, Meta(description="What the samples should not show.")] = ""
    every_epochs: Annotated[int, Meta(ge=0, description="Sample each N epochs; 0: no.")] = 1
    every_steps: Annotated[int, Meta(ge=0, description="Sample each N steps; 0: no.")] = 0
    sampler: Annotated[Sampler, Meta(description="As WebUI users name them.")] = "Euler"
    steps: Annotated[int, Meta(ge=1, le=1000, description="Denoising steps.")] = 20
    cfg: Annotated[float, Meta(ge=0, le=100, description="Guidance (CFG) scale.")] = 7.0
    seed: Annotated[int, Meta(ge=0, lt=2**62, description="Seed of the first sample.")] = 1025


class Output(Table, frozen=True, kw_only=True):
    """The file you came for."""

    name: Annotated[
        str, Meta(max_length=120, description="Name of the LoRA file; empty: the run's name.")
    ] = ""
    trigger: Annotated[
        str, Meta(max_length=200, description="The word that calls it, kept in the metadata.")
    ] = ""


class Recipe(Table, frozen=True, kw_only=True):
    """A whole training run."""

    title: Annotated[str, Meta(max_length=200, description="One line to know it by.")] = ""
    base: Base = Base()
    dataset: Dataset = Dataset()
    network: Network = Network()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    training: Training = Training()
    save: Save = Save()
    sample: Sample = Sample()
    output: Output = Output()


class Option(msgspec.Struct, frozen=True):
    """One line of the schema, as forms and pages need it."""

    key: str  # "network.rank"
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...] = ()


def options() -> Iterator[Option]:
    """Every option of a recipe, in order, from the schema."""

    def walk(table: type[Table], prefix: str) -> Iterator[Option]:
        hints = get_type_hints(table, include_extras=True)
        for field in msgspec.structs.fields(table):
            hint = hints[field.name]
            if isinstance(hint, type) and issubclass(hint, Table):
                yield from walk(hint, f"{prefix}{field.name}.")
                continue
            kind, help_text = hint, ""
            if get_origin(hint) is Annotated:
                kind, *metas = get_args(hint)
                help_text = next((m.description for m in metas if m.description), "")
            default = (
                field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            )
            choices = get_args(kind) if get_origin(kind) is Literal else ()
            yield Option(f"{prefix}{field.name}", kind, default, help_text, choices)

    yield from walk(Recipe, "")


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


def steps_per_epoch(recipe: Recipe, pictures: int) -> int:
    """Optimiser steps in one epoch: ceil(pictures × repeats / batch size)."""
    return math.ceil(pictures * recipe.dataset.repeats / recipe.training.batch_size)


def total_steps(recipe: Recipe, pictures: int) -> int:
    """Optimiser steps of the whole run, as every screen and the trainer count them."""
    steps = steps_per_epoch(recipe, pictures) * recipe.training.epochs
    return min(steps, recipe.training.max_steps) if recipe.training.max_steps else steps


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise LoraError(
            Code.INVALID_RECIPE,
            f"--set takes KEY=VALUE, such as --set network.rank=16; not {override!r}.",
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise LoraError(Code.INVALID_RECIPE, f"--set {key}: {parent} is not a section.")
        node = child
    node[leaf] = parsed


def _refuse_unknown(tree: Any, table: type[Table], prefix: str, where: str) -> None:
    if not isinstance(tree, dict):
        return  # the wrong type is said by the converter
    hints = get_type_hints(table)
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
    "num_repeats": "dataset.repeats",
    "lr_scheduler": "schedule.kind",
    "lr_warmup_steps": "schedule.warmup_steps",
    "output_name": "output.name",
}


def _suggestion(prefix: str, key: str) -> str:
    keys = [option.key for option in options()]
    leaves = {k.rsplit(".", 1)[-1]: k for k in keys}
    sections = {k.split(".", 1)[0]: k.split(".", 1)[0] for k in keys if "." in k}
    meant = _ALIASES.get(key)
    if meant is None:
        for pool in ({k: k for k in keys if k.startswith(prefix)}, leaves, sections):
            names = {name.removeprefix(prefix): full for name, full in pool.items()}
            close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
            if close:
                meant = names[close[0]]
                break
    return f" Did you mean {meant}?" if meant else " `lora-tui recipe options` lists them all."


def _in_words(error: str, tree: dict[str, Any], where: str) -> str:
    match = re.fullmatch(r"(?P<what>.*?)(?: - at `\$\.?(?P<key>[^`]*)`)?", error)
    if match is None or not match["key"]:
        return f"{where}: {error}."
    key = match["key"]
    value: Any = tree
    for part in re.split(r"\.", key.split("[", 1)[0]):
        value = value.get(part) if isinstance(value, dict) else None
    help_text = next((o for o in options() if o.key == key.split("[", 1)[0]), None)
    what = match["what"].replace("`", "")
    if what.startswith("Invalid enum value") and help_text:
        close = difflib.get_close_matches(str(value), help_text.choices, n=1)
        what = f"it must be one of {', '.join(help_text.choices)}"
        what += f" (did you mean {close[0]}?)" if close else ""
    elif what.startswith("Expected"):
        what = "it must be " + what.removeprefix("Expected ").replace(", got", ", not")
    hint = f" {help_text.help}" if help_text else ""
    return f"{where}: {key} = {value!r}: {what}.{hint}"


def _refuse_contradictions(recipe: Recipe, where: str) -> None:
    resolution = recipe.dataset.resolution
    if resolution % 8 or 0 < resolution < 64:
        raise LoraError(
            Code.INVALID_RECIPE,
            f"{where}: dataset.resolution = {resolution}: it must be a multiple of 8 and at "
            f"least 64; {max(64, round(resolution / 8) * 8)} is near.",
        )
    for key, number in (
        ("optimizer.learning_rate", recipe.optimizer.learning_rate),
        ("network.alpha", recipe.network.alpha),
        ("sample.cfg", recipe.sample.cfg),
    ):
        if not math.isfinite(number):
            raise LoraError(Code.INVALID_RECIPE, f"{where}: {key} is not a finite number.")
    if re.search(r"[/\\\0]", recipe.output.name) or recipe.output.name in (".", ".."):
        raise LoraError(
            Code.INVALID_RECIPE, f"{where}: output.name is a file's name, without folders."
        )
