"""Recipes as files of the client's machine: one of ours, or what kohya's files make."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lora_tui.kohya import tables
from lora_tui.kohya.files import read
from lora_tui.kohya.report import Line
from lora_tui.kohya.translate import translate
from shared import recipe
from shared.errors import Code, LoraError

_OURS = {option.key.rpartition(".")[2] for option in recipe.options()}
# Names that stand in kohya's files and in no recipe.
_THEIRS = {*tables.SAME, *tables.ANYWAY, *tables.NOT_HERE, "pretrained_model_name_or_path"} - _OURS


class Imported(NamedTuple):
    """A recipe, and what became of each of kohya's options, the ones that matter most first."""

    recipe: recipe.Recipe
    lines: list[Line]


def imported(files: Sequence[Path], dataset: str = "") -> Imported:
    """What kohya's files make. Raises LoraError as ``read``, and INVALID_RECIPE."""
    found = translate(read(list(files)), dataset)
    order = ("left out", "nearly", "taken", "default")
    lines = sorted(found.lines, key=lambda line: order.index(line.verdict))
    return Imported(recipe.convert(found.tree, str(files[0])), lines)


def opened(text: str) -> tuple[str, Imported]:
    """The recipe of a file, or of several of kohya's, with a shell's quotes and spaces between; and
    a name for it. Raises LoraError: NOT_FOUND, STORAGE, INVALID_FILE, INVALID_RECIPE."""
    try:
        files = [Path(name).expanduser() for name in shlex.split(text)]
    except ValueError as error:
        raise LoraError(Code.BAD_REQUEST, f"These are no names of files: {error}.") from None
    if not files:
        raise LoraError(Code.BAD_REQUEST, "Give the name of a file.")
    if len(files) > 1 or _is_kohyas(files[0]):
        return files[0].stem, imported(files)
    return files[0].stem, Imported(recipe.load(files[0]), [])


def save(made: recipe.Recipe, out: str) -> Path:
    """Write a recipe to a new file. Raises LoraError: ALREADY_EXISTS, STORAGE."""
    path = Path(out).expanduser()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(recipe.dump(made))
    except FileExistsError:
        raise LoraError(
            Code.ALREADY_EXISTS, f"{path} is there already. Remove it, or choose another name."
        ) from None
    except OSError as error:
        raise LoraError.storage("write", path, error) from None
    return path


def _is_kohyas(path: Path) -> bool:
    if path.suffix.lower() != ".toml":
        return True
    try:
        tree = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False  # loading says what is wrong
    names = {name for value in tree.values() if isinstance(value, dict) for name in value}
    return "datasets" in tree or bool((names | tree.keys()) & _THEIRS)
