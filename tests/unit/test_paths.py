"""Where the workspace and its socket are, and whom they let in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shared import paths
from shared.errors import Code, LoraError


def test_the_workspace_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_TUI_HOME", "~/somewhere")
    assert paths.home() == Path.home() / "somewhere"
    monkeypatch.delenv("LORA_TUI_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert paths.home() == Path("/data/lora-tui")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert paths.home() == Path.home() / ".local/share/lora-tui"


@pytest.mark.parametrize("length", [10, 85, 86, 87, 88, 89, 90, 200])
def test_a_socket_path_always_fits(length: int) -> None:
    socket = paths.socket_path(Path("/" + "w" * (length - 1)))
    assert len(os.fsencode(socket)) <= paths.MAX_SOCKET_PATH


def test_two_long_workspaces_have_two_sockets() -> None:
    long = "/" + "w" * 200
    assert paths.socket_path(Path(long + "1")) != paths.socket_path(Path(long + "2"))


def test_the_length_that_counts_is_in_bytes() -> None:
    near = Path("/" + "龍" * 31)
    assert near not in paths.socket_path(near).parents


def test_a_private_directory_lets_nobody_else_in(tmp_path: Path) -> None:
    open_to_all = tmp_path / "run"
    open_to_all.mkdir(mode=0o777)
    open_to_all.chmod(0o777)
    assert stat.S_IMODE(paths.private(open_to_all).stat().st_mode) == 0o700


def test_a_link_is_not_taken_for_a_private_directory(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LoraError, match="LORA_TUI_HOME") as caught:
        paths.private(tmp_path / "run")
    assert caught.value.code is Code.STORAGE


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_somebody_elses_directory_is_not_used(tmp_path: Path) -> None:
    theirs = tmp_path / "run"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with pytest.raises(LoraError, match="not a directory of yours"):
        paths.private(theirs)
