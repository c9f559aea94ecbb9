"""The disk a workspace is on, as the kernel's table of mounts tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_daemon import filesystem

MOUNTS = b"""22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:26 / /data rw shared:1 - nfs4 server:/x rw
31 22 0:27 / /data/scratch rw - xfs /dev/sdb rw
32 22 0:28 / /my\\040volume rw - fuse.juicefs JuiceFS:x rw
33 22 0:29 / /tmp rw - tmpfs tmpfs rw
34 22 0:30 / /caf\xe9/\xe9\xbe\x8d rw - 9p share rw
35 22 0:31 / /run rw - overlay overlay rw
36 30 0:32 / /run rw - ext4 /dev/sdc rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_bytes(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/nowhere/at/all", "ext4"),
        ("/data", "nfs4"),
        ("/data/sets", "nfs4"),
        ("/database", "ext4"),
        ("/data/scratch/x", "xfs"),
        ("/my volume/x", "fuse.juicefs"),
        ("/run/x", "ext4"),  # mounted over: the later one counts
    ],
)
def test_the_nearest_mount_above_a_path_counts(path: str, kind: str, mounts: Path) -> None:
    assert filesystem.file_system(Path(path), mounts) == kind


def test_a_mount_whose_name_is_not_utf_8(mounts: Path) -> None:
    place = Path(b"/caf\xe9/\xe9\xbe\x8d/x".decode("utf-8", "surrogateescape"))
    assert filesystem.file_system(place, mounts) == "9p"


def test_no_table_of_mounts_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert filesystem.file_system(tmp_path, tmp_path / "absent") == ""


@pytest.mark.parametrize(
    ("kind", "network", "ephemeral"),
    [
        ("nfs4", True, False),
        ("fuse.sshfs", True, False),
        ("fuse", True, False),
        ("tmpfs", False, True),
        ("overlay", False, True),
        ("ext4", False, False),
        ("", False, False),
    ],
)
def test_which_disks_need_care(
    kind: str, network: bool, ephemeral: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "file_system", lambda _: kind)
    assert filesystem.is_network(Path("/")) is network
    assert filesystem.is_ephemeral(Path("/")) is ephemeral
