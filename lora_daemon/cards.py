"""LoRAs' cards: what their files say, what lies beside them, their spectrum, and their doubles."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from pathlib import Path

import msgspec
from msgspec.structs import replace

from lora_daemon import engine_process
from lora_daemon.choosing import Choosing
from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from lora_daemon.thumbnails import Thumbnails
from shared import lora_cards, lora_info, wire
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.files import keep_latest, publish
from shared.lora_cards import LoraCard, Spectrum, SpectrumOrder, Twins
from shared.lora_keys import Module, contents
from shared.safetensors_file import Header, read_header

KEPT = 500  # spectra; the oldest go
MOST = 500_000  # singular values told, within what one message holds
_BESIDE = (".preview.png", ".png", ".preview.jpg", ".jpg", ".jpeg", ".webp")
_spectrum = msgspec.json.Decoder(Spectrum).decode


class Cards:
    """Answers GetLoraCard, GetLoraPreview and FindDuplicates. Spectra are kept by what is in the
    file; whether two files are the same is found out when somebody asks."""

    def __init__(
        self, daemon: Daemon, library: Library, thumbnails: Thumbnails, choosing: Choosing
    ) -> None:
        self._cache = daemon.workspace.cache / "spectra"
        self._library = library
        self._thumbnails = thumbnails
        self._choosing = choosing
        self._turn = asyncio.Lock()  # a spectrum takes every core

    async def card(self, context: Context, request: wire.GetLoraCard) -> wire.CardFound:
        """Raises LoraError: NOT_FOUND, INVALID_FILE, STORAGE, WORKER_FAILED."""
        name, path = self._library.lora(request.lora)
        row = self._library.known(name, path)
        header = await asyncio.to_thread(read_header, path)
        found = await asyncio.to_thread(_card, name, path, header)
        spectrum, advice = None, ""
        if request.spectrum:
            tensors, row = await self._read(path, row)
            spectrum = await self._spectrum(path, header, tensors)
            advice = lora_cards.advice(name, spectrum)
            spectrum = _shortened(spectrum, request.modules)
        found = replace(
            found, spectrum=spectrum, advice=advice, twins=self._twins(row, path, header)
        )
        if row is not None:
            found = await self._with_run(context, found, row)
        return wire.CardFound(found=found)

    async def preview(self, context: Context, request: wire.GetLoraPreview) -> wire.Thumbnail:
        """Raises LoraError: NOT_FOUND, INVALID_FILE, BAD_REQUEST."""
        name, path = self._library.lora(request.lora)
        picture = await asyncio.to_thread(_beside, path)
        if picture is None:
            raise LoraError(Code.NOT_FOUND, f"No picture lies beside {name}.")
        status = await asyncio.to_thread(picture.stat)
        data, width, height = await self._thumbnails.shrunk(
            picture, to_text(picture), "", (status.st_size, status.st_mtime_ns),
            request.width, request.height,
        )  # fmt: skip
        context.blobs.append(data)
        return wire.Thumbnail(width=width, height=height, media_type="image/jpeg")

    async def duplicates(
        self, context: Context, request: wire.FindDuplicates
    ) -> wire.DuplicatesFound:
        """Raises LoraError(STORAGE)."""
        by_shapes: dict[str, list[wire.Lora]] = {}
        unread = []
        for lora in self._library.loras():
            try:
                shapes = lora.shapes or lora_info.shapes(
                    await asyncio.to_thread(read_header, Path(typed(lora.path)))
                )
                by_shapes.setdefault(shapes, []).append(lora)
            except LoraError as error:
                unread.append(wire.Skipped(path=lora.path, why=error.message))
        likely = [lora for alike in by_shapes.values() if len(alike) > 1 for lora in alike]
        groups: dict[str, list[str]] = {}
        before = sum(not lora.tensors for lora in likely)
        for number, lora in enumerate(likely):
            context.progress(number, len(likely), lora.name)
            try:
                tensors, _ = await self._read(Path(typed(lora.path)), lora)
                groups.setdefault(tensors, []).append(lora.name)
            except LoraError as error:
                unread.append(wire.Skipped(path=lora.path, why=error.message))
        return wire.DuplicatesFound(
            groups=sorted(sorted(names) for names in groups.values() if len(names) > 1),
            read=before, unread=unread,
        )  # fmt: skip

    async def _read(self, path: Path, row: wire.Lora | None) -> tuple[str, wire.Lora | None]:
        """The digest of a file's tensors, kept in its row as long as the file stays as it is."""
        try:
            status = await asyncio.to_thread(path.stat)
        except OSError as error:
            raise LoraError.storage("read", path, error) from None
        stamp = (status.st_size, status.st_mtime_ns)
        if row is not None and row.tensors and stamp == (row.size, row.modified):
            return row.tensors, row
        tensors = await asyncio.to_thread(lora_info.tensors, path)
        if row is None:
            return tensors, None
        row = replace(row, tensors=tensors)
        if not row.modified or stamp == (row.size, row.modified):  # else it is to be indexed anew
            shapes = row.shapes or lora_info.shapes(await asyncio.to_thread(read_header, path))
            row = replace(row, shapes=shapes, size=stamp[0], modified=stamp[1])
            self._library.change_lora(row)
        return tensors, row

    async def _spectrum(self, path: Path, header: Header, tensors: str) -> Spectrum:
        scales = [(one.name, one.scale) for one in contents(path, header).modules]
        key = hashlib.sha256(msgspec.json.encode((tensors, scales))).hexdigest()
        kept = self._cache / f"{key}.json"
        async with self._turn:
            with contextlib.suppress(OSError, msgspec.DecodeError):
                return _spectrum(await asyncio.to_thread(kept.read_bytes))
            order = SpectrumOrder(path=to_text(path))
            module = "lora_daemon.engine.spectrum"
            found = await engine_process.ask(module, order, Spectrum, "The spectrum")
            await asyncio.to_thread(_keep, kept, found)
        return found

    def _twins(self, row: wire.Lora | None, path: Path, header: Header) -> Twins:
        """What is known without reading a file."""
        shapes = lora_info.shapes(header)
        others = [
            one for one in self._library.loras()
            if one.path != to_text(path) and one.shapes in (shapes, "")
        ]  # fmt: skip
        if row is None or not row.tensors:
            return Twins(unread=len(others), known=not others)
        same = [one.name for one in others if one.tensors == row.tensors]
        return Twins(same=same, unread=sum(not one.tensors for one in others), known=True)

    async def _with_run(self, context: Context, card: LoraCard, row: wire.Lora) -> LoraCard:
        """What the run that made a LoRA knows of it."""
        card = replace(
            card, base=row.base or card.base, trigger=card.trigger or row.trigger,
            advised=row.advised, leak=row.advised.leak if row.advised else None,
        )  # fmt: skip
        if not row.run:
            return card
        painted = [one for one in self._library.pictures() if one.run == row.run]
        upto = [one for one in painted if one.step <= row.step] or painted
        leak = card.leak
        with contextlib.suppress(LoraError):  # its run is gone, or cannot be read
            judged = (await self._choosing.which(context, wire.GetWhich(run=row.run))).found
            single = [one for one in judged.candidates if len(one.files) == 1]
            here = (one.leak for one in single if one.step == row.step)
            leak = next((one for one in here if one is not None), leak)
        return replace(
            card, run=row.run, steps=card.steps or row.step, leak=leak,
            picture=max(upto, key=lambda one: one.step).id if upto else "",
        )  # fmt: skip


