"""Where things are: the workspace, the private directory of its socket, the files in both."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from shared.errors import Code, LoraError

MAX_SOCKET_PATH = 107  # bytes of sun_path on Linux, less the terminating NUL


def home() -> Path:
    """The workspace: ``LORA_TUI_HOME``, else ``lora-tui`` in the XDG data directory. Absolute."""
    chosen = os.environ.get("LORA_TUI_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "lora-tui"


def config_dir() -> Path:
    """Settings of this client: ``lora-tui`` in the XDG config directory."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser().absolute() / "lora-tui"


def private(directory: Path) -> Path:
    """Make ``directory`` (and parents) readable by its owner only, and return it.

    Raises LoraError(STORAGE), also when it belongs to somebody else.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise LoraError(
                Code.STORAGE,
                f"{directory} is not a directory of yours, so the daemon's socket would not be "
                "safe in it. Remove it, or set LORA_TUI_HOME to another place.",
            )
        if status.st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise LoraError.storage("make the private directory", directory, error) from None
    return directory


def socket_path(workspace: Path) -> Path:
    """The daemon's socket: in the workspace where its path is short enough, else under a hash of
    that path in a private directory of the temporary directory."""
    near = workspace / "run" / "daemon.sock"
    if len(os.fsencode(near)) <= MAX_SOCKET_PATH:
        return near
    digest = hashlib.sha256(os.fsencode(workspace)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lora-tui-{os.getuid()}" / f"{digest}.sock"


def endpoint(workspace: Path) -> str:
    """The ZeroMQ address every client of this workspace connects to."""
    return f"ipc://{socket_path(workspace)}"


class Workspace:
    """The files of one workspace. Making the object touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "lora-tui.sqlite3"
        self.lock = root / "run" / "daemon.lock"
        self.status = root / "run" / "status.json"
        self.log = root / "log" / "daemon.log"
        self.runs = root / "runs"
        self.cache = root / "cache"
        self.outputs = root / "outputs"
        self.models = root / "models"
        self.embeddings = root / "embeddings"  # textual inversions, by their files' names
        self.upscalers = root / "upscalers"  # networks that enlarge pictures, likewise
        self.vae_approx = root / "vae_approx"  # quick decoders for previews, likewise
        self.datasets = root / "datasets"  # what was unpacked or copied, not taken by reference
        self.socket = socket_path(root)

    def run(self, run: str) -> Path:
        return self.runs / run
