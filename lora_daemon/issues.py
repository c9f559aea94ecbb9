"""What ``issue:`` and ``dup:`` ask, as SQL over ``items``; ``?1`` is the dataset.

What is measured of files is kept by content, so that a picture imported again, renamed or copied
is known already, and beside each row, so that asking for it is quick. What captions have together
comes as marks of rows (caption_facts.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.health import KINDS, LOOKS, MOST_TOKENS

HOLLOW = "trim(text, ' ' || char(9, 10, 13)) = ''"
# Rows that caption_facts.py finds.
LISTED = ("no-trigger", "stem", "tag-twin", "tag-everywhere", "tag-once")

_CUT = "problem LIKE '%cut short%'"
_SMALL = "(width > 0 AND min(width, height) < (SELECT resolution FROM checks WHERE dataset = ?1))"
_PLAIN = {
    "unusable": "problem <> ''",
    "unreadable": f"(problem <> '' AND NOT {_CUT})",
    "truncated": _CUT,
    "no-caption": HOLLOW,
    "long": f"coalesce(tokens > {MOST_TOKENS}, 0)",
    "small": _SMALL,
    "unchecked": "(problem = '' AND looks IS NULL)",
}
# The reviewed one first, then what has a caption, then the largest.
_BEST = (
    "ORDER BY i.state NOT IN ('accepted', 'edited'), trim(i.text) = '', i.width * i.height DESC,"
    " i.size DESC, i.name"
)
_HERE = "i.dataset = ?1 AND i.problem = '' AND i.state <> 'rejected'"
_EXACT = (
    f"FROM items i WHERE {_HERE} AND i.content IN"
    " (SELECT content FROM items WHERE dataset = ?1 AND content <> '' GROUP BY content"
    " HAVING count(*) > 1)"
    " WINDOW w AS (PARTITION BY i.content)"
)
_NEAR = (
    f"FROM near n CROSS JOIN items i ON i.content = n.content WHERE n.dataset = ?1 AND {_HERE}"
    " WINDOW w AS (PARTITION BY n.together)"
)
_SEVERAL = "min(i.{0}) OVER w <> max(i.{0}) OVER w"
# Near ones stand together, else exact ones: by what a list of duplicates is in order of.
GROUP = (
    "coalesce((SELECT 'near ' || together FROM near WHERE near.dataset = ?1"
    " AND near.content = items.content), content)"
)


def duplicate(which: str) -> str:
    """The condition that ``dup:`` is. Rejected pictures are nobody's duplicates."""
    if which in ("any", "extra"):
        one, other = ("exact", "near") if which == "any" else ("copy", "better")
        return f"({duplicate(one)} OR {duplicate(other)})"
    exact, all_but_one = which in ("exact", "copy"), which in ("copy", "better")
    several = _SEVERAL.format("rowid" if exact else "content")
    place = f"row_number() OVER (w {_BEST})" if all_but_one else "2"
    rows = f"SELECT i.rowid AS row, {several} AS several, {place} AS place"
    rows = f"{rows} {_EXACT if exact else _NEAR}"
    return f"rowid IN (SELECT row FROM ({rows}) WHERE several AND place > 1)"


def issue(name: str, marks: Mapping[str, bytes], values: list[str | float | bytes]) -> str:
    """The condition that ``issue:`` is. ``marks``: of LISTED, a byte for each row."""
    if name == "any":
        grave = [kind.filter for kind in KINDS.values() if kind.grave and kind.filter]
        names = [filter.removeprefix("issue:") for filter in grave if filter.startswith("issue:")]
        names.sort(key=LISTED.__contains__)  # what is soon seen first
        ways = [issue(name, marks, values) for name in names]
        return f"({' OR '.join(ways)})"
    if name in _PLAIN:
        return _PLAIN[name]
    if name in LOOKS:
        return f"coalesce(looks & {1 << LOOKS.index(name)}, 0)"
    values.append(marks[name])
    return "(substr(?, rowid + 1, 1) = x'01')"