def _card(name: str, path: Path, header: Header) -> LoraCard:
    """By the header and the alphas. Raises LoraError(INVALID_FILE)."""
    found = contents(path, header).modules
    said = header.metadata
    beside = _beside(path)
    try:
        alphas = lora_info.alphas(path, header, found)
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    return LoraCard(
        name=name,
        path=to_text(path),
        size=header.size,
        preview=to_text(beside.name) if beside else "",
        title=said.get("modelspec.title", "") or said.get("ss_output_name", ""),
        trigger=lora_info.trigger(said),
        tags=lora_cards.tags(said),
        kinds=dict(Counter(_kind(one) for one in found)),
        modules=len(found),
        ranks=sorted({one.rank for one in found}),
        alphas=sorted(set(alphas)),
        base=lora_cards.said_base(said),
        base_version=said.get("ss_base_model_version", ""),
        resolution=lora_cards.resolution(said),
        pictures=lora_info.number(said.get("ss_num_train_images")) or 0,
        steps=lora_info.number(said.get("ss_steps")) or 0,
        epochs=lora_info.number(said.get("ss_epoch")) or 0,
        made=lora_cards.made(said),
    )


def _shortened(found: Spectrum, modules: bool) -> Spectrum:
    """Without what was not asked for, or is too much to send."""
    if not modules:
        return replace(found, modules=[])
    if sum(len(one.values) for one in found.modules) <= MOST:
        return found
    note = f"More than {MOST} singular values: the modules are left out here."
    return replace(found, modules=[], notes=[*found.notes, note])


def _kind(module: Module) -> str:
    return "dora" if module.decomposed else module.kind


def _beside(path: Path) -> Path | None:
    """The picture of a LoRA, as the WebUIs keep it: ``name.preview.png`` before ``name.png``."""
    places = (path.with_name(path.stem + ending) for ending in _BESIDE)
    return next((place for place in places if place.is_file()), None)


def _keep(kept: Path, found: Spectrum) -> None:
    with contextlib.suppress(OSError, LoraError):  # a full disk costs time, not the card
        kept.parent.mkdir(parents=True, exist_ok=True)
        publish(kept, msgspec.json.encode(found))
        keep_latest(KEPT, kept.parent.glob("*.json"))
