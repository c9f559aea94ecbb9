"""What kind of disk a path is on: network file systems and ephemeral ones need other care."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "beegfs", "gpfs",
    "afs", "vboxsf", "fuse",
}  # fmt: skip
_EPHEMERAL = {"tmpfs", "ramfs", "overlay"}
_ESCAPE = re.compile(r"\\([0-7]{3})")  # how the kernel writes a blank in a path


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds ``path`` ("ext4", "nfs4", …); "" if unknown."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    target = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = _ESCAPE.sub(lambda found: chr(int(found[1], 8)), before.split(" ")[4])
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, after.split(" ")[0]
    return kind


def is_network(path: Path) -> bool:
    """Whether SQLite's WAL would be unsafe there."""
    kind = file_system(path)
    return kind in _NETWORK or (kind.startswith("fuse.") and kind != "fuse.ext4")


def is_ephemeral(path: Path) -> bool:
    """Whether what is written there is gone with the machine or the container."""
    return file_system(path) in _EPHEMERAL
