"""The filter language: ``tag:dragon AND NOT (state:accepted OR tokens:>75)``, read into a tree.

One grammar for clients and daemon: a client says at once what is wrong and where, the daemon turns
the tree into a query.

    filter  = any
    any     = all { "OR" all }
    all     = one { ["AND"] one }
    one     = "NOT" one | "(" any ")" | [ field ":" ] value
    value   = word | "quoted text" | /regular expression/
    numbers = N | =N | >N | >=N | <N | <=N | N..M | N.. | ..M   (of loss: also p90, a percentile)

In a word ``*`` stands for any characters and ``?`` for one; ``\\`` takes the next character as it
stands. Operators are in capitals, fields in any case.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NoReturn

from shared.errors import UsageError
from shared.health import DUPLICATES, ISSUES
from shared.wire import CAPTION_STATES

MOST_CHARACTERS = 2000
MOST_TERMS = 100
MOST_NESTED = 40


@dataclass(frozen=True)
class Field:
    """What can stand before a colon."""

    name: str
    kind: Literal["text", "number", "choice"]
    help: str
    example: str
    choices: tuple[str, ...] = ()


FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field("tag", "text", "a whole part of the caption between commas", "tag:dragon*"),
        Field("caption", "text", "the caption", 'caption:"a red car"'),
        Field("state", "choice", "what was decided", "state:flagged", CAPTION_STATES),
        Field("tokens", "number", "what the text encoder reads: at most 75", "tokens:>75"),
        Field("issue", "choice", "something to mend", "issue:no-caption", ISSUES),
        Field(
            "dup", "choice", "there again; copy, extra: all but the best", "dup:exact", DUPLICATES
        ),
        Field("name", "text", "the file's name", "name:*.png"),
        Field("path", "text", "folders and name below the dataset's folder", "path:night/"),
        Field("size", "number", "the shorter side in pixels", "size:<512"),
        Field("ratio", "number", "width to height, to two decimals", "ratio:1.5..2"),
        Field("loss", "number", "in the last run that saw it, or as percentile", "loss:>p90"),
        Field("edited-by", "text", "who changed text or state last", "edited-by:ana"),
    )
}


class Wild(Enum):
    """What a ``*`` and a ``?`` in a word stand for."""

    ANY = "*"
    ONE = "?"


@dataclass(frozen=True)
class Words:
    """A text as it stands, in either case."""

    text: str


@dataclass(frozen=True)
class Glob:
    """A text with gaps, in either case."""

    pieces: tuple[str | Wild, ...]


@dataclass(frozen=True)
class Regex:
    """A regular expression of Python's ``re``, searched for in either case."""

    pattern: str


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; None: no bound. An open end is not part of it.
    ``percentile``: both are of the field's percentile, from 0 to 100."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    percentile: bool = False


@dataclass(frozen=True)
class Term:
    """One condition. ``field`` "": the caption or the file's name."""

    field: str
    value: Words | Glob | Regex | Range


@dataclass(frozen=True)
class Not:
    part: Node


@dataclass(frozen=True)
class And:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Node, ...]


Node = Term | Not | And | Or


class FilterError(UsageError):
    """A filter that makes no sense. The mistake is ``text[start:end]``; both are in ``data``."""

    def __init__(self, message: str, start: int, end: int) -> None:
        super().__init__(message, data={"start": start, "end": end})
        self.start = start
        self.end = end


