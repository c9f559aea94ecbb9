"""The texts that other tools write into PNG and JPEG files, and a picture's size, by its headers
alone: nothing is decoded, and no length that a file states is believed. Runs in threads."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import msgspec

from lora_daemon import pictures
from shared.filenames import to_text

MOST = 2 * 1024 * 1024  # bytes of a file's texts; ComfyUI's graphs have some hundred thousand
PARTS = 50_000  # of a file; it has many where somebody wants to keep us busy
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF, _COMMENT = 0x8769, 0x9286  # where EXIF has its own block, and the user's comment in it
_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's markers that state the size


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """``texts`` by keyword, a JPEG's comment as ``parameters``. ``left``: what was not read, in a
    sentence. ``problem`` reads on from the file's name; empty if it is usable."""

    texts: dict[str, str] = {}
    width: int = 0  # pixels
    height: int = 0
    size: int = 0  # bytes
    mtime: int = 0  # ns
    left: str = ""
    problem: str = ""


def read(path: Path) -> Texts:
    """What is written in a picture file. Never raises for what a file may be or hold."""
    try:
        status = path.stat()
        pictures.refuse(status)
        seen = Texts(size=status.st_size, mtime=status.st_mtime_ns)
        with path.open("rb") as file:
            start = file.read(len(_PNG))
            if start == _PNG:
                return _png(file, seen)
            if start[:2] == b"\xff\xd8":
                file.seek(2)
                return _jpeg(file, seen)
        return msgspec.structs.replace(seen, problem="is neither a PNG nor a JPEG")
    except pictures.Unusable as error:
        return Texts(problem=str(error))
    except OSError as error:
        return Texts(problem=pictures.unreadable(path, error))


def _png(file: BinaryIO, seen: Texts) -> Texts:
    texts: dict[str, str] = {}
    width = height = 0
    left = problem = ""
    room = MOST
    for _ in range(PARTS):
        if len(head := file.read(8)) < 8:
            problem = "was cut short"
            break
        (length,) = struct.unpack(">I", head[:4])
        kind, begin = head[4:], file.tell()
        if kind == b"IEND":
            break
        if begin + length + 4 > seen.size:
            problem = f"is damaged: a part of it ({to_text(kind.decode('latin-1'))!r}) claims "
            problem += f"{length} bytes, and {max(seen.size - begin, 0)} are left"
            break
        if kind == b"IHDR" and length == 13:
            width, height = struct.unpack(">II", file.read(8))
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            if length > room:
                left = f"It carries a text of {length / 2**20:.1f} MiB, which was not read."
            else:
                try:
                    text = _text(kind, file.read(length))
                except OverflowError:
                    left = f"It carries a packed text of more than {MOST >> 20} MiB, left unread."
                    text = None
                if text is not None:
                    texts.setdefault(*text)
                    room -= length
        file.seek(begin + length + 4)
    else:
        problem = f"is made of more than {PARTS} parts"
    if not problem and not (0 < width * height <= pictures.MAX_PIXELS):
        problem = f"claims to be {width} × {height} pixels large"
    return msgspec.structs.replace(
        seen, texts=texts, width=width, height=height, left=left, problem=problem
    )


def _text(kind: bytes, data: bytes) -> tuple[str, str] | None:
    """Keyword and text of a chunk; None where it makes no sense. Raises OverflowError where it is
    packed and too long."""
    keyword, mark, rest = data.partition(b"\0")
    if not mark or len(keyword) > 79:
        return None
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = rest[:1] == b"\1"
        *_, rest = rest[2:].split(b"\0", 2)
    elif packed:
        rest = rest[1:]
    if packed:
        unpacking = zlib.decompressobj()
        try:
            rest = unpacking.decompress(rest, MOST)
        except zlib.error:
            return None
        if unpacking.unconsumed_tail:
            raise OverflowError
    try:
        text = rest.decode("utf-8")
    except UnicodeDecodeError:
        text = rest.decode("latin-1")
    return keyword.decode("latin-1"), text


def _jpeg(file: BinaryIO, seen: Texts) -> Texts:
    texts: dict[str, str] = {}
    for _ in range(PARTS):
        if len(mark := file.read(4)) < 4 or mark[0] != 0xFF:
            break
        if mark[1] == 0xFF:  # a fill byte
            file.seek(-3, os.SEEK_CUR)
            continue
        (length,) = struct.unpack(">H", mark[2:])
        begin = file.tell()
        data = file.read(max(length - 2, 0))
        if mark[1] in _SIZES and len(data) >= 5:
            height, width = struct.unpack(">HH", data[1:5])
            if not 0 < width * height <= pictures.MAX_PIXELS:
                break
            return msgspec.structs.replace(seen, texts=texts, width=width, height=height)
        if mark[1] == 0xE1 and data.startswith(b"Exif\0\0") and (text := _comment(data)):
            texts.setdefault("parameters", text)
        file.seek(begin + max(length - 2, 0))
    return msgspec.structs.replace(seen, texts=texts, problem="is damaged or cut short")


def _comment(data: bytes) -> str:
    """The user's comment of an EXIF block."""
    from PIL import Image

    try:
        exif = Image.Exif()
        exif.load(data)
        value = exif.get_ifd(_EXIF).get(_COMMENT, b"")
    except Exception:  # damaged EXIF does not make a damaged picture
        return ""
    if not isinstance(value, bytes):
        return str(value)
    code, text = value[:8], value[8:]
    if code == b"UNICODE\0":
        little = text[1::2].count(0) > text[::2].count(0)  # the standard does not say
        return text.decode("utf-16-le" if little else "utf-16-be", "replace").strip("\0")
    return text.decode("utf-8", "replace").strip("\0")
