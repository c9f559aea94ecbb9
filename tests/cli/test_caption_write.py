"""``lora-tui caption DIR``: a bare folder gets captions from the built-in captioner."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lora_daemon import starter
from lora_tui.commands.caption import with_verb
from tests.cli.command_line import CommandLine


def test_a_bare_folder_is_filled_accepted_and_what_was_there_is_kept(
    cli: CommandLine, tmp_path: Path
) -> None:
    folder = tmp_path / "sketches"
    folder.mkdir()
    for sketch in sorted(starter.dataset_dir("pencil").glob("*.png"))[:4]:
        shutil.copy(sketch, folder)
    (folder / "pencil-002.txt").write_text("my own words\n")
    (folder / "torn.png").write_bytes(b"no picture")
    done = cli("caption", str(folder), "--model", "starter", "--accept")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("sketches: 3 captions written (accepted), 1 kept, 1 picture left out\n")
    assert "torn.png" in done.stderr
    assert (folder / "pencil-001.txt").read_text().startswith("a pencil drawing of ")
    assert (folder / "pencil-002.txt").read_text() == "my own words\n"
    listed = cli.data("caption", "list", "sketches", "--state", "accepted")["items"]
    assert {item["caption"]["source"] for item in listed} == {"captioner"}
    again = cli.data("caption", "--filter", "name:pencil-*", "sketches")
    assert (again["written"], again["kept"], again["problems"]) == (0, 4, [])
    assert cli.refused("caption", "nowhere")[0] == 3


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("caption pics", "caption write pics"),
        ("--home /h caption --json pics", "--home /h caption write --json pics"),
        ("caption --model list pics", "caption write --model list pics"),
        ("caption --filter list pics", "caption write --filter list pics"),
        ("caption --threshold list pics", "caption write --threshold list pics"),
        ("caption list pics", "caption list pics"),
        ("caption --json list pics", "caption --json list pics"),
        ("caption write list", "caption write list"),
        ("caption", "caption"),
        ("caption --help", "caption --help"),
        ("dataset caption", "dataset caption"),
        ("--as caption status", "--as caption status"),
    ],
)  # fmt: skip
def test_the_verb_write_need_not_be_said(said: str, meant: str) -> None:
    assert with_verb(said.split()) == meant.split()
