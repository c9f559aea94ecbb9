"""The gallery: every picture made here, and those of other tools where they lie; their ratings, and
what asks for one of them once more."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from lora_daemon import picture_texts, pictures, privacy, upscalers
from lora_daemon.jobs import Jobs
from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from lora_daemon.thumbnails import Thumbnails
from shared import gallery, made_with, wire
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.gallery import Shown
from shared.made_with import Made
from shared.pictures import LoraUse, PictureSpec

SUFFIXES = (".png", ".jpg", ".jpeg")  # of what a folder is searched for
PORTION = 200  # files that are read before they are entered
SKIPPED = 200  # of which it is said why

_shown = msgspec.msgpack.Decoder(Shown).decode
_spec = msgspec.msgpack.Decoder(PictureSpec).decode
Known = dict[str, tuple[int, int]]  # path → size and mtime when it was read


class Gallery:
    """Answers ListGallery, GetGalleryPicture, RatePicture, ImportPictures and RemovePicture."""

    def __init__(
        self, daemon: Daemon, library: Library, thumbnails: Thumbnails, jobs: Jobs
    ) -> None:
        self._store = daemon.store
        self._grids = str(daemon.workspace.outputs / "grids")
        self._upscalers = daemon.workspace.upscalers
        self._library = library
        self._thumbnails = thumbnails
        self._jobs = jobs
        self._made: dict[str, Made] = {}  # by the texts of our own pictures

    # ── what there is ───────────────────────────────────────────────────────────────────────────

    async def list_them(self, context: Context, request: wire.ListGallery) -> wire.GalleryPage:
        """Raises LoraError(BAD_REQUEST)."""
        passes = gallery.reader(request.filter)
        every = await self._all()

        def page() -> wire.GalleryPage:
            found = gallery.ordered([one for one in every if passes(one)], request.order)
            begin = max(request.offset, 0)
            shown = _looked_at(found[begin : begin + request.limit])
            return wire.GalleryPage(total=len(found), pictures=shown)

        return await asyncio.to_thread(page)

    async def get(self, context: Context, request: wire.GetGalleryPicture) -> wire.GalleryFound:
        """Raises LoraError: NOT_FOUND, INVALID_FILE, TOO_LARGE."""
        one = await self._find(request.picture)
        spec, left = self._again(one)
        suffix = ""
        if request.side:
            context.blobs.append(await self._small(one, request.side))
            suffix = ".jpg"
        elif request.file:
            data, suffix = await asyncio.to_thread(_file, one, bare=request.bare)
            context.blobs.append(data)
        return wire.GalleryFound(picture=one, spec=spec, left=left, suffix=suffix)

    async def path_of(self, picture: str) -> str:
        """Where a picture to begin from lies, by its id or path. Raises LoraError(NOT_FOUND)."""
        path = _place(picture)
        return to_text(path) if path.is_absolute() else (await self._find(picture)).path

    async def _all(self) -> list[Shown]:
        own = self._library.pictures()
        rows = self._store.query("SELECT picture FROM imported")
        rated = self._store.query("SELECT picture, rating FROM ratings")
        ratings = {row["picture"]: row["rating"] for row in rated}

        def every() -> list[Shown]:
            found = [*map(self._own, own), *(_shown(row["picture"]) for row in rows)]
            return [replace(one, rating=ratings.get(one.id, 0)) for one in found]

        return await asyncio.to_thread(every)

    def _own(self, one: wire.Picture) -> Shown:
        """A picture made here."""
        grid = one.path.startswith(f"{self._grids}/")
        made = self._made.get(one.parameters)
        if made is None:
            plain = Made(tool="lora-tui", prompt=one.prompt, seed=one.seed)
            made = made_with.of_webui(one.parameters) or plain
            self._made[one.parameters] = made
        return Shown(
            id=one.id, path=one.path, origin="sample" if one.run else "grid" if grid else "made",
            width=one.width, height=one.height, created=one.created, run=one.run, step=one.step,
            made=made,
        )  # fmt: skip

    async def _find(self, picture: str) -> Shown:
        """By an id, the beginning of one, or a path. Raises LoraError(NOT_FOUND)."""
        every = await self._all()
        path = to_text(_place(picture))
        found = [one for one in every if picture in (one.id, one.path) or one.path == path]
        found = found or [one for one in every if picture and one.id.startswith(picture)]
        if len(found) == 1:
            return (await asyncio.to_thread(_looked_at, found))[0]
        if found:
            raise LoraError(
                Code.NOT_FOUND, f"{len(found)} pictures have ids that begin with {picture}."
            )
        raise LoraError(
            Code.NOT_FOUND,
            f"There is no picture {picture!r} in the gallery: `lora-tui gallery list` shows them.",
        )

    def _again(self, one: Shown) -> tuple[PictureSpec, list[str]]:
        """The spec it was asked for with; of others, what can be read from their texts."""
        rows = self._store.query("SELECT spec FROM asked WHERE picture = ?", (one.id,))
        if rows:
            return _spec(rows[0]["spec"]), []
        bases = [base.name for base in self._library.bases() if not base.problem]
        loras = [lora for lora in self._library.loras() if not lora.problem]
        networks = upscalers.names(self._upscalers)
        spec, left = made_with.again(one.made, bases, [lora.name for lora in loras], networks)
        saved = [lora.name for lora in loras if (lora.run, lora.step) == (one.run, one.step)]
        if one.run and saved:
            spec = replace(spec, loras=[*spec.loras, LoraUse(lora=saved[0])])
        elif one.run and one.step:
            left.append(
                f"It is a sample of run {one.run} at step {one.step}, whose LoRA was not saved "
                "then: it is left out."
            )
        return spec, left

    async def _small(self, one: Shown, side: int) -> bytes:
        path = Path(typed(one.path))
        try:
            status = await asyncio.to_thread(path.stat)
            pictures.refuse(status)
        except OSError as error:
            raise LoraError(
                Code.INVALID_FILE, f"{one.path} {pictures.unreadable(path, error)}."
            ) from None
        except pictures.Unusable as error:
            raise LoraError(Code.INVALID_FILE, f"{one.path} {error}.") from None
        if one.note and status.st_size <= pictures.MAX_BYTES:  # decoders choke on such texts
            return await asyncio.to_thread(_without_texts, path, side)
        stamp = (status.st_size, status.st_mtime_ns)
        return (await self._thumbnails.shrunk(path, one.path, "", stamp, side, side))[0]

    # ── what changes it ─────────────────────────────────────────────────────────────────────────

    def keep_spec(self, picture: str, spec: PictureSpec) -> None:
        """What one of our own was asked for with, so that it can be asked for again."""
        with self._store.change("engine") as change:
            change.execute(
                "INSERT OR REPLACE INTO asked (picture, spec) VALUES (?, ?)",
                (picture, wire.encoder.encode(spec)),
            )

    async def rate(self, context: Context, request: wire.RatePicture) -> wire.Done:
        """Raises LoraError(NOT_FOUND)."""
        one = await self._find(request.picture)
        with self._store.change(context.by) as change:
            if request.rating:
                change.execute(
                    "INSERT OR REPLACE INTO ratings (picture, rating, by, at) VALUES (?, ?, ?, ?)",
                    (one.id, request.rating, context.by, time.time()),
                )
            else:
                change.execute("DELETE FROM ratings WHERE picture = ?", (one.id,))
            change.emit(wire.PictureRated(picture=one.id, rating=request.rating))
            self._store.remember(change, context.key, wire.Done())
        return wire.Done()

    async def import_them(
        self, context: Context, request: wire.ImportPictures
    ) -> wire.PicturesImported:
        """Raises LoraError: NOT_FOUND, BAD_REQUEST (a relative path)."""
        rows = self._store.query("SELECT path, size, mtime FROM imported")
        known = {row["path"]: (row["size"], row["mtime"]) for row in rows}
        own = {one.path for one in self._library.pictures()}
        files = await asyncio.to_thread(_files, request.paths)
        files = [path for path in files if to_text(path) not in own]
        added = changed = same = 0
        skipped: list[wire.Skipped] = []
        with self._jobs.open("import", "pictures for the gallery", len(files)) as job:
            for begin in range(0, len(files), PORTION):
                portion = files[begin : begin + PORTION]
                read = await asyncio.to_thread(lambda: list(_read(portion, known)))  # noqa: B023
                fresh = [(one, found) for one, found in read if not isinstance(found, str)]
                same += len(portion) - len(read)
                skipped += [
                    wire.Skipped(path=path, why=found)
                    for path, found in read if isinstance(found, str)
                ]  # fmt: skip
                changed += sum(path in known for path, _ in fresh)
                added += sum(path not in known for path, _ in fresh)
                self._enter(context, fresh)
                done = min(begin + PORTION, len(files))
                self._jobs.progress(job, done, len(files))
                context.progress(done, len(files), "pictures")
            answer = wire.PicturesImported(
                added=added, changed=changed, same=same, skipped=skipped[:SKIPPED]
            )
            with self._store.change(context.by) as change:
                change.emit(wire.GalleryChanged(imported=len(known) + added))
                self._store.remember(change, context.key, answer)
            self._jobs.end(job, "done", f"{added} new, {changed} changed, {len(skipped)} skipped")
        return answer

    def _enter(self, context: Context, fresh: list[tuple[str, picture_texts.Texts]]) -> None:
        with self._store.change(context.by) as change:
            for path, seen in fresh:
                one = _imported(path, seen)
                change.execute(
                    "INSERT OR REPLACE INTO imported (id, path, size, mtime, picture) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (one.id, path, seen.size, seen.mtime, wire.encoder.encode(one)),
                )

    async def remove(self, context: Context, request: wire.RemovePicture) -> wire.Done:
        """Delete a picture made here; forget one of another tool, whose file stays. Raises
        LoraError: NOT_FOUND, STORAGE."""
        rows = self._store.query("SELECT id FROM imported WHERE id = ?", (request.picture,))
        if not rows:
            await asyncio.to_thread(_deletable, Path(self._library.picture(request.picture).path))
            done = await self._library.remove_picture(context, request)
            with self._store.change(context.by) as change:
                for table in ("asked", "ratings"):
                    change.execute(f"DELETE FROM {table} WHERE picture = ?", (request.picture,))
            return done
        left = self._store.query("SELECT count(*) FROM imported")[0][0] - 1
        with self._store.change(context.by) as change:
            for table, key in (("imported", "id"), ("ratings", "picture")):
                change.execute(f"DELETE FROM {table} WHERE {key} = ?", (request.picture,))
            change.emit(wire.GalleryChanged(imported=left))
            self._store.remember(change, context.key, wire.Done())
        return wire.Done()


def _imported(path: str, seen: picture_texts.Texts) -> Shown:
    digest = hashlib.sha256(path.encode()).hexdigest()[:12]
    return Shown(
        id=f"i{digest}", path=path, origin="imported", width=seen.width, height=seen.height,
        created=seen.mtime / 1e9, made=made_with.read(seen.texts) or Made(), note=seen.left,
    )  # fmt: skip


def _place(text: str) -> Path:
    return Path(typed(os.path.expanduser(text)))  # noqa: PTH111


def _files(paths: list[str]) -> list[Path]:
    """The picture files that are meant, each once. Raises LoraError: NOT_FOUND, BAD_REQUEST."""
    found: list[Path] = []
    for text in paths:
        path = _place(text)
        if not path.is_absolute():
            raise LoraError(Code.BAD_REQUEST, f"{text} is no whole path on the daemon's machine.")
        if path.is_dir():
            found += sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES)
        elif path.exists() or path.is_symlink():
            found.append(path)
        else:
            raise LoraError(Code.NOT_FOUND, f"There is no file or folder {text}.")
    return list(dict.fromkeys(found))


def _read(paths: list[Path], known: Known) -> Iterator[tuple[str, picture_texts.Texts | str]]:
    """What the files hold that are not as they were, or why they are not taken."""
    for path in paths:
        name = to_text(path)
        try:
            status = path.stat()
            if known.get(name) == (status.st_size, status.st_mtime_ns):
                continue
        except OSError:
            pass  # said below
        seen = picture_texts.read(path)
        yield name, f"It {seen.problem}." if seen.problem else seen


def _deletable(path: Path) -> None:
    """Raises LoraError(STORAGE) where a file could not be deleted: its row must then stay."""
    if path.exists() and not os.access(path.parent, os.W_OK):
        raise LoraError(
            Code.STORAGE,
            f"{path} cannot be deleted: its folder is read-only. Nothing was removed.",
        )


def _without_texts(path: Path, side: int) -> bytes:
    """A small version of a picture that carries more text than a decoder takes. Raises
    LoraError(INVALID_FILE)."""
    try:
        bare, _ = privacy.without_metadata(path.read_bytes())
    except (OSError, privacy.Unreadable) as error:
        raise LoraError(Code.INVALID_FILE, f"{path} cannot be read ({error}).") from None
    return pictures.shrink(bare, side, side)[0]


def _looked_at(found: list[Shown]) -> list[Shown]:
    """The pictures, those marked whose file is gone."""
    return [
        one if Path(typed(one.path)).exists() else replace(one, problem="Its file is gone.")
        for one in found
    ]


def _file(one: Shown, *, bare: bool) -> tuple[bytes, str]:
    """A picture's file and its suffix. Raises LoraError: INVALID_FILE, TOO_LARGE."""
    path = Path(typed(one.path))
    try:
        status = path.stat()
        pictures.refuse(status)
        if status.st_size > wire.MAX_BLOB:
            raise LoraError(Code.TOO_LARGE, f"{one.path} is too large to send: copy the file.")
        data = path.read_bytes()
        suffix = path.suffix.lower()
        if bare:
            data, other = privacy.without_metadata(data)
            suffix = other or suffix
        return data, suffix
    except OSError as error:
        problem = pictures.unreadable(path, error)
    except pictures.Unusable as error:
        problem = str(error)
    except privacy.Unreadable as error:
        problem = f"is damaged ({error})"
    raise LoraError(Code.INVALID_FILE, f"{one.path} {problem}.")
