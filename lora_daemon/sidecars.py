"""Caption files beside the pictures: read with distrust, written without ever losing a text.

Everything here runs in threads and touches no shared state.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from shared.filenames import to_text
from shared.files import sync_directory

SUFFIXES = (".txt", ".caption")
MAX_CAPTION = 32 * 1024  # bytes of UTF-8; more is not a caption
TABLE = "table:"  # begins the digest of a text that is from a table of captions
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
        found = read_file(picture.with_suffix(suffix))
        if found.text or found.warning:
            return found
        if found.name and first is None:
            first = found
    return first or SideCar()


def write(path: Path, text: str, written: str, kept: Collection[str]) -> str:
    """Put ``text`` into the caption file at ``path``, atomically; returns the digest of its bytes.

    Only over bytes of digest ``written`` or one of the ``kept`` texts (stripped), which the
    database has. A byte order mark, the kind of line ends and a final one stay as they were.
    Raises Differs, OSError; the old file is then untouched.
    """
    try:
        target = path.resolve()
    except RuntimeError:  # what Python 3.11 says of links in a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
    before = _bytes(target)
    known = {"", *map(_plain, kept)}
    if before is not None and digest(before) != written and _text(before) not in known:
        raise Differs
    data = _like(before or b"\n", _plain(text).encode("utf-8"))
    if data == before:
        return digest(data)
    temporary = _temporary(target)
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


def clean(paths: Iterable[Path]) -> None:
    """Take away what a kill has left half written beside these caption files."""
    for path in paths:
        with contextlib.suppress(OSError, RuntimeError):
            _temporary(path.resolve()).unlink()


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.lora-tui")  # always this: a kill leaves one


def read_file(path: Path) -> SideCar:
    """As ``read``, of one file."""
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
        return _plain(data.removeprefix(_BOM).decode("utf-8")).strip()
    except UnicodeDecodeError:
        return None


def _plain(text: str) -> str:
    if text.count("\r\n") == text.count("\n"):  # the file's line ends, and not one in a caption
        text = text.replace("\r\n", "\n")
    return text


def _like(before: bytes, data: bytes) -> bytes:
    """``data`` with the outward form of what was there."""
    if before.endswith(b"\n"):
        data += b"\n"
    if b"\n" in before and before.count(b"\r\n") == before.count(b"\n"):
        data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return _BOM + data if before.startswith(_BOM) else data


def _bytes(path: Path) -> bytes | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "It is no ordinary file")
        with path.open("rb") as file:
            return file.read(MAX_CAPTION * 2)
    except FileNotFoundError:
        return None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
