"""The Train form without widgets: text of every option, checked one by one and as a whole."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any, Literal, get_origin

import msgspec

from shared.errors import LoraError
from shared.recipe import Option, Recipe, convert, dump, held_out_count, options, parse, total_steps

# What one usually changes; the rest is a key away.
USUAL = (
    "base.name", "dataset.name", "output.name", "output.trigger", "training.epochs",
    "training.max_steps", "training.batch_size", "dataset.resolution", "dataset.repeats",
    "dataset.flip", "network.rank", "network.alpha", "optimizer.learning_rate", "schedule.kind",
    "sample.prompts", "sample.every_epochs", "save.every_epochs", "evaluation.held_out",
    "training.seed",
)  # fmt: skip


def kind_of(option: Option) -> Literal["choice", "switch", "list", "number", "text"]:
    """What kind of field an option needs."""
    if get_origin(option.type) is list:
        return "list"
    if option.choices:
        return "choice"
    if option.type is bool:
        return "switch"
    return "number" if option.type in (int, float) else "text"


def shown(value: Any) -> str:
    """A value as its field shows it. Lists: one entry after the other, with | between."""
    if isinstance(value, list):
        return " | ".join(str(entry) for entry in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def read(option: Option, text: str) -> Any:
    """The value a field's text stands for; text that is no number stays text, so that the schema
    itself says what it must be."""
    text = text.strip()
    kind = kind_of(option)
    if kind == "switch":
        return text.lower() in ("yes", "true", "on", "1")
    if kind == "list":
        return [entry.strip() for entry in text.split("|") if entry.strip()]
    if option.type is int:
        try:
            return int(text.replace("_", "").replace(" ", ""))
        except ValueError:
            return text
    if option.type is float:
        try:
            value = float(text)
        except ValueError:
            return text
        return value if math.isfinite(value) else text
    return text


class Form:
    """The present text of every option."""

    def __init__(self, recipe: Recipe | None = None) -> None:
        self.options: dict[str, Option] = {option.key: option for option in options()}
        self.texts: dict[str, str] = {}
        self.load(recipe or Recipe())

    def load(self, recipe: Recipe) -> None:
        """Fill every field from a recipe."""
        tree = msgspec.to_builtins(recipe)
        for key in self.options:
            self.texts[key] = shown(_get(tree, key))

    def tree(self) -> dict[str, Any]:
        """The values as nested tables."""
        tree: dict[str, Any] = {}
        for key, option in self.options.items():
            *parents, leaf = key.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = read(option, self.texts[key])
        return tree

    def problem(self, key: str) -> str:
        """What is wrong with one field, in words; empty if nothing is."""
        return self.problem_of(key, read(self.options[key], self.texts[key]))

    def problem_of(self, key: str, value: Any) -> str:
        """What would be wrong with a value of one option, whatever the others are."""
        single: dict[str, Any] = {}
        *parents, leaf = key.split(".")
        node = single
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
        try:
            convert(single, "recipe")
        except LoraError as error:
            text = error.message.removeprefix("recipe: ").removeprefix(f"{key} ")
            text = text.removesuffix(self.options[key].help).strip()
            return "" if set(self.named(text)) - {key} else text
        return ""

    def problems(self) -> dict[str, str]:
        """What is wrong, by key: with single values, else with how they go together."""
        try:
            self.recipe()
        except LoraError as error:
            found = {key: self.problem(key) for key in self.options}
            found = {key: text for key, text in found.items() if text}
            why = error.message.partition(": ")[2]
            return found or dict.fromkeys(self.named(why)[:1], why)
        return {}

    def named(self, text: str) -> list[str]:
        """The options that a text names, in its order."""
        return [word for word in re.findall(r"[a-z_]+\.[a-z_]+", text) if word in self.options]

    def recipe(self) -> Recipe:
        """The recipe. Raises LoraError(INVALID_RECIPE)."""
        return convert(self.tree(), "The recipe")

    def toml(self) -> str:
        return dump(self.recipe())

    def steps(self, pictures: int) -> int | None:
        """Steps of the whole run on a dataset; None while a field it depends on makes no sense."""
        try:
            recipe = self.recipe()
            return total_steps(recipe, pictures - held_out_count(recipe, pictures))
        except LoraError:
            return None

    def differs(self, key: str) -> bool:
        """Whether a field is not at the schema's default."""
        return self.texts[key] != shown(self.options[key].default)


def templates() -> Iterator[tuple[str, str, Recipe]]:
    """(name, title, recipe) of the recipes that come with lora-tui; the plain defaults last."""
    folder = resources.files("configs")
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            text = entry.read_text(encoding="utf-8")
            try:
                tomllib.loads(text)
                recipe = parse(text, where=entry.name)
            except (LoraError, tomllib.TOMLDecodeError):
                continue
            name = entry.name.removesuffix(".toml")
            yield name, recipe.title or name, recipe
    yield "plain", "The defaults", Recipe()


def _get(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