def parse(text: str) -> Node | None:
    """The tree of a filter; None for an empty one, which everything passes.

    Raises FilterError.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FilterError("This is no valid text.", error.start, error.end) from None
    if len(text) > MOST_CHARACTERS:
        message = f"A filter has at most {MOST_CHARACTERS} characters; this has {len(text)}."
        raise FilterError(message, MOST_CHARACTERS, len(text))
    return _Parser(text).parse()


def terms(node: Node | None) -> Iterable[Term]:
    """Every condition in a tree."""
    match node:
        case Term():
            yield node
        case Not(part):
            yield from terms(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from terms(part)


_FIELD = re.compile(r"([A-Za-z][\w-]*):")
_OPERATOR = re.compile(r"(AND|OR|NOT)(?=[\s()]|$)")
_NUMBER = re.compile(r"\d+(\.\d+)?|\.\d+")
_ENDS = " \t\r\n()"


class _Parser:
    """Recursive descent over ``text``; ``at`` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.terms = 0

    def parse(self) -> Node | None:
        self._space()
        if self.at == len(self.text):
            return None
        node = self._any()
        if self.at < len(self.text):  # only a ")" ends an expression early
            self._wrong("This ) closes nothing.", self.at, self.at + 1)
        return node

    def _any(self) -> Node:
        parts = [self._all()]
        while self._operator("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Node:
        parts = [self._one()]
        while True:
            joined = self._operator("AND")
            at_end = self.at == len(self.text) or self.text[self.at] == ")"
            if not joined and (at_end or self._peek() == "OR"):
                return parts[0] if len(parts) == 1 else And(tuple(parts))
            parts.append(self._one())

    def _one(self) -> Node:
        start = self.at
        if self._operator("NOT"):
            return Not(self._nested(self._one, start))
        operator = self._peek()
        if operator or start == len(self.text) or self.text[start] == ")":
            what = f"before this {operator or ')'}" if start < len(self.text) else "at the end"
            self._wrong(f"A condition is missing {what}.", start, start + max(len(operator), 1))
        if self.text[start] == "(":
            self.at += 1
            self._space()
            node = self._nested(self._any, start)
            if self.at == len(self.text):
                self._wrong("This ( is never closed.", start, start + 1)
            self.at += 1
            self._space()
            return node
        return self._term()

    def _nested(self, inside: Callable[[], Node], start: int) -> Node:
        self.depth += 1
        if self.depth > MOST_NESTED:
            self._wrong(f"Nested deeper than {MOST_NESTED} levels.", start, start + 1)
        node = inside()
        self.depth -= 1
        return node

    def _term(self) -> Term:
        start = self.at
        self.terms += 1
        if self.terms > MOST_TERMS:
            self._wrong(f"A filter has at most {MOST_TERMS} conditions.", start, len(self.text))
        name = ""
        if found := _FIELD.match(self.text, start):
            name = found[1].lower()
            if name not in FIELDS:
                self._no_field(found[1], start)
            self.at = found.end()
        value_at = self.at
        if value_at == len(self.text) or self.text[value_at] in _ENDS:
            example = FIELDS[name].example
            self._wrong(f"{name}: needs a value right after it: {example}.", start, value_at)
        value = self._value()
        if name == "tag" and not isinstance(value, Regex) and "," in self.text[value_at : self.at]:
            message = "Commas are between tags, never in one: write tag:a AND tag:b."
            self._wrong(message, value_at, self.at)
        field = FIELDS.get(name)
        if field is None or field.kind == "text":
            term = Term(name, value)
        elif field.kind == "number":
            term = Term(name, self._range(field, value, value_at))
        else:
            term = Term(name, self._choice(field, value, value_at))
        self._space()
        return term

    # ── values ──────────────────────────────────────────────────────────────────────────────────

    def _value(self) -> Words | Glob | Regex:
        first = self.text[self.at]
        if first == '"':
            return self._quoted()
        if first == "/":
            return self._regex()
        return self._word()

    def _quoted(self) -> Words:
        start, found = self.at, list[str]()
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] != '"':
            self.at += self.text[self.at] == "\\" and self.at + 1 < len(self.text)
            found.append(self.text[self.at])
            self.at += 1
        if self.at == len(self.text):
            self._wrong('This " is never closed.', start, start + 1)
        self.at += 1
        text = "".join(found)
        if not text.strip():
            self._wrong("There is nothing in these quotes. issue:no-caption finds empty captions.",
                        start, self.at)  # fmt: skip
        self._ended('a text that has a " in it is written "\\""')
        return Words(text)

    def _regex(self) -> Regex:
        start = self.at
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] != "/":
            self.at += 2 if self.text[self.at] == "\\" else 1
        if self.at >= len(self.text):
            self.at = len(self.text)
            self._wrong(
                "This regular expression has no closing /. A text that begins with / goes in "
                "quotes.", start, start + 1,
            )  # fmt: skip
        pattern = self.text[start + 1 : self.at].replace("\\/", "/")
        self.at += 1
        if not pattern:
            self._wrong("This regular expression is empty.", start, self.at)
        try:
            re.compile(pattern)
        except (re.error, ValueError, OverflowError, RecursionError) as error:
            at = start + 1 + (getattr(error, "pos", None) or 0)
            message = f"This regular expression makes no sense: {getattr(error, 'msg', error)}."
            self._wrong(message, min(at, self.at - 1), self.at - 1)
        self._ended("a / inside is written \\/")
        return Regex(pattern)

    def _word(self) -> Words | Glob:
        pieces: list[str | Wild] = []
        while self.at < len(self.text) and self.text[self.at] not in _ENDS:
            piece: str | Wild = self.text[self.at]
            if piece == "\\" and self.at + 1 < len(self.text):
                self.at += 1
                piece = self.text[self.at]
            elif piece in ("*", "?"):
                piece = Wild(piece)
            if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                pieces[-1] += piece
            elif piece is not Wild.ANY or pieces[-1:] != [Wild.ANY]:
                pieces.append(piece)
            self.at += 1
        if len(pieces) == 1 and isinstance(pieces[0], str):
            return Words(pieces[0])
        return Glob(tuple(pieces))

    def _ended(self, hint: str) -> None:
        if self.at < len(self.text) and self.text[self.at] not in _ENDS:
            self._wrong(f"A space is missing here; {hint}.", self.at, self.at + 1)

    def _range(self, field: Field, value: Words | Glob | Regex, start: int) -> Range:
        if isinstance(value, Words):
            text = value.text
            percentile = field.name == "loss" and "p" in text
            if percentile:  # of either bound, so of both
                text = re.sub(r"\bp(?=[\d.])", "", text)
            low, dots, high = text.partition("..")
            if dots and (low or high):
                one = self._number(field, low, start) if low else None
                two = self._number(field, high, start) if high else None
                if one is not None and two is not None and one > two:
                    self._wrong("This range ends before it begins.", start, self.at)
                return Range(one, two, percentile=percentile)
            sign = next((s for s in (">=", "<=", ">", "<", "=") if text.startswith(s)), "")
            number = self._number(field, text[len(sign) :], start)
            low_open, high_open = sign == ">", sign == "<"
            return Range(
                None if "<" in sign else number, None if ">" in sign else number,
                low_open, high_open, percentile,
            )  # fmt: skip
        self._no_number(field, start)

    def _number(self, field: Field, text: str, start: int) -> float:
        wide, colon, high = text.partition(":")
        if field.name == "ratio" and colon and _NUMBER.fullmatch(wide) and _NUMBER.fullmatch(high):
            if float(high):
                return round(float(wide) / float(high), 2)
        elif _NUMBER.fullmatch(text) and len(text) < 16:
            return float(text)
        self._no_number(field, start)

    def _no_number(self, field: Field, start: int) -> NoReturn:
        self._wrong(f"{field.name}: takes a number or a range, such as {field.example}, "
                    f"{field.name}:1..2 or {field.name}:>=1.", start, self.at)  # fmt: skip

    def _choice(self, field: Field, value: Words | Glob | Regex, start: int) -> Words:
        if isinstance(value, Words) and value.text.lower() in field.choices:
            return Words(value.text.lower())
        given = self.text[start : self.at]
        close = difflib.get_close_matches(given.lower(), field.choices, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        among = f"{', '.join(field.choices[:-1])} or {field.choices[-1]}"
        self._wrong(f"{field.name}: is {among}, not {given}.{hint}", start, self.at)

    # ── the text ────────────────────────────────────────────────────────────────────────────────

    def _space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def _peek(self) -> str:
        found = _OPERATOR.match(self.text, self.at)
        return found[1] if found else ""

    def _operator(self, wanted: str) -> bool:
        if self._peek() != wanted:
            return False
        self.at += len(wanted)
        self._space()
        return True

    def _no_field(self, name: str, start: int) -> NoReturn:
        close = difflib.get_close_matches(name.lower(), FIELDS, n=1)
        hint = f"Did you mean {close[0]}:?" if close else f"There is {', '.join(FIELDS)}."
        message = f"There is no field {name}. {hint} A text with a colon in it goes in quotes."
        self._wrong(message, start, start + len(name))

    def _wrong(self, message: str, start: int, end: int) -> NoReturn:
        raise FilterError(message, start, end)
