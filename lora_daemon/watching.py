"""The folders of datasets, looked at again and again: what somebody else does there is noticed.

A look lists the folder and asks for the time, size and number of each file, which is some
microseconds a file; only files where these are others are read, once they have stayed so for
another look. The pause after a look is many times as long as the look was, but short once where
something has to stay as it is for another look. The pictures that people have before them are
looked at every second, however many there are beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from lora_daemon import folder, newer, pictures, sidecars
from lora_daemon.catalog import Catalog
from lora_daemon.datasets import Datasets
from lora_daemon.outside import Outcome, follow
from lora_daemon.service import Daemon
from lora_daemon.store import read_only
from lora_daemon.writing import Writer
from shared import wire
from shared.errors import LoraError
from shared.filenames import from_text, to_text

log = logging.getLogger(__name__)

EVERY = 1.0  # seconds between two looks, at least
SHARE = 50  # times as long as a look took is the pause after it
RETRY = 20.0  # seconds until files that could not be written are tried again
BEFORE_EYES = 16  # pictures, those that clients came to last
AT_ONCE = 100  # files read, and captions changed in one transaction

_Stamp = tuple[int, int, int]
T = TypeVar("T")


class _Row(NamedTuple):
    """What the database has of a picture and its caption file."""

    item: str
    name: str
    written: str  # digest of the caption file
    content: str  # SHA-256
    stamp: newer.Stamp
    problem: str


class _ToRead(NamedTuple):
    """What is another than it was, and has stayed so."""

    captions: list[_Row]
    pictures: list[_Row]


class _Changed(msgspec.Struct, frozen=True):
    """A caption file that is not as the database has it."""

    item: str
    name: str  # of the picture
    known: str  # digest
    sidecar: sidecars.SideCar


class _Pictures:
    """Pictures whose files were replaced. Everything runs in a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.moving: dict[str, newer.Stamp] = {}  # that were others at the last look

    def other(self, rows: list[_Row]) -> list[_Row]:
        """Those whose files are others, or there again, and as they were at the last look."""
        before, self.moving = self.moving, {}
        ready = list[_Row]()
        for row in rows:
            now = newer.stamp(self._root, row.name)
            if now is None or (now == row.stamp and row.problem != newer.GONE):
                continue
            if before.get(row.name) == now:
                ready.append(row)
            else:
                self.moving[row.name] = now
        return ready

    def examine(self, rows: Sequence[_Row]) -> list[tuple[_Row, pictures.Examined]]:
        return [(row, pictures.examine(self._root / from_text(row.name))) for row in rows]


class _Folder:
    """What is known of one folder. ``look`` and ``read`` run in a thread."""

    def __init__(self, dataset: str, path: str, database: Path) -> None:
        self._dataset = dataset
        self._root = Path(from_text(path))
        self._database = database
        self._taken: dict[str, _Stamp] | None = None  # caption files as they were last read
        self._moving: dict[str, _Stamp | None] = {}  # that were others at the last look
        self.pictures = _Pictures(self._root)
        self.looked_at = _Pictures(self._root)
        self.said: list[str] = []

    @property
    def moving(self) -> bool:
        """Whether something was another at the last look, and is to be looked at once more."""
        return bool(self._moving or self.pictures.moving)

    def look(self, tables: dict[str, newer.Stamp] | None) -> _ToRead:
        """What is to be read. ``tables``: those that were read, as they were then."""
        found = folder.walk(self._root)
        now = {text: stamp for text in found.texts if (stamp := self._stamp(text))}
        first = self._taken is None
        taken = self._taken or {}
        changed = {t for t in now.keys() | taken.keys() if now.get(t) != taken.get(t)}
        ready = {t for t in changed if first or self._moving.get(t, ()) == now.get(t)}
        self._moving = {text: now.get(text) for text in changed - ready}
        for text in ready:
            if text in now:
                taken[text] = now[text]
            else:
                del taken[text]
        self._taken = taken
        rows = self._rows()
        here, known = set(found.names), {row.name for row in rows}
        gone = folder.gone(self._root, sorted(known - here))
        self.said = [*_said(sorted(here - known), gone), *_unread(found.unread)]
        if tables is not None:
            self.said += newer.newer_tables(self._root, tables, found.tables)
        stems = {text.rpartition(".")[0] for text in ready}
        rows = [row for row in rows if row.name in here]
        captions = [row for row in rows if row.name.rpartition(".")[0] in stems]
        return _ToRead(captions, self.pictures.other(rows))

    def read(self, rows: Sequence[_Row]) -> list[_Changed]:
        """Those whose caption file is really another."""
        found = list[_Changed]()
        for item, name, known, *_ in rows:
            sidecar = sidecars.read(self._root / from_text(name))
            from_table = not sidecar.digest and known.startswith(sidecars.TABLE)
            if sidecar.warning:
                self.said.append(f"{to_text(Path(name).parent / sidecar.name)} {sidecar.warning}.")
            elif sidecar.digest != known and not from_table:
                found.append(_Changed(item, name, known, sidecar))
        return found

    def forget(self, picture: str) -> None:
        """Look at a picture's caption file again."""
        stem = picture.rpartition(".")[0]
        for suffix in sidecars.SUFFIXES:
            if self._taken is not None:
                self._taken.pop(f"{stem}{suffix}", None)

    def _stamp(self, text: str) -> _Stamp | None:
        try:
            status = os.stat(f"{self._root}/{from_text(text)}")  # noqa: PTH116  # of many
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _rows(self) -> list[_Row]:
        address = read_only(self._database)
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM items WHERE dataset = ?", (self._dataset,)
            )
            return [_row(row) for row in found]


