"""The tag that is being typed, and which suggestions still go with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shared.tags import fold, plain
from shared.wire import TagCount

LONGEST = 60  # characters; what is longer is no tag


def typed(line: str, column: int) -> str:
    """What stands between the last comma and the cursor; empty where no tag is being typed: within
    a word, or in a sentence too long for one."""
    if line[column : column + 1].strip(" \t,"):
        return ""
    text = line[:column].rpartition(",")[2].lstrip()
    return text if len(text) <= LONGEST else ""


def still(tags: Sequence[TagCount], text: str) -> list[TagCount]:
    """Those suggestions that go with ``text`` after another letter."""
    wanted = plain(text)
    if not wanted:
        return []
    found = [(tag, plain(tag.tag)) for tag in tags]
    return [tag for tag, name in found if name.startswith(wanted) or f" {wanted}" in name]


def news(tags: Sequence[TagCount], text: str, present: Collection[str]) -> list[TagCount]:
    """Without what is typed in full already, and without tags the caption has (``present``)."""
    known = {fold(tag) for tag in present} | {fold(text)}
    return [tag for tag in tags if fold(tag.tag) not in known]
