"""A dataset written out for other tools: pictures, captions, and nothing private.

The export is made beside its place and moved there when it is whole, so that none is ever half
there. Captions are those of the database at the moment it begins.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import shutil
import sqlite3
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from lora_daemon import privacy
from lora_daemon.catalog import Catalog
from lora_daemon.jobs import Jobs
from lora_daemon.service import Context, Daemon
from lora_daemon.stoppable import Told, stoppable
from lora_daemon.views import Views
from shared import framing, wire
from shared.errors import Code, LoraError
from shared.filenames import from_text, to_text

TOLD = 200  # warnings in the answer
ROWS = 64  # of a parquet row group; pictures lie in memory until then
_SUFFIXES: dict[str, wire.ExportFormat] = {
    ".zip": "zip", ".tar": "tar", ".parquet": "parquet",
}  # fmt: skip


class Sink(Protocol):
    """Where an export goes: takes picture after picture, with its caption or None."""

    def add(self, name: str, picture: bytes, caption: str) -> None: ...
    def close(self) -> None: ...


class Export:
    """Answers ExportDataset."""

    def __init__(self, daemon: Daemon, catalog: Catalog, views: Views, jobs: Jobs) -> None:
        self._store = daemon.store
        self._catalog = catalog
        self._views = views
        self._jobs = jobs

    async def export(self, context: Context, request: wire.ExportDataset) -> wire.Exported:
        """Raises LoraError: NOT_FOUND, ALREADY_EXISTS, BAD_REQUEST, STORAGE, CANCELLED."""
        dataset = self._catalog.row(request.dataset)
        target = _target(request.path)
        kind = request.format or _SUFFIXES.get(target.suffix.lower(), "folder")
        rows = await self._views.rows(dataset["id"], request.filter)
        rows = [row for row in rows if row["state"] != "rejected" and not row["problem"]]
        if not rows:
            raise LoraError(
                Code.BAD_REQUEST,
                f"There is nothing to export: no picture of {dataset['name']} is usable, not "
                "rejected" + (" and found by that filter." if request.filter else "."),
            )
        root = Path(from_text(dataset["path"]))
        title, gone = f"export of {dataset['name']}", "Nothing of it was left behind."
        with self._jobs.open("export", title, len(rows), cancelled=lambda: gone) as job:
            answer = await stoppable(
                lambda told: _write(root, rows, target, kind, told, request.apply_framing),
                functools.partial(self._tell, context, job),
            )
            self._jobs.end(job, "done", f"{answer.pictures} pictures in {answer.path}")
        return answer

    def _tell(self, context: Context, job: str, done: int, total: int, message: str) -> None:
        self._jobs.progress(job, done, total)
        context.progress(done, total, message)


def _target(path: str) -> Path:
    given = Path(os.path.expanduser(path))  # noqa: PTH111  # "~nobody" is no error here
    if not given.is_absolute():
        raise LoraError(Code.BAD_REQUEST, f"{path!r} is not an absolute path.")
    taken = given.exists() and (not given.is_dir() or any(given.iterdir()))
    if taken:
        raise LoraError(
            Code.ALREADY_EXISTS,
            f"{to_text(given)} is there already. Choose a new name: an export overwrites nothing.",
        )
    return given


def _write(
    root: Path,
    rows: list[sqlite3.Row],
    target: Path,
    kind: wire.ExportFormat,
    told: Told,
    apply_framing: bool,
) -> wire.Exported:
    part = target.with_name(f".{target.name}.part")
    warnings: list[str] = []
    taken: set[str] = set()
    captions = framed = 0
    renamed: list[tuple[str, str]] = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _discard(part)
        sink = _SINKS[kind](part)
        try:
            for done, row in enumerate(rows, 1):
                told(done, len(rows), f"{done} of {len(rows)} pictures")
                try:
                    data = (root / from_text(row["name"])).read_bytes()
                    seen = framing.read(row["framing"])
                    if seen.plain or not apply_framing:
                        picture, suffix = privacy.without_metadata(data)
                    else:
                        picture, suffix = privacy.as_framed(data, seen)
                except (privacy.Unreadable, FileNotFoundError) as error:
                    warnings.append(f"{row['name']} was left out: {error}")
                    continue
                framed += not seen.plain
                wanted = _with_suffix(row["name"], suffix)
                name = _unique(wanted, taken)
                if name != wanted:
                    renamed.append((row["name"], name))
                sink.add(name, picture, row["text"])
                captions += bool(row["text"])
        finally:
            sink.close()
        if not taken:
            raise LoraError(Code.INVALID_FILE, f"No picture could be read: {warnings[0]}.")
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        _discard(part)
        raise LoraError.storage("write the export", to_text(target), error) from None
    except BaseException:
        _discard(part)
        raise
    return wire.Exported(
        path=to_text(target), format=kind, pictures=len(taken), captions=captions,
        warnings=warnings[:TOLD], framed=framed, renamed=renamed[:TOLD],
    )  # fmt: skip


def _with_suffix(name: str, suffix: str | None) -> str:
    return str(PurePosixPath(name).with_suffix(suffix)) if suffix else name


def _unique(name: str, taken: set[str]) -> str:
    """A free name: stems differ, too, because a caption is called by the stem; and they differ in
    more than case and the way accents are written, which are one to macOS and Windows."""
    path = PurePosixPath(name)
    stem, number = path.stem, 1
    while _folded(path) in taken:
        number += 1
        path = path.with_name(f"{stem}-{number}{path.suffix}")
    taken.add(_folded(path))
    return str(path)


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path.with_suffix("")).casefold())


def _discard(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            part.unlink()


# ── the formats ─────────────────────────────────────────────────────────────────────────────────


class _Folder:
    """Pictures with a ``.txt`` beside each."""

    def __init__(self, part: Path) -> None:
        self._part = part
        part.mkdir()

    def add(self, name: str, picture: bytes, caption: str) -> None:
        path = self._part / from_text(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
        self.caption(name, path, caption)

    def caption(self, name: str, path: Path, caption: str) -> None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8", newline="")

    def close(self) -> None:
        pass


class _ImageFolder(_Folder):
    """Hugging Face's ImageFolder: ``metadata.jsonl`` with ``file_name`` and ``text``."""

    def __init__(self, part: Path) -> None:
        super().__init__(part)
        self._table = (part / "metadata.jsonl").open("w", encoding="utf-8", newline="")

    def caption(self, name: str, path: Path, caption: str) -> None:
        row = {"file_name": name, "text": caption}
        self._table.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._table.close()


