"""Caption files beside the pictures: read with distrust, written without ever losing a text.

Everything here runs in threads and touches no shared state.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path

import msgspec

from shared.filenames import to_text
from shared.files import sync_directory

SUFFIXES = (".txt", ".caption")
MAX_CAPTION = 32 * 1024  # bytes of UTF-8; more is not a caption
_BOM = b"\xef\xbb\xbf"


class SideCar(msgspec.Struct, frozen=True, kw_only=True):
    """A caption file as read. All empty if there is none; ``digest`` is empty also where the text
    could not be taken over, so that the file is never written to."""

    name: str = ""  # file name beside the picture, as shared.filenames has it
    text: str = ""
    digest: str = ""  # SHA-256 of its bytes
    warning: str = ""  # reads on from its name


class Differs(Exception):
    """The file holds a text that the database does not know: it is left alone."""


def read(picture: Path) -> SideCar:
    """The caption file of a picture: the first of ``.txt``, ``.caption`` that is not empty.

    Never raises for what the file may be or hold.
    """
    first: SideCar | None = None
    for suffix in SUFFIXES:
        found = _read(picture.with_suffix(suffix))
        if found.text or found.warning:
            return found
        if found.name and first is None:
            first = found
    return first or SideCar()


def write(path: Path, text: str, written: str, kept: Collection[str]) -> str:
    """Put ``text`` into the caption file at ``path``, atomically; returns the digest of its bytes.

    Only over bytes of digest ``written`` or one of the ``kept`` texts (stripped), which the
    database has. A byte order mark and a final newline stay as they were. Raises Differs, OSError;
    the old file is then untouched.
    """
    target = path.resolve()
    before = _bytes(target)
    if before is not None and digest(before) != written and _text(before) not in {"", *kept}:
        raise Differs
    data = text.encode("utf-8")
    if before is None or before.endswith(b"\n") or not before:
        data += b"\n"
    if before and before.startswith(_BOM):
        data = _BOM + data
    if data == before:
        return digest(data)
    temporary = target.with_name(f".{target.name}.lora-tui")  # always this: a kill leaves one
    mode = stat.S_IMODE(target.stat().st_mode) if before is not None else 0o666
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(file, "wb") as out:
            if before is not None:
                os.fchmod(out.fileno(), mode)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        if _bytes(target) != before:
            raise Differs
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(target.parent)
    return digest(data)


def _read(path: Path) -> SideCar:
    name = to_text(path.name)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return SideCar()
        if status.st_size > MAX_CAPTION:
            return SideCar(
                name=name,
                warning=f"is {status.st_size} bytes long, which is no caption "
                f"(at most {MAX_CAPTION}): not used",
            )
        with path.open("rb") as file:
            data = file.read(MAX_CAPTION + 1)
    except FileNotFoundError:
        return SideCar()
    except OSError as error:
        return SideCar(name=name, warning=f"cannot be read ({error.strerror or error})")
    text = _text(data)
    if text is None:
        return SideCar(
            name=name, warning="is not UTF-8 text: not used. Save it as UTF-8 and import again"
        )
    return SideCar(name=name, text=text, digest=digest(data))


def _text(data: bytes) -> str | None:
    try:
        return data.removeprefix(_BOM).decode("utf-8").strip()
    except UnicodeDecodeError:
        return None


def _bytes(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_CAPTION * 2)
    except FileNotFoundError:
        return None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
