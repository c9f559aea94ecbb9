"""A filter's tree as SQL over ``items``: plain SQL wherever SQLite can say it, else ``matches``.

``matches(pattern, text)`` and ``matches_tag(pattern, tags)`` are functions of the process that runs
regular expressions (regex_search.py); a query without them runs on any connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_daemon.issues import HOLLOW, duplicate, issue
from shared.filters import And, Glob, Node, Not, Or, Range, Regex, Term, Wild, Words
from shared.wire import CAPTION_STATES, Sort, SortBy

# A path's last part: what rtrim leaves is the folder, taken away.
_FILE = "replace(name, rtrim(name, replace(name, '/', '')), '')"
_COLUMNS = {"caption": "text", "name": _FILE, "path": "name", "edited-by": "by"}
_NUMBERS = {
    "tokens": "tokens",
    "size": "nullif(min(width, height), 0)",
    "ratio": "round(width * 1.0 / nullif(height, 0), 2)",
    "loss": "(SELECT loss FROM losses WHERE losses.item = items.id)",
}
_ROUGHLY = {"ratio": ("width * 1.0 / nullif(height, 0)", 0.01)}  # round() is slow: first without
_PERCENTILES = {"loss": "(SELECT percentile FROM losses WHERE losses.item = items.id)"}
_STATE = " ".join(f"WHEN '{state}' THEN {n}" for n, state in enumerate(CAPTION_STATES))
_ORDERS: dict[SortBy, str] = {
    "path": "name",
    "name": _FILE,
    "state": f"CASE state {_STATE} END",
    "changed": "at",
    **_NUMBERS,  # type: ignore[dict-item]
}
_Pieces = Sequence[str | Wild]
Value = str | float | bytes


@dataclass(frozen=True)
class Query:
    """A condition on rows of ``items`` and the values of its question marks. ``?1``, which comes
    before them, is the dataset's id."""

    where: str
    values: tuple[Value, ...]

    @property
    def regex(self) -> bool:
        """Whether it calls ``matches`` or ``matches_tag``."""
        return "matches" in self.where


def order(sort: Sort | None) -> str:
    """What stands behind ORDER BY."""
    if sort is None or (sort.by == "path" and not sort.descending):
        return "name"
    value = _ORDERS[sort.by]
    return f"{value} {'DESC' if sort.descending else 'ASC'} NULLS LAST, name"


def query(node: Node, marks: Mapping[str, bytes]) -> Query:
    """The condition that ``node`` is. ``marks``: rows by name, as caption_facts.marked has
    them, for what issues.LISTED names."""
    values: list[Value] = []
    return Query("".join(_sql(node, marks, values)), tuple(values))


def _sql(node: Node, marks: Mapping[str, bytes], values: list[Value]) -> Iterator[str]:
    match node:
        case Not(part):
            yield "("
            yield from _sql(part, marks, values)
            yield ") IS NOT TRUE"  # what is unknown is not so; "NOT coalesce" weighs every part
        case And(parts) | Or(parts):
            for number, part in enumerate(parts):
                yield ("(", " AND " if isinstance(node, And) else " OR ")[number > 0]
                yield from _sql(part, marks, values)
            yield ")"
        case Term():
            yield _term(node, marks, values)


def _term(term: Term, marks: Mapping[str, bytes], values: list[Value]) -> str:
    field, value = term.field, term.value
    if isinstance(value, Range):
        columns = _PERCENTILES if value.percentile else _NUMBERS
        rough = [_range(*_ROUGHLY[field], value, values)] if field in _ROUGHLY else []
        return " AND ".join([*rough, _range(columns[field], 0, value, values)])
    if field == "state":
        assert isinstance(value, Words)
        values.append(value.text)
        return "+state = ?"  # in the order of the names' index, not of the states'
    if field == "issue":
        assert isinstance(value, Words)
        return issue(value.text, marks, values)
    if field == "dup":
        assert isinstance(value, Words)
        return duplicate(value.text)
    if field == "tag":
        return _tag(value, values)
    if not field:
        return f"({_text('caption', value, values)} OR {_text('name', value, values)})"
    return _text(field, value, values)