class _CsvFolder(_Folder):
    """ImageFolder with ``metadata.csv``."""

    def __init__(self, part: Path) -> None:
        super().__init__(part)
        self._file = (part / "metadata.csv").open("w", encoding="utf-8", newline="")
        self._table = csv.writer(self._file)
        self._table.writerow(["file_name", "text"])

    def caption(self, name: str, path: Path, caption: str) -> None:
        self._table.writerow([name, caption])

    def close(self) -> None:
        self._file.close()


class _Kohya(_Folder):
    """sd-scripts' fine-tuning metadata, ``meta_cap.json``: keys relative to the folder."""

    def __init__(self, part: Path) -> None:
        super().__init__(part)
        self._captions: dict[str, dict[str, str]] = {}

    def caption(self, name: str, path: Path, caption: str) -> None:
        self._captions[name] = {"caption": caption}

    def close(self) -> None:
        text = json.dumps(self._captions, ensure_ascii=False, indent=2)
        (self._part / "meta_cap.json").write_text(text, encoding="utf-8", newline="")


class _Zip:
    def __init__(self, part: Path) -> None:
        self._archive = zipfile.ZipFile(part, "w", zipfile.ZIP_STORED)

    def add(self, name: str, picture: bytes, caption: str) -> None:
        for path, data in _files(name, picture, caption):
            self._archive.writestr(zipfile.ZipInfo(path), data)

    def close(self) -> None:
        self._archive.close()


class _Tar:
    """Side by side as WebDataset wants them."""

    def __init__(self, part: Path) -> None:
        self._archive = tarfile.open(part, "w")  # noqa: SIM115  closed by close

    def add(self, name: str, picture: bytes, caption: str) -> None:
        for path, data in _files(name, picture, caption):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            self._archive.addfile(info, io.BytesIO(data))

    def close(self) -> None:
        self._archive.close()


class _Parquet:
    """A Hugging Face dataset of columns ``image`` and ``text``, as the Hub's viewer shows it."""

    def __init__(self, part: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        features = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
        about = json.dumps({"info": {"features": features}})
        self._schema = pa.schema(
            [("image", image), ("text", pa.string())], metadata={"huggingface": about}
        )
        self._writer = pq.ParquetWriter(part, self._schema)
        self._rows: list[dict[str, object]] = []

    def add(self, name: str, picture: bytes, caption: str) -> None:
        self._rows.append({"image": {"bytes": picture, "path": name}, "text": caption})
        if len(self._rows) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


def _files(name: str, picture: bytes, caption: str) -> Iterator[tuple[str, bytes]]:
    yield name, picture
    yield str(PurePosixPath(name).with_suffix(".txt")), caption.encode()


_SINKS: dict[wire.ExportFormat, Callable[[Path], Sink]] = {
    "folder": _Folder, "imagefolder": _ImageFolder, "csv": _CsvFolder, "kohya": _Kohya,
    "zip": _Zip, "tar": _Tar, "parquet": _Parquet,
}  # fmt: skip
