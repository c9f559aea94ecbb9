"""Candidates for a caption: whose they are, and what of one is taken."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lora_tui.core.differences import pieces
from shared.wire import Candidate


def whose(candidate: Candidate) -> str:
    """blip; where no captioner is known, what or who the text is from."""
    if candidate.model:
        return candidate.model.rstrip("/").rpartition("/")[2]
    return {"file": "file", "captioner": "captioner"}.get(candidate.source, candidate.by)


@dataclass(frozen=True)
class Part:
    """A stretch of two texts: the same in both, or ``old`` in the one and ``new`` in the other."""

    old: str
    new: str

    @property
    def same(self) -> bool:
        return self.old == self.new


def parts(old: str, new: str) -> list[Part]:
    """Both texts in stretches: the ``old`` of all make up the one, the ``new`` the other.

    A space between two stretches that differ goes with them: half of what belongs together is
    seldom wanted.
    """
    found: list[Part] = []
    for kind, text in pieces(old, new):
        if kind == "same":
            found.append(Part(text, text))
        else:
            part = Part(text, "") if kind == "gone" else Part("", text)
            if found and not found[-1].same:
                part = Part(found[-1].old + part.old, found.pop().new + part.new)
            elif len(found) > 1 and found[-1].old.isspace():
                between, before = found.pop(), found.pop()
                part = Part(
                    before.old + between.old + part.old, before.new + between.new + part.new
                )
            found.append(part)
    return found


def taken(parts: Sequence[Part], places: Collection[int]) -> str:
    """The old text with the new one's words at these places of ``parts``."""
    return "".join(part.new if n in places else part.old for n, part in enumerate(parts))