def _range(column: str, slack: float, value: Range, values: list[Value]) -> str:
    conditions = []
    for bound, sign, more in (
        (value.low, ">" if value.low_open else ">=", -slack),
        (value.high, "<" if value.high_open else "<=", slack),
    ):
        if bound is not None:
            conditions.append(f"{column} {sign} ?")
            values.append(bound + more)
    return f"({' AND '.join(conditions)})"


def _text(field: str, value: Words | Glob | Regex, values: list[Value]) -> str:
    """A word is looked for anywhere (a person's name is the whole), a glob is the whole."""
    column = _COLUMNS[field]
    if isinstance(value, Regex):
        values.append(value.pattern)
        return f"matches(?, {column})"
    pieces: _Pieces = value.pieces if isinstance(value, Glob) else (value.text,)
    if isinstance(value, Words) and field != "edited-by":
        pieces = (Wild.ANY, *pieces, Wild.ANY)
    if field == "name":  # the whole path is quicker to look at, and settles most
        first = _like("name", (Wild.ANY, *pieces), values)
        if pieces[0] is Wild.ANY and len(pieces) == 2 and "/" not in str(pieces[1]):
            return first
        return f"({first} AND {_like(column, pieces, values)})"
    return _like(column, pieces, values)


def _tag(value: Words | Glob | Regex, values: list[Value]) -> str:
    if isinstance(value, Regex):
        values.append(value.pattern)
        return "matches_tag(?, tags)"
    pieces: _Pieces = value.pieces if isinstance(value, Glob) else (" ".join(value.text.split()),)
    if pieces == (Wild.ANY,):
        return f"NOT {HOLLOW}"
    if Wild.ANY in pieces[1:-1]:  # a gap that must not reach into the next tag
        roughly = _like("tags", (Wild.ANY, ",", *pieces, ",", Wild.ANY), values)
        shapes = {Wild.ANY: "[^,]*", Wild.ONE: "[^,]"}
        parts = [shapes[p] if isinstance(p, Wild) else re.escape(p) for p in pieces]
        values.append(f",{''.join(parts)},")
        return f"({roughly} AND matches(?, tags))"
    begin: _Pieces = (Wild.ANY,) if pieces[0] is Wild.ANY else (Wild.ANY, ",")
    end: _Pieces = (Wild.ANY,) if pieces[-1] is Wild.ANY else (",", Wild.ANY)
    inner = [piece for piece in pieces if piece is not Wild.ANY]
    return _like("tags", [*begin, *inner, *end], values, one="[^,]")


def _like(column: str, pieces: _Pieces, values: list[Value], one: str = "?") -> str:
    """The whole of ``column`` is ``pieces``, in either case.

    LIKE folds the letters a to z. For other alphabets, and where ``one`` is not any character, what
    it finds goes through GLOB, with both cases of each letter.
    """
    wide = one != "?" and Wild.ONE in pieces
    cased = any(_cased(c) for piece in pieces if isinstance(piece, str) for c in piece)
    shapes = {Wild.ANY: "%", Wild.ONE: "_"}
    values.append(
        "".join(shapes[p] if isinstance(p, Wild) else "".join(map(_plain, p)) for p in pieces)
    )
    like = f"{column} LIKE ? ESCAPE '\\'"
    if not cased and not wide:
        return like
    shapes = {Wild.ANY: "*", Wild.ONE: one}
    values.append(
        "".join(shapes[p] if isinstance(p, Wild) else "".join(map(_either, p)) for p in pieces)
    )
    return f"({like} AND {column} GLOB ?)"


def _cased(letter: str) -> bool:
    return not letter.isascii() and letter.lower() != letter.upper()


def _plain(letter: str) -> str:
    """One character for LIKE; any where LIKE knows one case only."""
    return "_" if _cased(letter) else f"\\{letter}" if letter in "%_\\" else letter


def _either(letter: str) -> str:
    """One character for GLOB, in either case."""
    both = dict.fromkeys((letter, letter.lower(), letter.upper()))
    singles = "".join(form for form in both if len(form) == 1)
    return f"[{singles}]" if len(singles) > 1 or letter in "*?[" else letter
