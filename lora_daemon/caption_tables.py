"""Captions that one file holds for a whole folder: ImageFolder's metadata, kohya's metadata JSON.

https://huggingface.co/docs/datasets/image_dataset (``metadata.jsonl``, ``metadata.csv``: a line per
picture, ``file_name`` relative to the table) and sd-scripts' fine-tuning metadata (an object whose
keys are paths or names, its values ``caption`` and ``tags``). Everything here runs in threads.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lora_daemon import pictures, sidecars
from lora_daemon.sidecars import TABLE, SideCar
from shared.errors import Code, LoraError
from shared.filenames import from_text, to_text

MAX_BYTES = 256 * 1024 * 1024
TEXT_COLUMNS = ("text", "caption", "prompt")  # in this order, where nobody says which
_FILE_COLUMNS = ("file_name", "file_names", "image", "path")

Captions = dict[str, str]  # name of a picture → its caption


def is_table(name: str) -> bool:
    """Whether a file of this name, found in a folder of pictures, is such a table."""
    lower = name.lower()
    return lower in ("metadata.jsonl", "metadata.csv") or (
        lower.startswith("meta_") and lower.endswith(".json")
    )


class Tables:
    """What the tables of a folder say. Side-cars go before them: they are where edits are kept."""

    def __init__(self) -> None:
        self._captions: dict[str, tuple[str, str]] = {}  # picture → caption, table
        self.warnings: list[str] = []

    def read(
        self, root: Path, tables: Sequence[str], names: Sequence[str], *, column: str, extra: str
    ) -> None:
        """Read the ``tables`` found in ``root``, and ``extra``, a table named by a person, before
        them. ``column``: of the caption, empty: the usual ones.

        Raises LoraError(INVALID_FILE, NOT_FOUND, STORAGE) for ``extra``; for the others a warning.
        """
        named = Names(root, names)
        if extra:
            self._take(Path(extra), "", named, column)
        for table in tables:
            folder = table.rpartition("/")[0]
            try:
                self._take(root / from_text(table), folder, named, column)
            except LoraError as error:
                self.warnings.append(error.message)

    def fill(self, name: str, sidecar: SideCar) -> SideCar:
        """The caption of a picture: its side-car's, else what a table says."""
        if sidecar.text or sidecar.warning or name not in self._captions:
            return sidecar
        text, table = self._captions[name]
        if len(text.encode()) > sidecars.MAX_CAPTION:
            return SideCar(warning=f"has a caption in {table} that is none (too long): not used")
        return SideCar(text=text, digest=f"{TABLE}{sidecars.digest(text.encode())}")

    def _take(self, path: Path, folder: str, named: Names, column: str) -> None:
        shown = to_text(path)
        captions, unknown = dict[str, str](), list[str]()
        for key, text in _entries(path, column):
            name = named.find(folder, key)
            if name is None:
                unknown.append(key)
            else:
                captions[name] = text.strip()
        if not captions:
            raise LoraError(
                Code.INVALID_FILE,
                f"{shown} names no picture of this folder"
                + (f" (it has {unknown[0]!r} and others)." if unknown else "."),
            )
        if unknown:
            listed = ", ".join(unknown[:3]) + (", …" if unknown[3:] else "")
            self.warnings.append(f"{shown} has captions for pictures that are not here: {listed}")
        for name, text in captions.items():
            self._captions.setdefault(name, (text, shown))


class Names:
    """The pictures of a folder, found by whatever another tool calls them."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root = to_text(root)
        self._names = set(names)
        self._bare: dict[str, str | None] = {}  # without suffix; None: several
        self._last: dict[str, str | None] = {}  # last part without suffix, likewise
        for name in names:
            bare = name.rpartition(".")[0]
            for index, key in ((self._bare, bare), (self._last, bare.rpartition("/")[2])):
                index[key] = None if key in index else name

    def find(self, folder: str, key: str) -> str | None:
        """``key``: a path relative to ``folder`` or absolute, with or without a suffix; or, as
        kohya's keys from another machine, only its last part."""
        key = key.replace("\\", "/").removeprefix("./")
        inside = key.removeprefix(f"{self._root}/")
        for path in dict.fromkeys((f"{folder}/{inside}" if folder else inside, inside)):
            if path in self._names:
                return path
            if found := self._bare.get(path):
                return found
        if inside != key or ("/" in key and not key.startswith("/")):
            return None
        last = PurePosixPath(key)
        return self._last.get(last.stem if last.suffix.lower() in pictures.SUFFIXES else last.name)


