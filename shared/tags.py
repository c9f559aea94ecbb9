"""Tags in a caption: found, compared, and moved about with their commas, all else as it stands.

A tag is what stands between commas and line breaks, the spaces around it left out. Two are the same
in either case and with any run of spaces as one, as the filters' ``tag:`` has it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator

Span = tuple[int, int]  # of a tag in its text, the spaces around it left out
_TAG = re.compile(r"[^\s,](?:[^,\r\n]*[^\s,])?")
BREAK = re.compile(r"[\r\n]")
_LOOKED_AT = 2000  # characters that tell what kind of caption it is
_APART = str.maketrans("_-()[]:/", "        ")
_SENTENCE = re.compile(r"""\w[.。！？]["'”’)]*$""")


def spans_of(text: str) -> list[Span]:
    """Where the tags of a caption are, in order."""
    return [found.span() for found in _TAG.finditer(text)]


def fold(tag: str) -> str:
    """What is the same for all spellings of a tag."""
    return " ".join(tag.split()).casefold()


def plain(tag: str) -> str:
    """A tag as it is looked for: its words, whatever stands between them."""
    return fold(tag.translate(_APART))


def is_list(text: str) -> bool | None:
    """Whether a caption reads as a list of tags, not as sentences; None where one cannot tell."""
    parts = [text[slice(*span)] for span in spans_of(text[:_LOOKED_AT])]
    number = sum(len(part.split()) for part in parts)
    if any(_SENTENCE.search(part) for part in parts) or number > 3 * len(parts):
        return False
    return True if len(parts) > 1 else None


def _found(text: str, tag: str) -> list[Span]:
    name = fold(tag)
    if name.partition(" ")[0] not in text.casefold():  # most captions, and soon seen
        return []
    return [span for span in spans_of(text) if fold(text[slice(*span)]) == name]


def _comma(text: str, spans: list[Span]) -> str:
    """What this caption has between two tags: ", " or, in some, ","."""
    for (_, end), (start, _) in itertools.pairwise(spans):
        between = text[end:start]
        if between.count(",") == 1 and not BREAK.search(between):
            return between
    return ", "


def add(text: str, tag: str, *, first: bool = False) -> str:
    """``tag`` behind the last or before the first, unless the caption has it."""
    spans = spans_of(text)
    if not spans:
        return tag
    if _found(text, tag):
        return text
    comma = _comma(text, spans)
    if first:
        start = spans[0][0]
        return f"{text[:start]}{tag}{comma}{text[start:]}"
    end = spans[-1][1]
    return f"{text[:end]}{comma}{tag}{text[end:]}"


def remove(text: str, tag: str) -> str:
    """No such tag any more."""
    return _without(text, _found(text, tag))


def rename(text: str, tag: str, to: str) -> str:
    """``to`` in the place of each ``tag``; none where the caption has ``to`` already."""
    found = _found(text, tag)
    if fold(tag) != fold(to) and _found(text, to):
        return _without(text, found)
    for start, end in reversed(found):
        text = text[:start] + to + text[end:]
    return text


def to_front(text: str, tag: str) -> str:
    """The first such tag before all others, spelt as it is."""
    spans, found = spans_of(text), _found(text, tag)
    if not found or found[0] == spans[0]:
        return text
    spelt, comma, first = text[slice(*found[0])], _comma(text, spans), spans[0][0]
    text = _without(text, found[:1])
    return f"{text[:first]}{spelt}{comma}{text[first:]}"


def sort(text: str, keep: int) -> str:
    """The tags of each line by the alphabet, but for the first ``keep``. Sentences stay."""
    for line in _lists(text):
        places = line[keep:]
        tags = sorted((text[slice(*place)] for place in places), key=fold)
        for (start, end), tag in reversed(list(zip(places, tags, strict=True))):
            text = text[:start] + tag + text[end:]
    return text


def dedupe(text: str) -> str:
    """Each tag once a line, where it comes first. Sentences stay."""
    for line in _lists(text):
        seen, again = set[str](), list[Span]()
        for span in line:
            name = fold(text[slice(*span)])
            if name in seen:
                again.append(span)
            seen.add(name)
        text = _without(text, again)
    return text


def _without(text: str, gone: list[Span]) -> str:
    """``text`` without some of its tags, each taken out with a comma (or line) of its own."""
    if not gone:
        return text
    spans, leaving = spans_of(text), set(gone)
    if len(leaving) == len(spans):
        return ""
    cuts, after = list[Span](), None  # ``after``: where the next tag that stays begins
    for place in range(len(spans) - 1, -1, -1):
        start, end = spans[place]
        if (start, end) not in leaving:
            after = start
            continue
        before = spans[place - 1][1] if place else None
        if before is not None and (after is None or not BREAK.search(text[before:start])):
            cuts.append((before, end))
        else:
            cuts.append((start, end if after is None else after))
    kept, at = list[str](), 0
    for start, end in reversed(cuts):
        kept.append(text[at:start])
        at = max(at, end)
    return "".join(kept) + text[at:]


def _lists(text: str) -> Iterator[list[Span]]:
    """The tags of each line that is a list of them and not a sentence, the last line first."""
    lines: list[list[Span]] = []
    end = -1
    for span in spans_of(text):
        if end < 0 or BREAK.search(text[end : span[0]]):
            lines.append([])
        lines[-1].append(span)
        end = span[1]
    for line in reversed(lines):
        if not _SENTENCE.search(text[slice(*line[-1])]):
            yield line


def swap(text: str, place: int, other: int) -> str:
    """The tags at two places have changed them; what is between tags stays."""
    spans = spans_of(text)
    (a, b), (c, d) = spans[min(place, other)], spans[max(place, other)]
    return text if a == c else f"{text[:a]}{text[c:d]}{text[b:c]}{text[a:b]}{text[d:]}"


def put(text: str, place: int, tag: str) -> str:
    """``tag`` in place of the one that is there."""
    start, end = spans_of(text)[place]
    return f"{text[:start]}{tag}{text[end:]}"


def without(text: str, places: Collection[int]) -> str:
    """No tags at these places any more."""
    spans = spans_of(text)
    return _without(text, [spans[place] for place in sorted(places)])
