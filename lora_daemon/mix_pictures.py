"""The live mix's picture: a preview after few steps, then the whole one, while somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from lora_daemon import painting, pictures, pipe
from lora_daemon.library import Library
from lora_daemon.mixing import Mixing
from lora_daemon.painting import Painting, Resolved
from lora_daemon.service import Context, Daemon
from shared import mixes, wire
from shared.distilled import Preview
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.mixes import MixSpec
from shared.pictures import LoraUse, PictureSpec

log = logging.getLogger(__name__)

PREVIEW_STEPS = 6
PREVIEW_GUIDED = 0.5  # of the steps: the later ones are nearer to the whole picture without
PREVIEW_UNTIL = 0.5  # of the whole picture's steps: before, it is further from its end than that
PREVIEW_SAMPLER = "DDIM"  # of those there are, in so few steps the nearest to where Euler ends
KEPT = 24  # tried mixes
WATCHED = 10.0  # seconds that a client may be away between two looks

_tried = msgspec.msgpack.Decoder(wire.Tried).decode


@dataclass(frozen=True)
class _Order:
    """What is to be painted, resolved. ``key``: of all that decides the pixels. ``distilled``: what
    previews are painted with."""

    made: Resolved
    notes: list[str]
    key: str
    distilled: pipe.LoraFile | None


class MixPictures:
    """Answers WatchMix and GetTried."""

    def __init__(
        self, daemon: Daemon, library: Library, painting: Painting, mixing: Mixing
    ) -> None:
        self._store = daemon.store
        self._workspace = daemon.workspace
        self._folder = daemon.workspace.cache / "mix"
        self._library = library
        self._painting = painting
        self._mixing = mixing
        self._numbers = itertools.count(1)
        self._boot = secrets.token_hex(4)  # tokens of another daemon are not ours
        self._view = wire.MixView(
            token=f"{self._boot}-0", rev=0, stage="waiting", step=0, steps=0, picture="",
            picture_rev=0, sharp=False, seconds=0.0, failure=None, notes=[],
        )  # fmt: skip
        self._news = asyncio.Event()
        self._watchers = 0
        self._watched = float("-inf")
        self._begun = -1  # revision that a picture has been begun of
        self._task: asyncio.Task[None] | None = None
        mixing.changed = self.mix_changed

    def tried(self) -> list[wire.Tried]:
        """Oldest first."""
        rows = self._store.query("SELECT tried FROM tried ORDER BY at, id")
        return [_tried(row["tried"]) for row in rows]

    async def start(self) -> None:
        """Sweep away previews of the last daemon."""
        await asyncio.to_thread(self._sweep, {one.id for one in self.tried()})

    async def close(self) -> None:
        """Give up what is being painted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ── requests ────────────────────────────────────────────────────────────────────────────────

    async def watch(self, context: Context, request: wire.WatchMix) -> wire.MixView:
        """Answers when there is something else to see than ``request.seen``."""
        self._watchers += 1
        try:
            if request.again and self._view.stage == "failed":
                self._begun = -1
            self._begin()
            while self._view.token == request.seen:
                await self._news.wait()
        finally:
            self._watchers -= 1
            self._watched = time.monotonic()
        view = self._view
        if view.picture and view.picture != request.have:
            try:
                context.blobs.append(await self._read(view.picture, request.side))
            except LoraError:  # somebody has emptied the cache
                view = replace(view, picture="")
        return view

    async def get_tried(self, context: Context, request: wire.GetTried) -> wire.Thumbnail:
        """Raises LoraError: NOT_FOUND, INVALID_FILE."""
        if request.tried not in {one.id for one in self.tried()}:
            raise LoraError(Code.NOT_FOUND, "That mix is no longer among those tried.")
        data = await self._read(request.tried, request.side)
        context.blobs.append(data)
        width, height = pictures.size_of(data)
        kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
        return wire.Thumbnail(width=width, height=height, media_type=kind)

    def mix_changed(self) -> None:
        """The live mix is another: give up what is being painted, and begin anew if watched."""
        if self._task is not None:
            self._task.cancel()
        if self._watchers or time.monotonic() - self._watched < WATCHED:
            self._begin()

    # ── painting ────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        """Paint the live mix, unless that has been begun."""
        mix = self._mixing.live()
        if mix.rev != self._begun:
            self._begun = mix.rev
            self._tell(rev=mix.rev, stage="waiting", step=0, steps=0, failure=None)
            self._task = asyncio.create_task(self._paint(mix, self._task))

    async def _paint(self, mix: wire.Mix, before: asyncio.Task[None] | None) -> None:
        began = time.monotonic()
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        try:
            order = await self._resolve(mix.spec)
            done = {"rev": mix.rev, "picture_rev": mix.rev, "failure": None}
            known = self._known(order.key)
            if known is not None:
                self._show(known.id, **done, stage="done", sharp=True,
                           notes=[*order.notes, *known.notes], seconds=0.0)  # fmt: skip
                return
            spec = order.made.spec
            quick = _quick(spec, mix.spec.preview if order.distilled else None)
            shown = spec.work >= 2 * quick.steps and await self._preview(mix, order, quick, began)
            picture, painted = await self._make(
                mix, order, spec, "full", after=PREVIEW_UNTIL if shown else 0.0
            )
            self._keep(picture, mix, order, painted)
            self._show(picture, **done, stage="done", sharp=True,
                       notes=_once(order.notes, painted.notes),
                       seconds=time.monotonic() - began)  # fmt: skip
        except LoraError as error:
            self._tell(rev=mix.rev, stage="failed", failure=error.failure())
        except Exception:
            log.exception("the mix could not be painted")
            text = "The daemon met an error of its own; its log tells more."
            failure = LoraError(Code.INTERNAL, text).failure()
            self._tell(rev=mix.rev, stage="failed", failure=failure)

    async def _preview(
        self, mix: wire.Mix, order: _Order, quick: PictureSpec, began: float
    ) -> bool:
        """Show a first picture. Where a distilled LoRA cannot be used, there is none."""
        try:
            picture, painted = await self._make(mix, order, quick, "preview")
        except LoraError as error:
            if order.distilled is None:
                raise
            order.notes.append(f"There is no preview with {order.distilled.name}. {error.message}")
            return False
        # Some are said once, by whoever is first.
        order.notes[:] = _once(order.notes, painted.notes)
        self._show(picture, rev=mix.rev, picture_rev=mix.rev, failure=None, stage="full",
                   sharp=False, step=0, steps=order.made.spec.work, notes=[*order.notes],
                   seconds=time.monotonic() - began)  # fmt: skip
        return True

    async def _make(
        self, mix: wire.Mix, order: _Order, spec: PictureSpec, stage: str, after: float = 0.0
    ) -> tuple[str, pipe.Painted]:
        picture = f"m{secrets.token_hex(6)}"
        self._tell(rev=mix.rev, stage=stage, step=0, steps=0, before="")
        self._folder.mkdir(parents=True, exist_ok=True)
        paint = replace(order.made.order(picture, self._path(picture)), spec=spec)
        if mix.spec.decoder != "full":
            previews = pipe.Previews(
                cache=to_text(self._workspace.cache / "vae"),
                folder=to_text(self._workspace.vae_approx),
                way=to_text(self._folder / picture), after=after,
                itself=stage == "preview", decoder=mix.spec.decoder,
            )  # fmt: skip
            paint = replace(paint, previews=previews)
        if stage == "preview":
            paint = hurried(paint, order.distilled, order.made.spec.cfg)
        painted = await self._painting.make(
            paint,
            lambda step, steps, before: self._tell(step=step, steps=steps, before=before),
            lambda seen: self._show(Path(seen).stem, picture_rev=mix.rev, sharp=False),
        )
        return picture, painted

    async def _resolve(self, spec: MixSpec) -> _Order:
        """Raises LoraError: NOT_FOUND, INVALID_FILE, BAD_REQUEST. A LoRA that has gone away is
        left out, with a note. One that is muted stays in the worker's mix, at 0: to hear it again
        its file need not be read."""
        base = await self._library.base(spec.base)
        files, notes, stamped = [], [], []
        heard = mixes.heard(spec)
        gone = set()
        for lora in spec.loras:
            try:
                name, path = self._library.lora(lora.lora)
                if not path.is_file():
                    raise LoraError(Code.NOT_FOUND, f"The file of {name} is gone ({path}).")
            except LoraError as error:
                gone.add(lora.lora)
                if lora in heard:
                    notes.append(f"Painted without {lora.lora}. {error.message}")
                continue
            use = LoraUse(lora=lora.lora, weight=0.0)
            if lora in heard:
                use = mixes.use(lora)
                stamped.append(path)
                if use.region is not None and use.region.picture:
                    stamped.append(Path(typed(use.region.picture)))
            files.append(painting.lora_file(use, name, path))
        wanted = mixes.picture(spec)
        wanted = replace(wanted, loras=[use for use in wanted.loras if use.lora not in gone])
        made = await self._painting.resolved(replace(wanted, loras=[]))  # with those in the prompt
        stamped += made.files()
        wanted = replace(made.spec, loras=[*wanted.loras, *made.spec.loras])
        made = dataclasses.replace(made, spec=wanted, loras=[*files, *made.loras])
        key = await asyncio.to_thread(_key, wanted, base, stamped)
        distilled = None
        if spec.preview is not None:
            use = LoraUse(lora=spec.preview.lora, weight=spec.preview.weight)
            try:
                name, path = self._library.lora(use.lora)
                if not path.is_file():
                    raise LoraError(Code.NOT_FOUND, f"The file of {name} is gone ({path}).")
                distilled = painting.lora_file(use, name, path)
            except LoraError as error:
                notes.append(f"Previews are without {use.lora}. {error.message}")
        return _Order(made, notes, key, distilled)

    # ── what there is to see ────────────────────────────────────────────────────────────────────

    def _tell(self, **changes: Any) -> None:
        token = f"{self._boot}-{next(self._numbers)}"
        self._view = replace(self._view, token=token, **changes)
        self._news.set()
        self._news = asyncio.Event()

    def _show(self, picture: str, **changes: Any) -> None:
        """Another picture; a preview that it replaces goes away."""
        old = self._view
        self._tell(picture=picture, **changes)
        if old.picture and not old.sharp:
            self._path(old.picture).unlink(missing_ok=True)

    def _keep(self, picture: str, mix: wire.Mix, order: _Order, painted: pipe.Painted) -> None:
        """Enter a mix among those tried; the oldest goes."""
        one = wire.Tried(
            id=picture, spec=mix.spec, width=painted.width, height=painted.height,
            notes=painted.notes, at=time.time(),
        )  # fmt: skip
        present = [tried.id for tried in self.tried()]
        same = self._store.query("SELECT id FROM tried WHERE key = ?", (order.key,))
        old = [*present[: max(0, len(present) + 1 - KEPT)], *(row["id"] for row in same)]
        with self._store.change(mix.by or "daemon") as change:
            for id_ in dict.fromkeys(old):
                change.execute("DELETE FROM tried WHERE id = ?", (id_,))
                change.emit(wire.TriedForgotten(tried=id_))
            change.execute(
                "INSERT INTO tried (id, at, key, tried) VALUES (?, ?, ?, ?)",
                (one.id, one.at, order.key, wire.encoder.encode(one)),
            )
            change.emit(wire.MixTried(tried=one))
        for id_ in old:
            self._path(id_).unlink(missing_ok=True)

    def _known(self, key: str) -> wire.Tried | None:
        """A mix tried before that gave the very picture, if that is still there."""
        rows = self._store.query("SELECT tried FROM tried WHERE key = ?", (key,))
        found = [_tried(row["tried"]) for row in rows]
        return next((one for one in found if self._path(one.id).exists()), None)

    async def _read(self, picture: str, side: int) -> bytes:
        try:
            return await asyncio.to_thread(_read, self._path(picture), side)
        except OSError:
            raise LoraError(Code.INVALID_FILE, "The picture is gone from the cache.") from None

    def _path(self, picture: str) -> Path:
        return self._folder / f"{picture}.png"

    def _sweep(self, kept: set[str]) -> None:
        for path in self._folder.glob("*"):
            if path.stem not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()


