"""Wildcards by name in captions: ``__colour__`` stands for a line of ``colour.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from shared.errors import Code, LoraError

NAMED = re.compile(r"__([\w-]+?)__")


def read_wildcards(captions: Iterable[str], folder: str) -> dict[str, list[str]]:
    """The lines of every wildcard that the captions name, and that these lines name.

    Empty lines and those that begin with # do not count. Raises LoraError(INVALID_RECIPE) naming
    the file that is not there, cannot be read or has no line.
    """
    found: dict[str, list[str]] = {}
    wanted = {name for caption in captions for name in NAMED.findall(caption)}
    while wanted:
        name = wanted.pop()
        path = Path(folder).expanduser() / f"{name}.txt"
        try:
            text = path.read_text(encoding="utf-8") if folder else ""
        except (OSError, UnicodeDecodeError) as error:
            raise LoraError(
                Code.INVALID_RECIPE,
                f"The captions name the wildcard __{name}__, and {path} cannot be read ({error}).",
                data={"key": "dataset.wildcard_folder"},
            ) from None
        lines = (line.strip() for line in text.splitlines())
        found[name] = [line for line in lines if line and not line.startswith("#")]
        if not found[name]:
            why = f"{path} has no line" if folder else "dataset.wildcard_folder is empty"
            raise LoraError(
                Code.INVALID_RECIPE,
                f"The captions name the wildcard __{name}__, and {why}.",
                data={"key": "dataset.wildcard_folder"},
            )
        wanted |= {other for line in found[name] for other in NAMED.findall(line)} - found.keys()
    return found
