"""One workspace with a running daemon for all the tests of a module, and fresh ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine
from tests.daemon.process import DaemonProcess


@pytest.fixture(scope="module")
def shared_cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A workspace that the tests of a module share, its daemon ended after them."""
    home = tmp_path_factory.mktemp("shared") / "home"
    yield CommandLine(home)
    DaemonProcess(home).end()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """A workspace of the test's own, not yet made."""
    home = tmp_path / "home"
    yield CommandLine(home)
    DaemonProcess(home).end()