def _entries(path: Path, column: str) -> Iterator[tuple[str, str]]:
    """(key, caption) of each picture that a table has one for."""
    text = _text(path)
    match path.suffix.lower():
        case ".json":
            yield from _kohya(path, text)
        case ".csv":
            rows: list[Mapping[str, Any]] = list(csv.DictReader(io.StringIO(text)))
            yield from _rows(path, rows, column)
        case ".jsonl":
            yield from _rows(path, _lines(path, text), column)
        case other:
            raise LoraError(
                Code.INVALID_FILE,
                f"{to_text(path)} is no table of captions: it must be .jsonl, .csv or .json, "
                f"not {other or 'without a suffix'}.",
            )


def _text(path: Path) -> str:
    shown = to_text(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LoraError(Code.INVALID_FILE, f"{shown} is too large for a table of captions.")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise LoraError(Code.NOT_FOUND, f"There is no file {shown}.") from None
    except UnicodeDecodeError:
        raise LoraError(
            Code.INVALID_FILE, f"{shown} is not UTF-8 text: save it as UTF-8 and import again."
        ) from None
    except OSError as error:
        raise LoraError.storage("read", shown, error) from None


def _lines(path: Path, text: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise LoraError(
                Code.INVALID_FILE, f"{to_text(path)}, line {number}, is not JSON: {error}."
            ) from None
        if not isinstance(row, dict):
            raise LoraError(Code.INVALID_FILE, f"{to_text(path)}, line {number}, is not an object.")
        rows.append(row)
    return rows


def _rows(path: Path, rows: Sequence[Mapping[str, Any]], column: str) -> Iterator[tuple[str, str]]:
    present = {key for row in rows[:100] for key in row if isinstance(key, str)}
    file = next((name for name in _FILE_COLUMNS if name in present), None)
    if file is None:
        raise LoraError(
            Code.INVALID_FILE,
            f"{to_text(path)} has no column file_name; it has {', '.join(sorted(present))}.",
        )
    wanted = choose_column(to_text(path), sorted(present - {file}), column)
    for row in rows:
        key, text = row.get(file), row.get(wanted)
        if isinstance(key, str) and isinstance(text, str):
            yield key, text


def choose_column(where: str, columns: Sequence[str], asked: str) -> str:
    """The column that holds the captions. Raises LoraError(INVALID_FILE) naming what there is."""
    if asked in columns:
        return asked
    usual = [name for name in TEXT_COLUMNS if name in columns]
    if not asked and (usual or len(columns) == 1):
        return usual[0] if usual else columns[0]
    missing = f"no column {asked}" if asked else "no column text, caption or prompt"
    raise LoraError(
        Code.INVALID_FILE,
        f"{where} has {missing}. It has {', '.join(columns) or 'none'}: choose one with "
        "--text-column.",
    )


def _kohya(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """As sd-scripts joins them: the caption, then the tags."""
    try:
        table = json.loads(text)
    except ValueError as error:
        raise LoraError(Code.INVALID_FILE, f"{to_text(path)} is not JSON: {error}.") from None
    if not isinstance(table, dict):
        raise LoraError(Code.INVALID_FILE, f"{to_text(path)} is no kohya metadata: no object.")
    for key, entry in table.items():
        if not isinstance(entry, dict):
            continue
        parts = [entry.get("caption"), entry.get("tags")]
        said = [part for part in parts if isinstance(part, str) and part]
        if said:
            yield key, ", ".join(said)
