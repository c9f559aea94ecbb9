"""Looking through a folder of pictures: what is there, and what of it is new. Runs in threads."""

from __future__ import annotations

import os
import stat
from collections import Counter
from pathlib import Path

import msgspec

from lora_daemon import caption_tables, pictures, sidecars
from shared.errors import Code, LoraError
from shared.filenames import from_text, to_text


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The picture files of a folder. Names are relative, as shared.filenames has them."""

    names: list[str]
    unread: list[tuple[str, str]]  # folders that could not be listed, and why
    others: dict[str, int]  # suffix → how many files that are no pictures
    tables: list[str]  # files that hold captions of many pictures
    texts: list[str]  # files that a picture's caption would be in


class Known(msgspec.Struct, frozen=True):
    """What the database has of a picture."""

    size: int
    mtime: int  # ns
    problem: str


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One picture as it is now. ``examined`` is None if its file is as known."""

    name: str
    examined: pictures.Examined | None
    sidecar: sidecars.SideCar


def resolve(path: str, files: tuple[str, ...] = ()) -> Path:
    """The folder a person means, or the file if its name ends so, with links resolved.

    Raises LoraError saying what is there.
    """
    given = Path(os.path.expanduser(path))  # noqa: PTH111  # "~nobody" is no error here
    if not given.is_absolute():
        raise LoraError(
            Code.BAD_REQUEST,
            f"{path!r} is not an absolute path, and the daemon does not know your directory.",
        )
    if not os.path.lexists(given):
        given = Path(from_text(str(given)))
    shown = to_text(given)
    try:
        mode = given.stat().st_mode
    except FileNotFoundError:
        raise LoraError(Code.NOT_FOUND, f"There is nothing at {shown}.") from None
    except OSError as error:
        raise LoraError.storage("read the folder", shown, error) from None
    packed = stat.S_ISREG(mode) and given.name.lower().endswith(files)
    if not stat.S_ISDIR(mode) and not packed:
        raise LoraError(
            Code.INVALID_FILE,
            f"{shown} is a file. Import the folder it is in: {to_text(given.parent)}"
            + (f" (of files, {' '.join(files)} can be imported)." if files else ""),
        )
    return given.resolve()


def walk(root: Path) -> Found:
    """Every picture in ``root`` and its folders, hidden ones left out, links followed once.

    Raises LoraError: STORAGE if ``root`` itself cannot be listed.
    """
    names: list[str] = []
    unread: list[tuple[str, str]] = []
    others: Counter[str] = Counter()
    tables: list[str] = []
    texts: list[str] = []
    seen: set[tuple[int, int]] = set()

    def enter(folder: str, prefix: str) -> None:
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise LoraError.storage("read the folder", to_text(folder), error) from None
            unread.append((to_text(prefix), error.strerror or str(error)))
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                enter(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(pictures.SUFFIXES):
                names.append(to_text(prefix + entry.name))
            else:
                if caption_tables.is_table(entry.name):
                    tables.append(to_text(prefix + entry.name))
                elif entry.name.lower().endswith(sidecars.SUFFIXES):
                    texts.append(to_text(prefix + entry.name))
                others[os.path.splitext(entry.name)[1].lower()] += 1  # noqa: PTH122

    enter(str(root), "")
    return Found(names=names, unread=unread, others=dict(others), tables=tables, texts=texts)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def look(root: Path, name: str, known: Known | None) -> Look:
    """Read a picture if it is new or its size or time have changed, and its caption file anyway."""
    path = root / from_text(name)
    examined: pictures.Examined | None = None
    if known is None or known.problem or _stamp(path) != (known.size, known.mtime):
        examined = pictures.examine(path)
    return Look(name=name, examined=examined, sidecar=sidecars.read(path))


def gone(root: Path, names: list[str]) -> list[str]:
    """Those of ``names`` that really are not there any more: not merely out of reach."""

    def is_gone(path: Path) -> bool:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return False

    return [name for name in names if is_gone(root / from_text(name))]


def nothing_found(root: Path, found: Found) -> LoraError:
    """The error for a folder without pictures: what was looked for, what is there instead."""
    there = sorted(found.others.items(), key=lambda pair: -pair[1])[:5]
    listed = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in there)
    return LoraError(
        Code.INVALID_FILE,
        f"There are no pictures in {to_text(root)} or its folders: looked for "
        f"{' '.join(pictures.SUFFIXES)}; found {listed or 'no files at all'}.",
    )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
