"""How much each word of a prompt counts, in the notation of the WebUI family.

``(word)`` counts 1.1 times as much, ``((word))`` 1.21 times, ``[word]`` 1/1.1, ``(word:1.3)`` 1.3
times. A backslash makes a bracket an ordinary one. ``BREAK``, a word of its own, begins the next
chunk of 75 tokens. A bracket that is never closed counts to the end; one that was never opened is
an ordinary one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

STEP = 1.1  # of one pair of brackets
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_WEIGHT = re.compile(r":\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*\)")
_SPECIAL = "()[]\\"


class Part(msgspec.Struct, frozen=True):
    """Words that count alike. ``weight``: the factor on their rows of the text's encoding."""

    text: str
    weight: float = 1.0


def read(prompt: str) -> list[list[Part]]:
    """A prompt's parts, in the sections that ``BREAK`` makes of it; there is at least one."""
    sections: list[list[Part]] = [[]]
    for part in _parts(prompt):
        first, *others = _BREAK.split(part.text)
        sections[-1].append(Part(first, part.weight))
        sections += [[Part(text, part.weight)] for text in others]
    return [[part for part in section if part.text] for section in sections]


def plain(prompt: str) -> bool:
    """Whether every word counts alike, and nothing in it is a notation."""
    return read(prompt) == [[Part(prompt)] if prompt else []]


def naming(names: Iterable[str]) -> re.Pattern[str]:
    """Finds any of the names as a whole word, however it is written; the longest counts."""
    longest = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest))})(?![\w-])", re.IGNORECASE)


def _parts(prompt: str) -> list[Part]:
    """The parts in order, neighbours of one weight joined."""
    letters: list[str] = []
    weights: list[float] = []
    opened: list[tuple[str, int]] = []  # a bracket, and where in ``letters`` it stood
    at = 0

    def close(bracket: str, factor: float) -> bool:
        """Take back the last bracket of this kind; whether there was one."""
        place = next((n for n in reversed(range(len(opened))) if opened[n][0] == bracket), None)
        if place is None:
            return False
        _, since = opened.pop(place)
        weights[since:] = [weight * factor for weight in weights[since:]]
        return True

    while at < len(prompt):
        letter = prompt[at]
        closing = _WEIGHT.match(prompt, at)
        at += 1
        if letter == "\\" and at < len(prompt) and prompt[at] in _SPECIAL:
            letter = prompt[at]
            at += 1
        elif letter in "([":
            opened.append((letter, len(letters)))
            continue
        elif closing and close("(", float(closing[1])):
            at = closing.end()
            continue
        elif (letter == ")" and close("(", STEP)) or (letter == "]" and close("[", 1 / STEP)):
            continue
        letters.append(letter)
        weights.append(1.0)
    for bracket, _ in list(opened):
        close(bracket, STEP if bracket == "(" else 1 / STEP)
    return _joined(letters, weights)


def _joined(letters: list[str], weights: list[float]) -> list[Part]:
    parts: list[Part] = []
    begin = 0
    for end in range(1, len(letters) + 1):
        if end == len(letters) or weights[end] != weights[begin]:
            parts.append(Part("".join(letters[begin:end]), weights[begin]))
            begin = end
    return parts