def _quick(spec: PictureSpec, preview: Preview | None) -> PictureSpec:
    """The preview of a picture."""
    spec = replace(spec, second=None)
    if preview is None:
        return replace(spec, sampler=PREVIEW_SAMPLER, steps=PREVIEW_STEPS)
    return replace(spec, sampler=preview.sampler, steps=preview.steps, cfg=1.0)


def hurried(paint: pipe.Paint, distilled: pipe.LoraFile | None, cfg: float) -> pipe.Paint:
    """A preview's order, by the whole picture's ``cfg``. A distilled LoRA paints at 1, so what
    others are guided by is in proportion."""
    loras = paint.loras
    if distilled is not None:
        loras = [replace(one, guidance=one.guidance / max(cfg, 1.0)) for one in loras]
    return replace(paint, loras=loras, distilled=distilled, guided=PREVIEW_GUIDED)


def _once(*notes: list[str]) -> list[str]:
    """All of them in their order, each one time."""
    return list(dict.fromkeys(itertools.chain(*notes)))


def _read(path: Path, side: int) -> bytes:
    data = path.read_bytes()
    if side <= 0 or max(pictures.size_of(data)) <= side:
        return data
    return pictures.shrink(data, side, side)[0]


def _key(spec: PictureSpec, base: wire.BaseModel, loras: Sequence[Path]) -> str:
    """Of all that decides a picture's pixels; the files by their stamps."""
    path = Path(typed(base.path))
    files = [path, *sorted(path.glob("*/*")), *loras]
    stamps = []
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            stamps.append((str(file), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(msgspec.json.encode((spec, base.objective, stamps))).hexdigest()
