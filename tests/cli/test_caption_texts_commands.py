"""``caption tags`` and ``caption candidates``."""

from __future__ import annotations

import pytest

from shared.errors import Exit
from tests.cli.command_line import CommandLine
from tests.daemon.process import pictures


@pytest.fixture(scope="module")
def folder(shared_cli: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the dataset ``tagged``."""
    made = pictures(tmp_path_factory.mktemp("pictures") / "tagged", 3)
    for number, text in enumerate(("red_hair, solo", "red_hair, 龍", "blue hair")):
        (made / f"{number:03}.txt").write_text(text)
    shared_cli.ok("dataset", "import", str(made))
    return str(made)


def test_tags_by_name_or_folder(shared_cli: CommandLine, folder: str) -> None:
    assert shared_cli.ok("caption", "tags", folder).splitlines() == [
        "CAPTIONS  TAG", "       2  red_hair", "       1  blue hair", "       1  solo",
        "       1  龍",
    ]  # fmt: skip
    found = shared_cli.data("caption", "tags", "tagged", "--like", "hair", "--limit", "1")
    assert found == {"tags": [{"tag": "red_hair", "count": 2}], "total": 4}
    status, error = shared_cli.refused("caption", "tags", "taged")
    assert status == Exit.NOT_FOUND and "Did you mean tagged" in error["message"]


def test_a_text_of_before_is_taken_again(shared_cli: CommandLine, folder: str) -> None:
    shared_cli.ok("caption", "set", "tagged", "001.png", "red hair, 龍, wings")
    lines = shared_cli.ok("caption", "candidates", "tagged", "001.png").splitlines()
    assert lines[0] == "red hair, 龍, wings"
    assert lines[2].split(maxsplit=2) == ["1", "file", "[-red hair-]{+red_hair+}, 龍[-, wings-]"]
    status, error = shared_cli.refused("caption", "candidates", "tagged", "001.png", "--take", "2")
    assert status == Exit.NOT_FOUND and "1 candidate" in error["message"]
    shared_cli.ok("caption", "candidates", "tagged", "001.png", "--take", "1")
    assert shared_cli.data("caption", "tags", "tagged")["tags"][0] == {
        "tag": "red_hair",
        "count": 2,
    }
