"""A query that needs regular expressions, in a process of its own: one that takes for ever can be
killed there, and holds up nobody.

``python -I -S regex_search.py`` reads {database, sql, values} as JSON and writes what the query
gives: one row, one column. The standard library only, so that it starts at once.
"""

from __future__ import annotations

import functools
import json
import re
import sqlite3
import sys

compiled = functools.lru_cache(maxsize=256)(functools.partial(re.compile, flags=re.IGNORECASE))


def matches(pattern: str, text: str) -> bool:
    """Whether ``pattern`` is found in ``text``."""
    return compiled(pattern).search(text) is not None


def matches_tag(pattern: str, tags: str) -> bool:
    """Whether ``pattern`` is found in one of ``,tags,``."""
    search = compiled(pattern).search
    return any(search(tag) for tag in tags.split(",") if tag)


def main() -> None:
    """Answer the question on stdin."""
    question = json.load(sys.stdin)
    connection = sqlite3.connect(question["database"], uri=True)
    connection.create_function("matches", 2, matches, deterministic=True)
    connection.create_function("matches_tag", 2, matches_tag, deterministic=True)
    said = question["values"]
    values = [bytes.fromhex(one["hex"]) if isinstance(one, dict) else one for one in said]
    (answer,) = connection.execute(question["sql"], values).fetchone()
    sys.stdout.write(answer)


if __name__ == "__main__":
    main()