_COLUMNS = "id, name, written, content, mtime, size, problem"


def _row(found: Sequence[Any]) -> _Row:
    item, name, written, content, mtime, size, problem = found
    return _Row(item, name, written, content, (mtime, size), problem)


class Watch:
    """Looks at every dataset's folder, has captions follow their files, says what else is new."""

    def __init__(
        self, daemon: Daemon, catalog: Catalog, datasets: Datasets, writer: Writer
    ) -> None:
        self._store = daemon.store
        self._hub = daemon.hub
        self._catalog = catalog
        self._datasets = datasets
        self._writer = writer
        self._folders: dict[str, _Folder] = {}
        self._seen: dict[str, wire.FolderSeen] = {}
        self._eyes: dict[tuple[str, str], None] = {}  # (dataset, item), the last one last
        self._tried = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="folder watch")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def seen(self) -> list[wire.AnyLive]:
        """What there is to say of folders, for a client that has just attached."""
        return [msgspec.structs.replace(one, news="") for one in self._seen.values() if one.said]

    def warnings(self) -> list[str]:
        names = {one.id: one.name for one in self._catalog.datasets()}
        return [
            f"{names[seen.dataset]}: {said}"
            for seen in self._seen.values()
            if seen.dataset in names
            for said in seen.said
        ]

    def looked_at(self, dataset: str, item: str) -> None:
        """Somebody has this picture before him."""
        self._eyes.pop((dataset, item), None)
        self._eyes[dataset, item] = None
        if len(self._eyes) > BEFORE_EYES:
            del self._eyes[next(iter(self._eyes))]

    async def _run(self) -> None:
        hurried, due = False, 0.0
        while True:
            with contextlib.suppress(LoraError):  # the database fails: in a second again
                await self._glance()
            if time.monotonic() < due:
                await asyncio.sleep(EVERY)
                continue
            looked = 0.0
            for dataset in self._catalog.datasets():
                try:
                    looked += await self._look(dataset)
                except LoraError as error:  # the folder is not there, or the database fails
                    self._tell(dataset.id, [error.message], "")
                except Exception:
                    log.exception("the folder of %s could not be looked at", dataset.name)
            hurried = not hurried and any(one.moving for one in self._folders.values())
            due = time.monotonic() + (0 if hurried else looked * SHARE)
            await asyncio.sleep(EVERY)

    async def _glance(self) -> None:
        """Look at the pictures that people have before them."""
        for dataset in {dataset for dataset, _ in self._eyes} & self._folders.keys():
            items = [item for where, item in self._eyes if where == dataset]
            marks = ", ".join("?" * len(items))
            rows = self._store.query(
                f"SELECT {_COLUMNS} FROM items WHERE dataset = ? AND id IN ({marks})",
                (dataset, *items),
            )
            seen = self._folders[dataset]
            other = await asyncio.to_thread(seen.looked_at.other, [_row(row) for row in rows])
            if other:
                replaced = await self._reread(dataset, seen, other)
                self._tell(dataset, seen.said, _replaced(replaced))

    async def _look(self, dataset: wire.Dataset) -> float:
        """The seconds that looking took, without what was read then."""
        if self._datasets.importing(dataset.path):
            return 0.0
        seen = self._folders.setdefault(
            dataset.id, _Folder(dataset.id, dataset.path, self._store.database)
        )
        outcomes = dict[str, Outcome]()
        began = time.monotonic()
        other = await asyncio.to_thread(seen.look, newer.known_tables(self._store, dataset.id))
        looked = time.monotonic() - began
        replaced = await self._reread(dataset.id, seen, other.pictures)
        for portion in _portions(other.captions):
            changed = await asyncio.to_thread(seen.read, portion)
            if changed:
                await self._store.quiet()
                outcomes |= self._follow(changed)
        for name, outcome in outcomes.items():
            if outcome == "late":
                seen.forget(name)
        if time.monotonic() - self._tried > RETRY:
            self._tried = time.monotonic()
            self._writer.try_again()
        self._tell(dataset.id, seen.said, f"{_news(outcomes)} {_replaced(replaced)}".strip())
        return looked

    async def _reread(self, dataset: str, seen: _Folder, rows: list[_Row]) -> dict[str, str]:
        """As ``_replace``, of any number."""
        replaced = dict[str, str]()
        for portion in _portions(rows):
            examined = await asyncio.to_thread(seen.pictures.examine, portion)
            await self._store.quiet()
            replaced |= self._replace(dataset, examined)
        return replaced

    def _replace(
        self, dataset: str, examined: list[tuple[_Row, pictures.Examined]]
    ) -> dict[str, str]:
        """Take over what pictures are now. Those that show something else, and what is wrong with
        them, if anything."""
        other = {
            row.name: seen.problem
            for row, seen in examined
            if (row.content, row.problem) != (seen.content, seen.problem)
        }
        with self._store.change("file") as change:
            for row, seen in examined:
                newer.take(change, row.item, seen)
            if other:
                what = f"{_some(list(other), 'picture')} replaced"
                change.emit(wire.CaptionsChanged(dataset=dataset, changed=len(other), what=what))
                change.emit(wire.DatasetChanged(dataset=self._catalog.dataset(dataset)))
        return other

    def _follow(self, changed: list[_Changed]) -> dict[str, Outcome]:
        with self._store.change("file") as change:
            return {
                one.name: follow(
                    self._store, self._catalog, change, one.item, one.known, one.sidecar
                )
                for one in changed
            }

    def _tell(self, dataset: str, said: list[str], news: str) -> None:
        seen = wire.FolderSeen(dataset=dataset, said=said, news=news)
        if seen != self._seen.get(dataset, wire.FolderSeen(dataset=dataset)):
            self._hub.publish(seen)
        self._seen[dataset] = msgspec.structs.replace(seen, news="")


