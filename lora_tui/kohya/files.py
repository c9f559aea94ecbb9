"""Reading kohya's files: what each is, and the options it gives, flat and by kohya's names."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import Code, LoraError


@dataclass
class Given:
    """What was found. ``options``: as a config file has them; a dataset config's win, as there.

    ``folders``: of each subset, its options with what it inherits. ``prompts``: lines of a sample
    file. ``read``: the files that were read. ``sdxl``: whether SDXL's script was called.
    """

    options: dict[str, Any] = field(default_factory=dict)
    folders: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    read: list[Path] = field(default_factory=list)
    sdxl: bool = False


_PROCESSES = re.compile(r"--num_processes[ =]+(\d+)")  # accelerate's, before kohya's script
# Options of a command line that name other files with options, and must be read too.
_REFERRING = ("config_file", "dataset_config", "sample_prompts")


def read(paths: list[Path]) -> Given:
    """Everything in these files, and in those they name where these are to be found.

    Raises LoraError: NOT_FOUND, STORAGE, INVALID_FILE.
    """
    given = Given()
    for path in paths:
        _read(path, given)
    for name in _REFERRING:
        named = given.options.get(name)
        if isinstance(named, str):
            places = [Path(named).expanduser(), *(path.parent / named for path in paths)]
            there = next((place for place in places if place.is_file()), None)
            known = {path.resolve() for path in given.read}
            if there is not None and there.resolve() not in known:
                _read(there, given)
            if there is not None:
                del given.options[name]
    return given


def _read(path: Path, given: Given) -> None:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise LoraError(Code.NOT_FOUND, f"There is no file {path}.") from None
    except UnicodeDecodeError:
        raise LoraError(
            Code.INVALID_FILE,
            f"{path} is not UTF-8 text. Give kohya's .toml files, a script with the command line, "
            "or the sample prompts.",
        ) from None
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    given.read.append(path)
    if path.suffix.lower() == ".toml":
        _read_toml(path, text, given)
    elif path.suffix.lower() == ".json":
        raise LoraError(
            Code.INVALID_FILE,
            f"{path}: of JSON files lora-tui reads none. In kohya's GUI, \"Print training "
            'command" or the config_lora-*.toml beside the output has the same.',
        )
    elif re.search(r"train_network\.py|^\s*--\w", text, re.MULTILINE):
        given.options = given.options | command_line(text, path)
        given.sdxl = given.sdxl or "sdxl_train_network.py" in text
    else:
        lines = (line.strip() for line in text.splitlines())
        given.prompts += [line for line in lines if line and not line.startswith("#")]


def _read_toml(path: Path, text: str, given: Given) -> None:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LoraError(Code.INVALID_FILE, f"{path} is not valid TOML: {error}.") from None
    if "datasets" in tree:
        _read_dataset(path, tree, given)
        return
    flat: dict[str, Any] = {}
    for name, value in tree.items():  # the sections are for the reader's eye alone
        if isinstance(value, dict) and name not in ("network_args", "optimizer_args"):
            flat |= value
        else:
            flat[name] = value
    given.options = flat | given.options  # a command line wins


def _read_dataset(path: Path, tree: dict[str, Any], given: Given) -> None:
    general, datasets = tree.get("general", {}), tree["datasets"]
    whole = isinstance(general, dict) and _tables(datasets)
    if not whole or not all(_tables(one.get("subsets", [])) for one in datasets):
        raise LoraError(
            Code.INVALID_FILE,
            f"{path}: a dataset config has [general], [[datasets]] and [[datasets.subsets]].",
        )
    for dataset in datasets:
        own = {name: value for name, value in dataset.items() if name != "subsets"}
        given.folders += [general | own | subset for subset in dataset.get("subsets", [])]
    trained = next((one for one in given.folders if not one.get("is_reg")), general)
    given.options |= {
        {"batch_size": "train_batch_size"}.get(name, name): value
        for name, value in trained.items()
        if name != "is_reg"
    }


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def command_line(text: str, path: Path) -> dict[str, Any]:
    """The options of a call of kohya's script, from a shell script or what was pasted of it.

    Raises LoraError(INVALID_FILE) where its quotes do not close.
    """
    joined = re.sub(r"[\\^`][ \t]*\r?\n", " ", text)  # of POSIX shells, cmd and PowerShell
    calls = [line for line in joined.splitlines() if "train_network.py" in line]
    before = ""
    if calls:
        before, _, joined = calls[0].partition("train_network.py")
    lexer = shlex.shlex(joined, posix=True)
    lexer.whitespace_split, lexer.escape = True, ""  # a path of Windows keeps its backslashes
    try:
        words = list(lexer)
    except ValueError as error:
        raise LoraError(
            Code.INVALID_FILE, f"{path} is not a whole command line: {error}."
        ) from None
    values: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values[name] = [value] if equals else []
        elif name:
            values[name].append(word)
    options = {name: _typed(name, own) for name, own in values.items()}
    if processes := _PROCESSES.search(before):
        options["num_processes"] = int(processes[1])
    return options


def _typed(name: str, words: list[str]) -> Any:
    if name in ("network_args", "optimizer_args", "lr_scheduler_args"):
        return words
    if not words:
        return True
    return literal(words[0]) if len(words) == 1 else [literal(word) for word in words]


def literal(word: str) -> Any:
    """A word of a command line as the value it means: ``True``, ``1e-4``, ``8``, or itself."""
    named = {"true": True, "false": False, "none": None}
    if word.lower() in named:
        return named[word.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(word)
    return word


def arguments(value: Any) -> dict[str, Any]:
    """``["d_coef=2", "betas=0.9,0.99"]``, as ``optimizer_args`` has them, by name."""
    if isinstance(value, dict):
        return value
    words = value if isinstance(value, list) else str(value).split()
    pairs = (str(word).partition("=") for word in words)
    return {name.strip(): _argument(text.strip()) for name, _, text in pairs if name.strip()}


def _argument(text: str) -> Any:
    inner = text.strip("()[] ")
    if "," in inner:
        return [literal(part.strip()) for part in inner.split(",") if part.strip()]
    return literal(inner)


def shown(value: Any) -> str:
    """A value as the report has it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 48 else f"{text[:47]}…"
