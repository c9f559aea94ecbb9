"""Small versions of pictures: made in a few threads, kept on disk by what the picture holds."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lora_daemon import pictures
from lora_daemon.catalog import Catalog
from lora_daemon.service import Context, Daemon
from shared import framing, wire
from shared.errors import Code, LoraError
from shared.files import publish
from shared.framing import Framing

THREADS = 2
MAX_SIDE = 2048  # pixels
VERSION = 2  # of how they are made: raise it when the same file gives other pixels
CACHE_BYTES = 512 * 1024 * 1024  # pruned at start, oldest first


class Thumbnails:
    """Answers GetThumbnail, and shrinks other pictures on request."""

    def __init__(self, daemon: Daemon, catalog: Catalog) -> None:
        self._catalog = catalog
        self._folder = daemon.workspace.cache / "thumbs"
        self._pool = ThreadPoolExecutor(THREADS, "thumbnail")

    def start(self) -> None:
        self._pool.submit(self._prune)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def get(self, context: Context, request: wire.GetThumbnail) -> wire.Thumbnail:
        """Raises LoraError(INVALID_FILE) if the file is not what it was at import."""
        row = self._catalog.item_row(request.dataset, request.item)
        if row["problem"]:
            raise LoraError(Code.INVALID_FILE, f"{row['name']} {row['problem']}.")
        path = self._catalog.path(row)
        data, width, height = await self.shrunk(
            path, row["name"], row["content"], (row["size"], row["mtime"]),
            request.width, request.height, framing.read(row["framing"]),
        )  # fmt: skip
        context.blobs.append(data)
        return wire.Thumbnail(width=width, height=height, media_type="image/jpeg")

    async def shrunk(
        self,
        path: Path,
        name: str,
        content: str,
        stamp: tuple[int, int],
        width: int,
        height: int,
        seen: Framing = pictures.PLAIN,
    ) -> tuple[bytes, int, int]:
        """The JPEG of a file of SHA-256 ``content`` and its size in pixels; ``stamp``: the file's
        size and time (ns) when that was so; ``content`` may be empty where the stamp is truth;
        ``seen``: how it is turned and cropped.

        Raises LoraError: INVALID_FILE, BAD_REQUEST.
        """
        if width < 1 or height < 1:
            raise LoraError(Code.BAD_REQUEST, "A thumbnail has at least 1 × 1 pixels.")
        size = (min(width, MAX_SIDE), min(height, MAX_SIDE))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._pool, self._shrunk, path, name, content, stamp, size, seen
        )

    def _shrunk(
        self, path: Path, name: str, content: str, stamp: tuple[int, int], size: tuple[int, int],
        seen: Framing,
    ) -> tuple[bytes, int, int]:  # fmt: skip
        key = content or hashlib.sha256(f"{path}{stamp}".encode()).hexdigest()
        how = f"-{framing.stored(seen).replace(' ', '-')}" if not seen.plain else ""
        cached = self._folder / key[:2] / f"{key}{how}-{size[0]}x{size[1]}.{VERSION}.jpg"
        try:
            status = path.stat()
            unchanged = (status.st_size, status.st_mtime_ns) == stamp
            if unchanged and cached.exists():
                kept = cached.read_bytes()
                return kept, *pictures.size_of(kept)
            data = path.read_bytes() if status.st_size <= pictures.MAX_BYTES else b""
        except FileNotFoundError:
            raise LoraError(Code.INVALID_FILE, f"{name} is gone.") from None
        except OSError as error:
            raise LoraError(
                Code.INVALID_FILE, f"{name} cannot be read ({error.strerror or error})."
            ) from None
        if content and hashlib.sha256(data).hexdigest() != content:
            raise LoraError(
                Code.INVALID_FILE,
                f"{name} has changed since it was imported. Import the folder again.",
            )
        small = pictures.shrink(data, *size, seen)
        with contextlib.suppress(OSError, LoraError):  # a full disk costs time, not the picture
            cached.parent.mkdir(parents=True, exist_ok=True)
            publish(cached, small[0])
        return small

    def _prune(self) -> None:
        files = []
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= CACHE_BYTES:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size
