"""A dataset's health on the command line: a folder, straight to what is wrong with it."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from tests.cli.command_line import CommandLine
from tests.daemon.process import pictures


def test_a_folder_is_checked_and_the_printed_commands_mend_it(
    shared_cli: CommandLine, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "wyverns", 3)
    shutil.copy(folder / "000.png", folder / "copy.png")
    (folder / "copy.txt").write_text("sks, picture 0")
    said = shared_cli.ok("dataset", "health", str(folder), "--trigger", "sks")
    assert "2 pictures: exact duplicates\n" in said and "000.png = copy.png" in said
    assert "3 pictures: trigger word missing\n" in said and "What the set is good for" in said
    for line in said.splitlines():
        if line.startswith("    fix  ") and ("dup:copy" in line or "--trigger" in line):
            shared_cli.ok(*shlex.split(line)[2:])
    known = shared_cli.data("dataset", "health", "wyverns", "--known")["health"]
    counts = {one["kind"]: one["count"] for one in known["findings"]}
    assert known["trigger"] == "sks" and not counts["copies"] and not counts["no-trigger"]
    found = shared_cli.data("caption", "list", "wyverns", "--filter", "issue:small")["items"]
    assert len(found) == 4 and counts["small"] == 3  # the copy is left out
