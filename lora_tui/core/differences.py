"""What is different between two texts, word by word, for people to see."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Literal

from lora_tui.core.cells import clean

Piece = tuple[Literal["same", "gone", "new"], str]
MOST = 600  # words compared one by one, once the beginnings and ends that are the same are off
_WORD = re.compile(r"\w+|\s+|.", re.DOTALL)


def pieces(old: str, new: str) -> list[Piece]:
    """Both texts in pieces: "same" and "gone" make up the old one, "same" and "new" the new."""
    one, two = _WORD.findall(old), _WORD.findall(new)
    first, most = 0, min(len(one), len(two))
    while first < most and one[first] == two[first]:
        first += 1
    last = 0
    while last < most - first and one[-1 - last] == two[-1 - last]:
        last += 1
    found: list[Piece] = [("same", "".join(one[:first]))]
    found += _between(one[first : len(one) - last], two[first : len(two) - last])
    found.append(("same", "".join(one[len(one) - last :])))
    return [piece for piece in found if piece[1]]


def _between(one: list[str], two: list[str]) -> Iterator[Piece]:
    if max(len(one), len(two)) > MOST:
        yield "gone", "".join(one)
        yield "new", "".join(two)
        return
    matcher = difflib.SequenceMatcher(a=one, b=two, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            yield "same", "".join(one[a:b])
        else:
            yield "gone", "".join(one[a:b])
            yield "new", "".join(two[c:d])


def in_one_line(old: str, new: str, before: int = 12) -> str:
    """Both in one line, from a little before the first difference: ``…a [-red-]{+blue+} dragon``.

    Plain text: it says the same without colours.
    """
    shown = []
    for number, (kind, text) in enumerate(pieces(old, new)):
        if kind == "gone":
            shown.append(f"[-{clean(text)}-]")
        elif kind == "new":
            shown.append(f"{{+{clean(text)}+}}")
        elif not number and len(text) > before:
            shown.append(f"…{clean(text[-before:]).lstrip()}")
        else:
            shown.append(clean(text))
    return "".join(shown)
