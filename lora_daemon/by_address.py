"""A base from an address: a file of the web, fetched from where the last attempt left off.

``python -m lora_daemon.by_address`` obeys an ``AddressOrder``, as ``lora_daemon.download`` says. A
file has its place in the workspace's ``models`` once it is whole and looked over. Until then it is
in ``models/.fetching``, in a folder of its address, beside a note of what the server said of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
import requests
from urllib3.exceptions import HTTPError

from lora_daemon import base_look, civitai
from lora_daemon.civitai import Source
from lora_daemon.download import AddressOrder, Advance, Failed, Fetched, ordered, tell
from lora_daemon.web import Passing, Web, explained
from shared.addresses import CIVITAI, check, civitai_token, host, is_civitai, shown
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.files import sync_directory
from shared.safetensors_file import MAX_HEADER

PIECE = 1 << 18  # bytes read at once
PAUSES = (1, 2, 4, 8, 16)  # seconds, growing while nothing comes
LONGEST = 120  # seconds that a server may ask to wait
EVERY = 0.1  # seconds between two words on how far it is
RESERVE = 64_000_000  # bytes left free on the disk, for the daemon's own
_SUFFIX = ".safetensors"
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_LONGEST_NAME = 180  # bytes
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_STAYS = "What was fetched stays; the same again goes on from there."
T = TypeVar("T")


class _Note(msgspec.Struct):
    """What is known of a file from earlier answers; in the end where it lies.

    Raises ValueError for a name that is a path: whatever is done to files here stays in here.
    """

    name: str = ""
    size: int = 0  # 0: not told
    tag: str = ""  # the server's name for just these bytes: a strong ETag, or a date
    sha256: str = ""
    origin: str = ""
    passed_over: list[str] = []
    published: str = ""  # its name in the folder

    def __post_init__(self) -> None:
        if any("/" in name or name in (".", "..") for name in (self.name, self.published)):
            raise ValueError("a name that is a path")


def main() -> None:
    """Obey the order on stdin."""
    order = ordered(AddressOrder)
    try:
        with _own_folder(order) as (own, note):
            tell(_Fetch(order, own, note).run())
    except LoraError as error:
        tell(Failed(error.failure()))
    except OSError as error:
        what = error.filename or order.folder
        tell(Failed(LoraError.storage("fetch to", what, error).failure()))
    except Exception as error:  # in its words there may be an address with its secrets
        text = f"The download broke: {type(error).__name__}."
        tell(Failed(LoraError(Code.WORKER_FAILED, text).failure()))


@contextlib.contextmanager
def _own_folder(order: AddressOrder) -> Iterator[tuple[Path, BinaryIO]]:
    """The folder of an address and its note, which only one process at a time has."""
    digest = hashlib.sha256(order.wanted.url.encode()).hexdigest()
    own = Path(typed(order.folder)) / ".fetching" / digest[:16]
    own.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(own / "note.json", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as note:
        try:
            fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(Advance(0, 0, "it is being fetched already"))
            fcntl.flock(note, fcntl.LOCK_EX)
        yield own, note


class _Fetch:
    """One attempt to have a file; within it a fault that may pass by is waited out."""

    def __init__(self, order: AddressOrder, own: Path, note: BinaryIO) -> None:
        self._wanted = order.wanted
        self._predicts = order.predicts
        self._folder = Path(typed(order.folder))
        self._own = own
        self._file = note
        self._endpoint = order.wanted.mirror or os.environ.get("CIVITAI_ENDPOINT") or CIVITAI
        self._web = Web(order.wanted.token or civitai_token(), self._endpoint)
        self._glanced = False
        self._told = 0.0
        try:
            self._note = msgspec.json.decode(note.read(), type=_Note)
        except msgspec.MsgspecError:  # none yet, or torn by a crash
            self._note = _Note()

    def run(self) -> Fetched:
        """Have it. Raises LoraError: NOT_FOUND, UNREACHABLE, INVALID_FILE, STORAGE,
        BAD_REQUEST."""
        if self._wanted.offline and not self._there:
            raise LoraError(
                Code.NOT_FOUND,
                f"{shown(self._wanted.url)} was not fetched to its end before, and --offline asks "
                "nobody. Fetch it once without.",
            )
        if not self._wanted.offline:
            source = self._patiently(self._source)
            self._patiently(lambda: self._transfer(source))
            if not self._there:
                self._look_over()
                self._publish()
        note = self._note
        path = to_text(self._folder / note.published)
        return Fetched(path, note.origin, note.passed_over)

    @property
    def _part(self) -> Path:
        return self._own / self._note.name

    @property
    def _have(self) -> int:
        """Bytes that are here of a file that is still under way."""
        return self._part.stat().st_size if self._note.name and self._part.exists() else 0

    @property
    def _there(self) -> bool:
        """Whether it has its place, as long as it was."""
        path = self._folder / self._note.published
        return path.is_file() and path.stat().st_size == self._note.size

    def _patiently(self, step: Callable[[], T]) -> T:
        tries, reached = 0, self._have
        while True:
            try:
                return step()
            except Passing as fault:
                if self._have > reached:
                    tries, reached = 0, self._have
                late = fault.wait is not None and fault.wait > LONGEST
                if not self._web.answered or tries == len(PAUSES) or late:
                    text = f"{fault.message}. {_STAYS if self._have else 'Try again.'}"
                    text += f" It asks to wait {fault.wait:,.0f} seconds." if late else ""
                    raise LoraError(fault.code, text, retryable=True) from None
                pause = PAUSES[tries] if fault.wait is None else fault.wait
                again = f"{fault.message}; trying again in {pause:.0f} s"
                tell(Advance(self._have, self._note.size, again))
                time.sleep(pause)
                tries += 1

    # ── what it is, and its bytes ───────────────────────────────────────────────────────────────

    def _source(self) -> Source:
        url = self._wanted.url
        check(url)
        if is_civitai(url, self._endpoint):
            return civitai.resolve(url, self._endpoint, self._web)
        return Source(url, shown(url))

    def _transfer(self, source: Source) -> None:
        """Fetch what is lacking. Nothing of that is believed to belong to what is here but what
        the server says is the same file."""
        have, headers = self._have, {}
        if have and have == self._note.size:
            return
        if have and (self._note.tag or self._note.sha256):
            headers = {"Range": f"bytes={have}-"}
            headers |= {"If-Range": self._note.tag} if self._note.tag else {}
        response, sha256 = self._web.get(source.url, headers)
        with response:
            if response.status_code in (206, 416) and not _goes_on(response, have, self._note.size):
                self._forget()
                raise Passing(f"{host(source.url)} has another file by now", wait=0)
            if response.status_code == 200:
                now = self._said(source, response, source.sha256 or sha256)
                if self._there and _same(now, self._note):
                    return
                self._forget()
                self._glanced = False
                self._write(now)
            self._receive(response)

    def _said(self, source: Source, response: requests.Response, sha256: str) -> _Note:
        """What the answer to a question for the whole says of the file. Raises
        LoraError(INVALID_FILE) where that is none to take."""
        headers = response.headers
        if headers.get("Content-Type", "").startswith("text/html"):
            raise LoraError(
                Code.INVALID_FILE,
                f"{shown(source.url)} is a web page, not a file: give the address of the file "
                "itself, as the page's download button has it. If that asks for a login, fetch "
                "the file yourself and add it by its path.",
            )
        tag, length = headers.get("ETag", ""), headers.get("Content-Length", "")
        return _Note(
            name=_name(source, response),
            size=int(length) if length.isdecimal() else 0,
            tag=headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag,
            sha256=sha256,
            origin=source.origin,
            passed_over=source.passed_over,
        )

    def _receive(self, response: requests.Response) -> None:
        name, size, done = self._note.name, self._note.size, self._have
        free = shutil.disk_usage(self._own).free - RESERVE
        if size - done > free:
            raise LoraError(
                Code.STORAGE,
                f"{name} needs {(size - done) / 1e6:,.0f} MB more, and the disk of {self._folder} "
                f"has {max(free, 0) / 1e6:,.0f} MB to give. Free some space and try again.",
            )
        with self._part.open("ab") as file:
            while piece := self._read(response):
                if shutil.disk_usage(self._own).free - len(piece) < RESERVE:
                    full = OSError(errno.ENOSPC, "")
                    raise LoraError.storage("go on fetching to", self._part, full)
                file.write(piece)
                file.flush()
                done += len(piece)
                self._tell(done, name)
                if size and not self._glanced:
                    self._glance(done)
        if done < size:
            raise Passing(f"The connection to {host(response.url)} broke")
        if not size:
            self._note.size = done
            self._write(self._note)

    def _read(self, response: requests.Response) -> bytes:
        try:
            piece: bytes = response.raw.read(PIECE)
        except (HTTPError, OSError) as error:
            raise explained(error, response.url) from None
        return piece

    def _tell(self, done: int, what: str) -> None:
        if (now := time.monotonic()) - self._told >= EVERY or done == self._note.size:
            self._told = now
            tell(Advance(done, self._note.size, what))

    # ── looking it over ─────────────────────────────────────────────────────────────────────────

    def _glance(self, done: int) -> None:
        """As soon as a file's header is here, refuse what is no base: not after the gigabytes."""
        with self._part.open("rb") as file:
            end = 8 + int.from_bytes(file.read(8), "little")
            if done < 8 or done < end <= min(self._note.size, MAX_HEADER):
                return
            file.seek(0)
            beginning = file.read(min(end, done))
        self._glanced = True
        with tempfile.TemporaryDirectory(dir=self._own) as folder:
            hollow = Path(folder) / self._note.name
            hollow.write_bytes(beginning)
            os.truncate(hollow, self._note.size)
            self._look(hollow)

    def _look_over(self) -> None:
        note = self._note
        if note.sha256:
            tell(Advance(note.size, note.size, f"checking {note.name}"))
            with self._part.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != note.sha256:
                self._forget()
                raise LoraError(
                    Code.INVALID_FILE,
                    f"{note.name} came damaged: its SHA-256 begins with {found[:12]}, and its page "
                    f"says {note.sha256[:12]}. It was deleted; fetch it again.",
                )
        self._look(self._part)

    def _look(self, path: Path) -> None:
        """Raises LoraError(INVALID_FILE) after deleting what cannot be used."""
        try:
            base_look.look(path, self._predicts)
        except LoraError as error:
            if error.code is not Code.INVALID_FILE:
                raise
            self._forget()
            text = error.message.replace(to_text(path), self._note.name)
            raise LoraError(error.code, f"{text} (From {self._note.origin}.)") from None

    def _publish(self) -> None:
        """Give it its place, beside whatever else has its name."""
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        stem = self._note.name.removesuffix(_SUFFIX)
        for number in itertools.count(1):
            name = self._note.name if number == 1 else f"{stem}-{number}{_SUFFIX}"
            if _placed(self._part, self._folder / name):
                break
        sync_directory(self._folder)
        self._note.published = name
        self._write(self._note)
        self._part.unlink(missing_ok=True)

    def _forget(self) -> None:
        """Let go of what was fetched."""
        for one in self._own.glob(f"*{_SUFFIX}"):
            one.unlink()

    def _write(self, note: _Note) -> None:
        self._note = note
        self._file.seek(0)
        self._file.write(msgspec.json.encode(note))
        self._file.truncate()
        self._file.flush()


