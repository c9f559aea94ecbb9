"""A caption as a row of tags: one has the cursor, some may be off; the text between them stays."""

from __future__ import annotations

from shared import tags


class ChipRow:
    """``text`` and what is being done to its tags. An empty caption has no tag to be at."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.cursor = max(len(tags.spans_of(text)) - 1, 0)
        self.off: frozenset[int] = frozenset()  # places of tags that go when this is left

    @property
    def tags(self) -> list[str]:
        return [self.text[start:end] for start, end in tags.spans_of(self.text)]

    @property
    def current(self) -> str:
        """The tag under the cursor; empty if there is none."""
        found = self.tags
        return found[self.cursor] if found else ""

    @property
    def result(self) -> str:
        """The caption without the tags that are off."""
        return tags.without(self.text, self.off)

    def go(self, place: int) -> None:
        """The cursor to a place, or as near as there is one."""
        self.cursor = min(max(place, 0), max(len(self.tags) - 1, 0))

    def shift(self, by: int) -> None:
        """The tag under the cursor changes places with a neighbour, and takes the cursor along."""
        here, there = self.cursor, self.cursor + by
        if 0 <= there < len(self.tags):
            self.text = tags.swap(self.text, here, there)
            moved = {here: there, there: here}
            self.off = frozenset(moved.get(place, place) for place in self.off)
            self.cursor = there

    def toggle(self) -> None:
        """The tag under the cursor off, or on again."""
        if self.tags:
            self.off ^= {self.cursor}

    def remove(self) -> None:
        """The tag under the cursor is gone at once."""
        if self.tags:
            self.text = tags.without(self.text, {self.cursor})
            self.off = frozenset(p - (p > self.cursor) for p in self.off if p != self.cursor)
            self.go(self.cursor)

    def put(self, tag: str) -> None:
        """Another tag under the cursor, or several with commas between; nothing: it goes."""
        tag = _one_line(tag)
        if not tag:
            self.remove()
        elif self.tags:
            before = len(self.tags)
            self.text = tags.put(self.text, self.cursor, tag)
            more = len(self.tags) - before
            self.off = frozenset(p + more * (p > self.cursor) for p in self.off - {self.cursor})
            self.go(self.cursor + more)

    def add(self, tag: str) -> None:
        """A tag behind the last; where the caption has it already, the cursor goes there."""
        for one in _one_line(tag).split(","):
            if one := one.strip():
                self.text = tags.add(self.text, one)
                known = [tags.fold(other) for other in self.tags]
                self.cursor = known.index(tags.fold(one))
                self.off -= {self.cursor}


def _one_line(tag: str) -> str:
    return " ".join(tag.split()).strip(" ,")
