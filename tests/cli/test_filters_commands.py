"""Filters on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import Exit
from tests.cli.command_line import CommandLine
from tests.daemon.process import pictures


@pytest.fixture(scope="module")
def dragons(shared_cli: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of four pictures, "picture 0" to "picture 3"."""
    folder = pictures(tmp_path_factory.mktemp("pictures") / "dragons", 4)
    (folder / "002.txt").write_text("red dragon, " * 50)
    return str(shared_cli.data("dataset", "import", str(folder))["dataset"]["name"])


def listed(cli: CommandLine, dataset: str, *options: str) -> list[str]:
    items = cli.data("caption", "list", dataset, *options)["items"]
    return [item["name"] for item in items]


def test_a_filter_chooses(shared_cli: CommandLine, dragons: str) -> None:
    assert listed(shared_cli, dragons, "--filter", "tag:picture* NOT name:003*") == [
        "000.png", "001.png",
    ]  # fmt: skip
    assert listed(shared_cli, dragons, "--filter", "tokens:>75") == ["002.png"]
    assert listed(shared_cli, dragons, "--filter", "caption:/[01]$/", "--state", "accepted") == []
    longest = listed(shared_cli, dragons, "--sort", "tokens", "--descending")
    assert longest == ["002.png", "000.png", "001.png", "003.png"]


def test_a_dry_run_changes_nothing_and_the_run_does(shared_cli: CommandLine, dragons: str) -> None:
    flag = ("caption", "flag", dragons, "--filter", "tag:picture?1 OR tag:dragon OR dragon")
    dry = shared_cli.data(*flag, "--dry-run")["items"]
    assert [item["name"] for item in dry] == ["001.png", "002.png"]
    assert listed(shared_cli, dragons, "--filter", "state:flagged") == []
    shared_cli.ok(*flag)
    assert listed(shared_cli, dragons, "--filter", "state:flagged") == ["001.png", "002.png"]
    both = ("caption", "flag", dragons, "000.png", "--filter", "dragon")
    assert shared_cli.refused(*both)[0] == Exit.FAILED


def test_a_saved_filter_is_used_by_its_name(shared_cli: CommandLine, dragons: str) -> None:
    shared_cli.ok("filter", "save", "to do", "name:*0.png OR name:*3.png")
    assert listed(shared_cli, dragons, "--filter", "@to do") == ["000.png", "003.png"]
    assert "name:*0.png" in shared_cli.ok("filter", "list")
    code, error = shared_cli.refused("caption", "list", dragons, "--filter", "@todo")
    assert code == Exit.NOT_FOUND and "Did you mean to do?" in error["message"]
    assert shared_cli.data("filter", "delete", "to do")["deleted"] == ["to do"]
    assert shared_cli.data("filter", "list")["filters"] == []


def test_a_mistake_is_pointed_at(shared_cli: CommandLine, dragons: str) -> None:
    done = shared_cli("caption", "list", dragons, "--filter", "龍 tga:x")
    assert done.returncode == Exit.USAGE and done.stdout == ""
    assert done.stderr.splitlines()[:2] == ["  龍 tga:x", "     ^^^"]
    assert "Did you mean tag:?" in done.stderr
    code, error = shared_cli.refused("filter", "save", "x", "(a")
    assert code == Exit.USAGE and error["data"] == {"start": 0, "end": 1}


def test_the_fields_are_told_without_a_daemon(tmp_path: Path) -> None:
    told = CommandLine(tmp_path / "home").ok("filter", "fields")
    assert "tokens:>75" in told and "unusable" in told
    assert not (tmp_path / "home").exists()
