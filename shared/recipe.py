"""The recipe: one typed TOML that says everything about a training run, and says no to the rest.

The schema below is the only place where an option exists: its checks, help texts, the form in the
TUI and the page in ``docs/`` are generated from it.
"""

from __future__ import annotations

import contextlib
import difflib
import json
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
MAX_NAME = 200  # bytes of output.name; file systems allow 255, and a step and suffix follow it


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
    choices: tuple[str, ...] = ()  # of the value, or of each entry of a list
    must: str = ""  # what it must be, in words: "a whole number from 1 to 1024"


def options() -> Iterator[Option]:
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

    yield from walk(Recipe, "")


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
    if len(set(recipe.network.targets)) < len(recipe.network.targets):
        refuse("network.targets names a projection twice.")
    if 0 < recipe.training.max_steps <= recipe.schedule.warmup_steps:
        refuse(
            f"schedule.warmup_steps = {recipe.schedule.warmup_steps} would last the whole run: "
            f"training.max_steps = {recipe.training.max_steps}."
        )
    name = recipe.output.name
    if re.search(r"[/\\\x00-\x1f\x7f]", name) or name in (".", ".."):
        refuse("output.name must be a file's name: without folders or control characters.")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME:
        refuse(f"output.name must be at most {MAX_NAME} bytes long, as file names are.")
