"""The pages that a user reads: their links lead somewhere, and their commands are ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lora_tui.cli import parser
from lora_tui.commands import caption

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    pytest.param(line, id=f"{page.stem}: {line}")
    for page in PAGES
    for block in re.findall(r"```(?:ba)?sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("lora-tui ")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        file, _, place = target.partition("#")
        if not target.startswith("http"):
            found = (page.parent / file).resolve() if file else page
            assert found.exists(), target
            assert not place or place in _places(found), target


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line: str) -> None:
    words = shlex.split(line, comments=True)
    ends = [words.index(one) for one in ("|", "&&", ">") if one in words]
    parser().parse_args(caption.with_verb(words[1 : min(ends, default=None)]))


def _places(page: Path) -> set[str]:
    """Where a link may lead within a page: its headings, as GitHub names them."""
    heads = re.findall(r"(?m)^#+ (.*)$", page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
