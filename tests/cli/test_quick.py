"""A folder becomes a LoRA by one command, every step once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lora_daemon import starter
from shared.errors import Exit
from tests.cli.command_line import CommandLine

DRAWN = Path(starter.__file__).parent / "datasets" / "creatures"
SHORT = (
    "--base", "starter", "--trigger", "zrx", "--set", "training.max_steps=12",
    "--set", "save.every_steps=6", "--set", "training.batch_size=1", "--set", "sample.steps=2",
    "--set", "schedule.warmup_steps=0",
)  # fmt: skip


def test_quick_says_what_it_lacks(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, error = cli.refused("quick", str(tmp_path / "empty"), "--here")
    assert code == Exit.FAILED and "--base NAME" in error["message"]
    code, error = cli.refused("quick", str(tmp_path), "--base", "starter", "--endpoint", "ipc:///x")
    assert "where the daemon and the pictures are" in error["message"]
    code, error = cli.refused("quick", str(tmp_path / "empty"), "--base", "nowhere", "--here")
    assert code == Exit.NOT_FOUND and "'nowhere'. There is starter, " in error["message"]
    code, error = cli.refused("quick", str(tmp_path / "empty"), "--base", "starter", "--here")
    assert code == Exit.INVALID and "no pictures" in error["message"]


def test_each_call_has_a_log_of_its_own(cli: CommandLine, tmp_path: Path) -> None:
    said = [cli("quick", str(tmp_path), "--base", "nowhere") for _ in range(2)]
    logs = {re.search(r"Its log: (\S+)", one.stderr)[1] for one in said}  # type: ignore[index]
    assert len(logs) == 2
    assert all(Path(log).read_text().count("nowhere") == 1 for log in logs)


def test_quick_says_what_cannot_be_set_before_it_writes_a_caption(
    cli: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(min(DRAWN.glob("*.png")), tmp_path / "one" / "a.png")
    ask = ("quick", str(tmp_path / "one"), "--base", "starter", "--trigger", "zrx", "--here")
    done = cli(*ask, "--captioner", "none", "--set", "network.rnk=3")
    assert done.returncode == Exit.INVALID and "Did you mean network.rank?" in done.stderr
    assert not list((tmp_path / "one").glob("*.txt"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_quick_goes_from_a_folder_to_a_recommended_lora_once(
    cli: CommandLine, tmp_path: Path
) -> None:
    folder = tmp_path / "beasts"
    folder.mkdir()
    for picture in sorted(DRAWN.glob("*.png"))[:14]:
        shutil.copy(picture, folder)  # without its caption: the starter's captioner writes one
    first = cli.data("quick", str(folder), *SHORT)
    assert Path(first["lora"]).is_file() and "step" in first["why"]
    assert Image.open(first["sheet"]).width > 5 * 128
    captions = [file.read_text() for file in folder.glob("*.txt")]
    assert len(captions) == 14 and all(text.startswith("zrx, ") for text in captions)
    runs = cli.data("run", "list")["runs"]
    assert [run["id"] for run in runs] == [first["run"]]
    assert cli.data("quick", str(folder), *SHORT) == first
    assert cli.data("run", "list")["runs"] == runs