def _goes_on(response: requests.Response, have: int, size: int) -> bool:
    """Whether an answer is the rest of the file of which so much is here."""
    told = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return told is not None and (int(told[1]), int(told[2])) == (have, size)


def _same(one: _Note, other: _Note) -> bool:
    """Whether two answers are of the same bytes."""
    told = bool(one.sha256 or one.tag)
    return told and (one.sha256, one.tag, one.size) == (other.sha256, other.tag, other.size)


def _placed(part: Path, place: Path) -> bool:
    """Whether a file now has that place, too: never that of another."""
    try:
        os.link(part, place)
    except FileExistsError:
        return place.samefile(part)  # a crash came after this, the last time
    except OSError:  # a file system without links
        if place.exists():
            return False
        part.rename(place)
    return True


def _name(source: Source, response: requests.Response) -> str:
    """What the file is called, without folders. Raises LoraError(INVALID_FILE) for a pickle."""
    told = Message()
    told["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    names = (source.name, told.get_filename(), unquote(urlsplit(source.url).path))
    for text in names:
        last = re.split(r"[/\\]", text or "")[-1]
        name = "".join(c for c in last if c.isprintable()).strip(" .")
        if name.lower().endswith(_PICKLES):
            raise LoraError(
                Code.INVALID_FILE,
                f"{name} is a pickle, which can run any program when opened, so lora-tui does not "
                "fetch it. Look for a .safetensors file beside it.",
            )
        if name:
            stem = name[: -len(_SUFFIX)] if name.lower().endswith(_SUFFIX) else name
            return stem.encode()[:_LONGEST_NAME].decode("utf-8", "ignore") + _SUFFIX
    return f"model{_SUFFIX}"


if __name__ == "__main__":
    main()
