"""Pictures that are not files in a folder yet: archives, parquet and arrow tables, or a copy asked.

Each becomes an ordinary folder in the workspace, with ordinary side-cars, which is then imported by
reference like any other. A file that is there already is left as it is, so that unpacking again
goes on where it was broken off and never overwrites an edited caption. Runs in threads.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from lora_daemon import caption_tables, folder, pictures, sidecars
from lora_daemon.stoppable import Told
from shared.errors import Code, LoraError
from shared.filenames import PACKED, TABLES, from_text, to_text

if TYPE_CHECKING:
    import pyarrow as pa

SPARE = 256 * 1024 * 1024  # bytes left free on the disk
BATCH = 64  # rows of a table in memory at once
_ORIGIN = ".lora-tui-origin"  # in the folder: what it was unpacked from
_MAGIC = (
    (b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"),
)  # fmt: skip


class Columns(msgspec.Struct, frozen=True):
    """Of a table; empty: the usual ones."""

    image: str = ""
    text: str = ""


class Member(msgspec.Struct, frozen=True):
    """A file to be written: its name relative to the folder, its size or -1, and its bytes."""

    name: str
    size: int
    read: Callable[[], bytes]


def is_packed(path: Path) -> bool:
    """Whether ``path`` is, by its name, something to be unpacked; or a folder of tables only."""
    if path.is_dir():
        found = folder.walk(path)
        return not found.names and any(suffix in TABLES for suffix in found.others)
    return path.name.lower().endswith(PACKED)


def bare_name(path: Path) -> str:
    """What a dataset from this file is called, as shared.filenames has it."""
    name = to_text(path.name)
    for suffix in PACKED:
        if not path.is_dir() and name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def unpack(source: Path, target: Path, columns: Columns, told: Told, origin: str = "") -> list[str]:
    """Write what ``source`` holds into the folder ``target``; returns warnings. ``origin``: what
    the source is called, if not by its path.

    Raises LoraError: INVALID_FILE, ALREADY_EXISTS if ``target`` came from elsewhere, STORAGE; and
    whatever ``told`` (files done, in all, message) raises.
    """
    shown = to_text(source)
    warnings: list[str] = []
    try:
        _claim(target, origin or shown)
        for done, (total, member) in enumerate(_members(source, columns, warnings), 1):
            told(done, max(total, done), f"unpacking {PurePosixPath(member.name).name}")
            _write(target, member, warnings)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError) as error:
        raise LoraError(Code.INVALID_FILE, f"{shown} is damaged or cut short ({error}).") from None
    except OSError as error:
        raise LoraError.storage("unpack", shown, error) from None
    return warnings


def _claim(target: Path, source: str) -> None:
    origin = target / _ORIGIN
    if target.exists():
        known = origin.read_text() if origin.exists() else "something else"
        if known != source:
            raise LoraError(
                Code.ALREADY_EXISTS,
                f"{target} was unpacked from {known}. Give this dataset another name.",
            )
    target.mkdir(parents=True, exist_ok=True)
    origin.write_text(source)


def _write(target: Path, member: Member, warnings: list[str]) -> None:
    path = target / from_text(member.name)
    if path.exists():
        return
    if member.size > pictures.MAX_BYTES:
        warnings.append(f"{member.name} is too large and was left out.")
        return
    if shutil.disk_usage(target).free < SPARE + max(member.size, 0):
        raise LoraError(
            Code.STORAGE,
            f"The disk of {target} is nearly full: free some space and import again; it goes on "
            "where it was.",
        )
    data = member.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)


def _members(source: Path, columns: Columns, warnings: list[str]) -> Iterator[tuple[int, Member]]:
    """Each file worth having, with the number of all."""
    name = source.name.lower()
    if source.is_dir():
        found = folder.walk(source)
        if found.names:
            yield from _copied(source, found)
        else:
            tables = [p for p in sorted(source.rglob("*")) if p.suffix.lower() in TABLES]
            yield from _rows(tables, columns, warnings)
    elif name.endswith(TABLES):
        yield from _rows([source], columns, warnings)
    elif name.endswith(".zip"):
        yield from _zipped(source)
    else:
        yield from _tarred(source)


def wanted(name: str) -> str | None:
    """The safe relative name of an archive's member, or None if it is not to be unpacked."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or any(part.startswith(".") for part in path.parts) or not path.name:
        return None  # "..", hidden, and macOS's "._" files
    if "__MACOSX" in path.parts or "\0" in name:
        return None
    kept = path.name.lower().endswith((*pictures.SUFFIXES, *sidecars.SUFFIXES))
    return str(path) if kept or caption_tables.is_table(path.name) else None