def _portions(rows: list[T]) -> Iterator[list[T]]:
    for first in range(0, len(rows), AT_ONCE):
        yield rows[first : first + AT_ONCE]


def _said(new: list[str], gone: list[str]) -> Iterator[str]:
    """What importing again would find."""
    if new:
        yield f"{_some(new, 'picture')} new in its folder: import it again to have them."
    if gone:
        yield (
            f"{_some(gone, 'picture')} no longer in its folder: import it again, and those that "
            "were moved are found by what they show."
        )


def _unread(unread: list[tuple[str, str]]) -> Iterator[str]:
    for where, why in unread:
        yield f"Its folder {where} cannot be read ({why})."


def _news(outcomes: dict[str, Outcome]) -> str:
    said = []
    for outcome, what in (
        ("taken", "now what somebody wrote into its file; what it was is a candidate."),
        ("both", "one here and another in its file: in Review, take or accept one of them."),
        ("gone", "kept, though its file is gone."),
    ):
        names = [name for name, one in outcomes.items() if one == outcome]
        if names:
            said.append(f"The caption of {_some(names, 'picture')} {what}")
    return " ".join(said)


def _replaced(other: dict[str, str]) -> str:
    """What pictures were replaced."""
    said = []
    usable = [name for name, problem in other.items() if not problem]
    if len(usable) == 1:
        said.append(f"{usable[0]} is another picture now; its caption stays.")
    elif usable:
        said.append(f"{_some(usable, 'picture')} others now; their captions stay.")
    said += [f"{name}, which was replaced, {why}." for name, why in other.items() if why][:3]
    return " ".join(said)


def _some(names: list[str], what: str) -> str:
    """003.png is | 12 pictures (003.png, …) are"""
    if len(names) == 1:
        return f"{names[0]} is"
    listed = ", ".join(names[:3]) + (", …" if names[3:] else "")
    return f"{len(names)} {what}s ({listed}) are"
