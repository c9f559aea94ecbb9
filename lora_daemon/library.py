"""The library: bases, LoRAs and pictures, as rows that refer to files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from lora_daemon import pictures
from lora_daemon.bases import Bases
from lora_daemon.service import Context, Daemon
from lora_daemon.store import Change
from lora_daemon.thumbnails import Thumbnails
from shared import lora_info, regions, wire
from shared.errors import Code, LoraError, not_found
from shared.filenames import to_text, typed
from shared.lora_keys import file_of
from shared.safetensors_file import read_header

_lora = msgspec.msgpack.Decoder(wire.Lora).decode
_picture = msgspec.msgpack.Decoder(wire.Picture).decode


class Library:
    """Answers InspectLora, RemoveLora, GetPicture and RemovePicture."""

    def __init__(self, daemon: Daemon, bases: Bases, thumbnails: Thumbnails) -> None:
        self._bases = bases
        self._store = daemon.store
        self._workspace = daemon.workspace
        self._thumbnails = thumbnails

    async def start(self) -> None:
        """Look whether the bases are still there, and register the starters if they have come."""
        await self._bases.look_again()
        known = {base.name for base in self.bases()}
        for name, folder in _starters().items():
            if name not in known:
                with contextlib.suppress(LoraError):
                    await self._bases.register(folder, name)

    # ── bases ───────────────────────────────────────────────────────────────────────────────────

    def bases(self) -> list[wire.BaseModel]:
        return self._bases.all()

    async def base(self, name: str) -> wire.BaseModel:
        """A usable base, by its name or by a path.

        Raises LoraError: NOT_FOUND suggesting names, INVALID_FILE if it is not whole.
        """
        return await self._bases.find(name)

    # ── LoRAs ───────────────────────────────────────────────────────────────────────────────────

    def loras(self) -> list[wire.Lora]:
        return [_lora(r["lora"]) for r in self._store.query("SELECT lora FROM loras ORDER BY name")]

    def lora(self, name: str) -> tuple[str, Path]:
        """Name and file of a LoRA by its library name or by a path, that of PEFT's folder too.
        Raises LoraError: NOT_FOUND, BAD_REQUEST for what is a LoRA's name but for a region that is
        none."""
        rows = self._store.query("SELECT lora FROM loras WHERE name = ?", (name,))
        if rows:
            return name, Path(typed(_lora(rows[0]["lora"]).path))
        path = Path(typed(os.path.expanduser(name)))  # noqa: PTH111
        if path.is_absolute() and (file := file_of(path)).is_file():
            return to_text(path.stem), file
        if path.is_absolute():
            raise LoraError(Code.NOT_FOUND, f"There is no LoRA file {to_text(path)}.")
        names = [lora.name for lora in self.loras()]
        before, _, where = name.rpartition("@")
        if before in names:
            regions.read(where)  # raises: the client has taken it for a part of the name
        raise not_found("LoRA", name, names)

    def known(self, name: str, path: Path) -> wire.Lora | None:
        """The row of a file, if the library has it by this name."""
        rows = self._store.query("SELECT lora FROM loras WHERE name = ?", (name,))
        lora = _lora(rows[0]["lora"]) if rows else None
        return lora if lora is not None and Path(typed(lora.path)) == path else None

    def change_lora(self, lora: wire.Lora) -> None:
        """More is known of a LoRA; one that has gone meanwhile stays gone."""
        with self._store.change("engine") as change:
            changed = change.execute(
                "UPDATE loras SET lora = ? WHERE name = ?", (wire.encoder.encode(lora), lora.name)
            )
            if changed.rowcount:
                change.emit(wire.LoraChanged(lora=lora))

    async def add_lora(self, run: wire.Run, path: Path, step: int) -> wire.Lora:
        """A run's LoRA enters the library; once more, and it is brought up to date."""
        taken = {lora.name: lora for lora in self.loras()}
        name = path.stem
        if name in taken and taken[name].path != str(path):
            name = f"{path.stem}-{run.id}"
        return await self.enter(name, path, run.base, run.id, step)

    async def enter(
        self, name: str, path: Path, base: str, run: str = "", step: int = 0, by: str = "engine"
    ) -> wire.Lora:
        """A file of the workspace enters the library. Raises LoraError: INVALID_FILE, STORAGE."""
        info = await asyncio.to_thread(lora_info.inspect, path)
        header, status = read_header(path), await asyncio.to_thread(path.stat)
        lora = wire.Lora(
            name=name,
            path=str(path),
            size=info.size,
            rank=info.rank,
            base=base,
            trigger=info.trigger,
            run=run,
            step=step,
            sha256=info.sha256,
            created=time.time(),
            modified=status.st_mtime_ns,
            shapes=lora_info.shapes(header),
        )
        with self._store.change(by) as change:
            change.execute(
                "INSERT OR REPLACE INTO loras (name, run, lora) VALUES (?, ?, ?)",
                (name, run, wire.encoder.encode(lora)),
            )
            change.emit(wire.LoraChanged(lora=lora))
        return lora

    async def inspect(self, context: Context, request: wire.InspectLora) -> wire.LoraInfo:
        """Raises LoraError: NOT_FOUND, INVALID_FILE."""
        _, path = self.lora(request.lora)
        info = await asyncio.to_thread(lora_info.inspect, path)
        return wire.LoraInfo(
            path=to_text(path),
            size=info.size,
            dialect=info.dialect,
            rank=info.ranks,
            alpha=[info.alpha],
            modules=info.modules,
            base_version=info.base_version,
            title=info.title,
            trigger=info.trigger,
            steps=info.steps or 0,
            epochs=info.epochs or 0,
            sha256=info.sha256,
            metadata=info.metadata,
        )

    async def remove_lora(self, context: Context, request: wire.RemoveLora) -> wire.Done:
        """Delete a LoRA that a run made; forget one that is kept elsewhere."""
        rows = self._store.query("SELECT lora FROM loras WHERE name = ?", (request.lora,))
        if not rows:
            raise not_found("LoRA", request.lora, [lora.name for lora in self.loras()])
        lora = _lora(rows[0]["lora"])
        if lora.folder:
            raise LoraError(
                Code.WRONG_STATE,
                f"{lora.name} lies in a folder of yours, and nothing is deleted there. Delete "
                f"{lora.path} yourself, or have the folder listed no longer: "
                f"`lora-tui lora index {lora.folder} --forget`.",
            )
        with self._store.change(context.by) as change:
            self._forget(change, lora)
            self._store.remember(change, context.key, wire.Done())
        await asyncio.to_thread(self._delete, Path(lora.path))
        return wire.Done()

    async def drop(self, run: str, steps: Collection[int]) -> None:
        """Delete what a run had kept at these steps: its recipe keeps the last ones alone."""
        for lora in [one for one in self.loras() if one.run == run and one.step in steps]:
            with self._store.change("engine") as change:
                self._forget(change, lora)
            await asyncio.to_thread(self._delete, Path(lora.path))

    def _forget(self, change: Change, lora: wire.Lora) -> None:
        change.execute("DELETE FROM loras WHERE name = ?", (lora.name,))
        if lora.run:
            inside = lora.path.removeprefix(f"{self._workspace.run(lora.run)}/")
            change.execute("DELETE FROM checkpoints WHERE run = ? AND path = ?", (lora.run, inside))
        change.emit(wire.LoraRemoved(lora=lora.name))

    # ── pictures ────────────────────────────────────────────────────────────────────────────────

    def pictures(self) -> list[wire.Picture]:
        rows = self._store.query("SELECT picture FROM pictures ORDER BY created, id")
        return [_picture(row["picture"]) for row in rows]

    def picture(self, picture: str) -> wire.Picture:
        rows = self._store.query("SELECT picture FROM pictures WHERE id = ?", (picture,))
        if not rows:
            raise LoraError(Code.NOT_FOUND, f"There is no picture {picture!r}.")
        return _picture(rows[0]["picture"])

    def add_picture(self, picture: wire.Picture, by: str, key: str = "") -> None:
        with self._store.change(by) as change:
            change.execute(
                "INSERT OR REPLACE INTO pictures (id, run, created, picture) VALUES (?, ?, ?, ?)",
                (picture.id, picture.run, picture.created, wire.encoder.encode(picture)),
            )
            change.emit(wire.PictureAdded(picture=picture))
            self._store.remember(change, key, picture)

    async def get_picture(self, context: Context, request: wire.GetPicture) -> wire.PictureFile:
        """Raises LoraError: NOT_FOUND, INVALID_FILE, TOO_LARGE."""
        picture = self.picture(request.picture)
        path = Path(picture.path)
        try:
            status = await asyncio.to_thread(path.stat)
        except OSError:
            raise LoraError(Code.INVALID_FILE, f"{picture.path} is gone.") from None
        if request.width or request.height:
            data, _, _ = await self._thumbnails.shrunk(
                path, picture.path, "", (status.st_size, status.st_mtime_ns),
                request.width or request.height, request.height or request.width,
            )  # fmt: skip
            context.blobs.append(data)
            return wire.PictureFile(picture=picture, media_type="image/jpeg")
        if status.st_size > wire.MAX_BLOB:
            raise LoraError(Code.TOO_LARGE, f"{picture.path} is too large to send: copy the file.")
        context.blobs.append(await asyncio.to_thread(path.read_bytes))
        return wire.PictureFile(picture=picture, media_type="image/png")

    async def remove_picture(self, context: Context, request: wire.RemovePicture) -> wire.Done:
        picture = self.picture(request.picture)
        with self._store.change(context.by) as change:
            change.execute("DELETE FROM pictures WHERE id = ?", (picture.id,))
            change.emit(wire.PictureRemoved(picture=picture.id))
            self._store.remember(change, context.key, wire.Done())
        await asyncio.to_thread(self._delete, Path(picture.path))
        return wire.Done()

    def _delete(self, path: Path) -> None:
        """Remove a file, if it is one of the workspace."""
        with contextlib.suppress(OSError):
            if path.resolve().is_relative_to(self._workspace.root.resolve()):
                path.unlink()


async def sample(run: str, path: Path, step: int, prompt: str, seed: int) -> wire.Picture:
    """The row of a run's sample; the same file always has the same id."""
    width, height, parameters = await asyncio.to_thread(pictures.read_png, path)
    return wire.Picture(
        id=f"{run}-{path.stem}",
        path=str(path),
        run=run,
        step=step,
        prompt=prompt,
        seed=seed,
        width=width,
        height=height,
        parameters=parameters,
        created=time.time(),
    )


def _starters() -> dict[str, Path]:
    """The packaged bases by name."""
    from lora_daemon.starter import BASES, base_dir

    return {name: base_dir(name) for name in BASES if base_dir(name).is_dir()}