def _copied(source: Path, found: folder.Found) -> Iterator[tuple[int, Member]]:
    total = len(found.names)
    for name in found.tables:
        path = source / from_text(name)
        yield total, Member(name, path.stat().st_size, path.read_bytes)
    for name in found.names:
        path = source / from_text(name)
        for suffix in sidecars.SUFFIXES:
            beside = path.with_suffix(suffix)
            if beside.is_file():
                text = to_text(beside.relative_to(source))
                yield total, Member(text, beside.stat().st_size, beside.read_bytes)
        if path.is_file():
            yield total, Member(name, path.stat().st_size, path.read_bytes)


def _zipped(source: Path) -> Iterator[tuple[int, Member]]:
    with zipfile.ZipFile(source) as archive:
        infos = [i for i in archive.infolist() if not i.is_dir() and wanted(i.filename)]
        for info in infos:
            name = wanted(info.filename) or ""

            def read(info: zipfile.ZipInfo = info) -> bytes:
                try:
                    return archive.read(info)
                except RuntimeError as error:  # "is encrypted, password required"
                    raise LoraError(Code.INVALID_FILE, f"{to_text(source)}: {error}.") from None

            yield len(infos), Member(to_text(name), info.file_size, read)


def _tarred(source: Path) -> Iterator[tuple[int, Member]]:
    with tarfile.open(source) as archive:
        for number, info in enumerate(archive, 1):
            name = wanted(info.name)
            if not info.isreg() or name is None:
                continue

            def read(info: tarfile.TarInfo = info) -> bytes:
                file = archive.extractfile(info)
                return file.read() if file is not None else b""

            yield number, Member(to_text(name), info.size, read)


# ── tables ──────────────────────────────────────────────────────────────────────────────────────


def _rows(
    tables: list[Path], columns: Columns, warnings: list[str]
) -> Iterator[tuple[int, Member]]:
    taken: set[str] = set()
    total = 0
    for table in tables:
        rows, batches, schema = _open(table)
        total += rows
        image, text = _choose(table, schema, columns)
        number = 0
        for batch in batches:
            images = batch.column(schema.get_field_index(image))
            texts = batch.column(schema.get_field_index(text)) if text else None
            for row in range(batch.num_rows):
                number += 1
                data, name = _image(images[row].as_py())
                suffix = _suffix(data)
                if suffix is None:
                    warnings.append(f"{to_text(table.name)}, row {number}: no picture in {image}.")
                    continue
                stem = PurePosixPath(wanted(f"{name}.png") or "").stem
                if not stem or stem in taken:
                    stem = f"{to_text(table.stem)}-{number:06}"
                taken.add(stem)
                caption = texts[row].as_py() if texts is not None else None
                if isinstance(caption, str):
                    yield total, _member(f"{stem}.txt", caption.encode())
                yield total, _member(f"{stem}{suffix}", data)


def _member(name: str, data: bytes) -> Member:
    return Member(name, len(data), lambda: data)


def _open(table: Path) -> tuple[int, Iterable[pa.RecordBatch], pa.Schema]:
    """Rows (0: not known), batches and schema of a parquet or arrow file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise LoraError(
            Code.INVALID_FILE,
            f"To read {to_text(table)} pyarrow is needed: pip install 'lora-tui[engine]'.",
        ) from None
    try:
        if table.suffix.lower() == ".parquet":
            file = pq.ParquetFile(table)
            return file.metadata.num_rows, file.iter_batches(batch_size=BATCH), file.schema_arrow
        stream = pa.ipc.open_stream(pa.memory_map(os.fspath(table)))
        return 0, stream, stream.schema
    except pa.ArrowInvalid as error:
        raise LoraError(
            Code.INVALID_FILE, f"{to_text(table)} is damaged or no table ({error})."
        ) from None


def _choose(table: Path, schema: pa.Schema, columns: Columns) -> tuple[str, str]:
    """The columns of picture and caption; the latter empty if there is no text at all."""
    import pyarrow as pa

    def holds_pictures(kind: pa.DataType) -> bool:
        struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        return bool(struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    images = [field.name for field in schema if holds_pictures(field.type)]
    texts = [
        field.name
        for field in schema
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    image = columns.image or ("image" if "image" in images else images[0] if images else "")
    if image not in images:
        raise LoraError(
            Code.INVALID_FILE,
            f"{to_text(table)} has no column {image or 'of pictures'}; its columns are "
            f"{', '.join(schema.names)}. Choose one with --image-column.",
        )
    if not texts and not columns.text:
        return image, ""
    return image, caption_tables.choose_column(to_text(table), texts, columns.text)


def _image(value: Any) -> tuple[bytes, str]:
    """The bytes of a cell, and the stem of the file it once was."""
    if isinstance(value, dict):
        path = value.get("path")
        stem = PurePosixPath(path.replace("\\", "/")).stem if isinstance(path, str) else ""
        return value.get("bytes") or b"", to_text(stem)
    return value or b"", ""


def _suffix(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return ".avif"
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), None)
