"""Folders of LoRA files listed in the library by their headers alone: no tensor is read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec.structs import replace

from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from shared import lora_cards, lora_info, wire
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.lora_keys import contents
from shared.safetensors_file import read_header

MOST = 10_000  # safetensors files of one folder


@dataclass
class _Seen:
    """What a look at folders came to."""

    added: list[wire.Lora] = field(default_factory=list)
    changed: list[wire.Lora] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    same: int = 0
    skipped: list[wire.Skipped] = field(default_factory=list)
    made_up: dict[int, tuple[int, str]] = field(default_factory=dict)  # rank, shapes


class Indexing:
    """Answers IndexLoras. What is in the library says which folders are watched."""

    def __init__(self, daemon: Daemon, library: Library) -> None:
        self._store = daemon.store
        self._root = daemon.workspace.root
        self._library = library
        self._turn = asyncio.Lock()

    async def index(self, context: Context, request: wire.IndexLoras) -> wire.LorasIndexed:
        """Raises LoraError: NOT_FOUND, BAD_REQUEST (too many files), STORAGE."""
        async with self._turn:
            loras = self._library.loras()
            known = sorted({lora.folder for lora in loras if lora.folder})
            folders = [to_text(_absolute(request.folder))] if request.folder else known
            if request.forget:
                return self._forget(context, folders, loras)
            if request.folder and not await asyncio.to_thread(Path(typed(folders[0])).is_dir):
                raise LoraError(Code.NOT_FOUND, f"There is no folder {folders[0]}.")
            seen = await asyncio.to_thread(self._look, folders, loras)
            if request.folder and request.folder not in known and not (seen.added or seen.same):
                self._explain_nothing(folders[0], seen)
            await self._store.quiet()
            taken = {lora.name for lora in self._library.loras()}  # a run may have ended meanwhile
            for at, lora in enumerate(seen.added):
                if lora.name in taken:
                    seen.added[at] = replace(lora, name=_name(Path(typed(lora.path)), taken))
                taken.add(seen.added[at].name)
            answer = wire.LorasIndexed(
                folders=folders, added=[one.name for one in seen.added],
                changed=[one.name for one in seen.changed], gone=seen.gone, same=seen.same,
                skipped=seen.skipped,
            )  # fmt: skip
            self._record(context, [*seen.added, *seen.changed], seen.gone, answer)
            return answer

    def _explain_nothing(self, folder: str, seen: _Seen) -> None:
        if seen.changed:
            return
        why = f" {seen.skipped[0].why}" if seen.skipped else ""
        raise LoraError(
            Code.NOT_FOUND, f"There is no LoRA file (.safetensors) in {folder} or below it.{why}"
        )

    def _forget(
        self, context: Context, folders: list[str], loras: list[wire.Lora]
    ) -> wire.LorasIndexed:  # fmt: skip
        names = [lora.name for lora in loras if lora.folder and lora.folder in folders]
        if not names:
            raise LoraError(Code.NOT_FOUND, f"No LoRA of {', '.join(folders)} is listed.")
        answer = wire.LorasIndexed(
            folders=folders, added=[], changed=[], gone=names, same=0, skipped=[]
        )
        self._record(context, [], names, answer)
        return answer

    def _record(
        self, context: Context, loras: Iterable[wire.Lora], gone: Iterable[str],
        answer: wire.LorasIndexed,
    ) -> None:  # fmt: skip
        with self._store.change(context.by) as change:
            for name in gone:
                change.execute("DELETE FROM loras WHERE name = ?", (name,))
                change.emit(wire.LoraRemoved(lora=name))
            for lora in loras:
                change.execute(
                    "INSERT OR REPLACE INTO loras (name, run, lora) VALUES (?, '', ?)",
                    (lora.name, wire.encoder.encode(lora)),
                )
                change.emit(wire.LoraChanged(lora=lora))
            self._store.remember(change, context.key, answer)

    def _look(self, folders: list[str], loras: list[wire.Lora]) -> _Seen:
        seen = _Seen()
        taken = {lora.name for lora in loras}
        listed = {os.path.realpath(typed(lora.path)) for lora in loras}
        for folder in folders:
            known = {lora.path: lora for lora in loras if lora.folder == folder}
            if not Path(typed(folder)).is_dir():
                why = f"The folder {folder} is not there."
                lost = [lora for lora in known.values() if lora.problem != why]
                seen.changed += [replace(lora, problem=why) for lora in lost]
                continue
            for path in _files(folder, self._root):
                before, real = known.pop(to_text(path), None), os.path.realpath(path)
                if before is not None or real not in listed:
                    self._take(folder, path, before, taken, seen)
                    listed.add(real)
                else:  # of another folder, or of a run
                    seen.same += 1
            seen.gone += [lora.name for lora in known.values()]
        return seen

    def _take(
        self, folder: str, path: Path, before: wire.Lora | None, taken: set[str], seen: _Seen
    ) -> None:
        """One file, if it is new or has changed."""
        try:
            status = path.stat()
            stamp = (status.st_size, status.st_mtime_ns)
            if before and not before.problem and stamp == (before.size, before.modified):
                seen.same += 1
                return
            facts = _facts(path, seen.made_up)
        except (LoraError, OSError) as error:
            why = error.message if isinstance(error, LoraError) else f"{path}: {error.strerror}."
            seen.skipped.append(wire.Skipped(path=to_text(path), why=why))
            if before is not None and before.problem != why:  # it was a LoRA: say what became of it
                seen.changed.append(replace(before, problem=why))
            return
        back = before is not None and stamp == (before.size, before.modified)  # its folder was away
        name = before.name if before else _name(path, taken)
        taken.add(name)
        lora = wire.Lora(
            name=name, path=to_text(path), run="", step=0, sha256="", folder=folder,
            size=stamp[0], modified=stamp[1], created=status.st_mtime,
            tensors=before.tensors if before and back else "",
            **msgspec.structs.asdict(facts),
        )  # fmt: skip
        (seen.changed if before else seen.added).append(lora)


class _Facts(msgspec.Struct):
    rank: int
    base: str
    trigger: str
    shapes: str


def _facts(path: Path, made_up: dict[int, tuple[int, str]]) -> _Facts:
    """By the header. ``made_up``: what was found of files of the same tensors' names and shapes, as
    most of a library are of few kinds. Raises LoraError(INVALID_FILE)."""
    header = read_header(path)
    kind = hash(tuple((name, one.dtype, one.shape) for name, one in header.tensors.items()))
    if kind not in made_up:
        found = contents(path, header).modules
        rank = lora_info.commonest(module.rank for module in found)
        made_up[kind] = rank, lora_info.shapes(header)
    rank, shapes = made_up[kind]
    return _Facts(
        rank=rank,
        base=lora_cards.said_base(header.metadata),
        trigger=lora_info.trigger(header.metadata),
        shapes=shapes,
    )


def _files(folder: str, workspace: Path) -> Iterator[Path]:
    """Every safetensors file of a folder and below, links followed, in order; hidden folders and
    the workspace, whose LoRAs the library has already, are left out. Raises LoraError(BAD_REQUEST).
    """
    count = 0
    seen = {os.path.realpath(workspace), os.path.realpath(typed(folder))}
    for place, folders, names in os.walk(typed(folder), followlinks=True):
        inside = []
        for one in sorted(folders):
            real = os.path.realpath(os.path.join(place, one))  # noqa: PTH118
            if not one.startswith(".") and real not in seen:  # a link may lead back
                seen.add(real)
                inside.append(one)
        folders[:] = inside
        for name in sorted(names):
            if name.endswith(".safetensors") and not name.startswith("."):
                count += 1
                if count > MOST:
                    raise LoraError(
                        Code.BAD_REQUEST,
                        f"{folder} holds more than {MOST} safetensors files. Index folders that "
                        "hold LoRAs, one after the other.",
                    )
                yield Path(place, name)


def _name(path: Path, taken: set[str]) -> str:
    """The file's stem; where that is taken, with its folder's name, then with a number."""
    stem = to_text(path.stem)
    name = stem if stem not in taken else f"{to_text(path.parent.name)}-{stem}"
    number = 2
    while name in taken:
        name = f"{stem}-{number}"
        number += 1
    return name


def _absolute(folder: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(typed(folder))))  # noqa: PTH100, PTH111
