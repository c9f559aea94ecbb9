"""Captions on their way: kept in files of this client until the daemon has them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from pathlib import Path

import msgspec

from shared.wire import CaptionState


def state_dir() -> Path:
    """What this client must not lose: ``lora-tui`` in the XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser().absolute() / "lora-tui"


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one caption that the daemon has not confirmed."""

    daemon: str  # which daemon it is for: its endpoint or workspace
    dataset: str
    item: str
    name: str  # of the picture, for people
    if_rev: int
    text: str | None = None
    state: CaptionState | None = None
    key: str = ""  # the request's key: sending it twice has one effect
    pid: int = 0  # of the client that wrote it; while it lives the draft is its own
    host: str = ""
    at: float = 0.0


class Drafts:
    """A directory of drafts, one file for each caption. A disk that refuses is not fatal: the
    text is still in the field, and ``problem`` says what is wrong."""

    def __init__(self, directory: Path, daemon: str) -> None:
        self.directory = directory
        self.daemon = daemon
        self.problem = ""
        self._host = socket.gethostname()

    def _path(self, dataset: str, item: str) -> Path:
        digest = hashlib.sha256(f"{self.daemon}\0{dataset}\0{item}".encode()).hexdigest()[:24]
        return self.directory / f"{digest}.json"

    def write(self, draft: Draft) -> None:
        """Put a draft on disk before anything else happens to it."""
        draft = msgspec.structs.replace(draft, daemon=self.daemon, pid=os.getpid(), host=self._host)
        path = self._path(draft.dataset, draft.item)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.part")
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(draft))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            self.problem = ""
        except OSError as error:
            self.problem = f"Drafts cannot be kept in {self.directory}: {error.strerror}."

    def remove(self, dataset: str, item: str) -> None:
        with contextlib.suppress(OSError):
            self._path(dataset, item).unlink()

    def left_behind(self) -> list[Draft]:
        """Drafts for this daemon whose client is gone, oldest first."""
        return [draft for draft in self._all() if not self._alive(draft)]

    def own(self) -> list[Draft]:
        """Drafts of this very client, oldest first."""
        return [d for d in self._all() if d.pid == os.getpid() and d.host == self._host]

    def _all(self) -> list[Draft]:
        found = []
        with contextlib.suppress(OSError):
            for path in self.directory.glob("*.json"):
                # a file that makes no sense is left where it is
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    draft = msgspec.json.decode(path.read_bytes(), type=Draft)
                    if draft.daemon == self.daemon:
                        found.append(draft)
        return sorted(found, key=lambda draft: draft.at)

    def _alive(self, draft: Draft) -> bool:
        if draft.host != self._host:  # a home directory that two machines share
            return time.time() - draft.at < 3600
        if draft.pid == os.getpid():
            return True
        try:
            os.kill(draft.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
