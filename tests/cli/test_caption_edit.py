"""Edits of many captions on the command line."""

from __future__ import annotations

import pytest

from shared.errors import Exit
from tests.cli.command_line import CommandLine
from tests.daemon.process import pictures


@pytest.fixture(scope="module")
def dragons(shared_cli: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of four pictures, "picture 0" to "picture 3"."""
    folder = pictures(tmp_path_factory.mktemp("pictures") / "dragons", 4)
    return str(shared_cli.data("dataset", "import", str(folder))["dataset"]["name"])


def texts(cli: CommandLine, dataset: str) -> list[str]:
    return [i["caption"]["text"] for i in cli.data("caption", "list", dataset)["items"]]


def test_a_dry_run_prints_every_difference_and_the_run_makes_them(
    shared_cli: CommandLine, dragons: str
) -> None:
    before = texts(shared_cli, dragons)
    edit = ("caption", "edit", dragons, "--filter", "name:*0.png OR name:*2.png",
            "--add-tag", "red_dragon", "--underscores", "--state", "flagged")  # fmt: skip
    assert shared_cli.ok(*edit, "--dry-run").splitlines() == [
        "000.png (unreviewed → flagged)",
        "- picture 0",
        "+ picture 0, red dragon",
        "002.png (unreviewed → flagged)",
        "- picture 2",
        "+ picture 2, red dragon",
        "add tag “red_dragon”, _ to space, set flagged: 2 captions would change.",
    ]
    dry = shared_cli.data(*edit, "--dry-run")
    assert (dry["changed"], len(dry["differences"])) == (2, 2)
    assert texts(shared_cli, dragons) == before
    done = shared_cli.data(*edit)
    assert (done["changed"], done["conflicts"]) == (2, 0)
    assert texts(shared_cli, dragons)[2] == "picture 2, red dragon"
    assert "2 captions" in shared_cli.ok("caption", "undo", dragons)
    assert texts(shared_cli, dragons) == before
    assert shared_cli.data("caption", "redo", dragons)["changed"] == 2
    shared_cli.ok("caption", "undo", dragons)
    assert "nothing to change" in shared_cli.ok("caption", "edit", dragons, "--first-tag", "no")


def test_a_regex_and_named_pictures(shared_cli: CommandLine, dragons: str) -> None:
    edit = ("caption", "edit", dragons, "001.png", "--replace", r"PICTURE (\d)", r"no. \1",
            "--regex", "--ignore-case")  # fmt: skip
    assert shared_cli.data(*edit)["changed"] == 1
    assert texts(shared_cli, dragons)[1] == "no. 1"
    shared_cli.ok("caption", "undo", dragons)


def test_a_state_for_many_is_one_change(shared_cli: CommandLine, dragons: str) -> None:
    accept = ("caption", "accept", dragons, "--filter", "state:unreviewed")
    items = shared_cli.data(*accept)["items"]
    assert [item["caption"]["state"] for item in items] == ["accepted"] * 4
    assert shared_cli.data("caption", "undo", dragons)["changed"] == 4
    items = shared_cli.data("caption", "list", dragons, "--state", "unreviewed")["items"]
    assert len(items) == 4


def test_what_others_changed_stays_and_is_a_conflict(shared_cli: CommandLine, dragons: str) -> None:
    shared_cli.ok("caption", "edit", dragons, "--prefix", "x ")
    shared_cli.ok("caption", "set", dragons, "003.png", "anna's", "--as", "anna")
    done = shared_cli("caption", "undo", dragons)
    assert done.returncode == Exit.CONFLICT
    assert "taken back: prefix “x ” (3 captions)" in done.stdout
    assert "003.png was changed by anna and stays: anna's" in done.stderr
    assert "it would have become: picture 3" in done.stderr
    assert texts(shared_cli, dragons)[2:] == ["picture 2", "anna's"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--add-tag", "a,b"), "more than one tag"),
        (("--regex", "--sort-tags"), "for --replace"),
        (("--add-tag", "x", "--filter", "tga:x"), "Did you mean tag:?"),
    ],
)
def test_edits_that_make_no_sense_are_wrong_usage(
    shared_cli: CommandLine, dragons: str, options: tuple[str, ...], said: str
) -> None:
    code, error = shared_cli.refused("caption", "edit", dragons, *options)
    assert code == Exit.USAGE and said in error["message"]
