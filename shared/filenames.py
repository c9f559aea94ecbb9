"""File names as text that msgpack, JSON and SQLite can carry: any bytes survive, and come back.

Linux file names are bytes. Python shows those that are not UTF-8 as lone surrogates, which no
encoder takes. Here such a byte becomes ``\\xNN`` and a backslash ``\\x5c``; every other name stays
as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
TABLES = (".parquet", ".arrow")
PACKED = ARCHIVES + TABLES  # suffixes of what is unpacked before it is imported

_ESCAPED = re.compile("[\\\\\udc80-\udcff]")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def to_text(name: str | Path) -> str:
    """A path as it travels and is stored. Undone by ``from_text``."""
    return _ESCAPED.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", os.fspath(name))


def from_text(text: str) -> str:
    """The path that ``to_text`` made ``text`` from, for the functions of ``os`` and ``pathlib``."""

    def byte(match: re.Match[str]) -> str:
        value = int(match[1], 16)
        return chr(value) if value < 0x80 else chr(0xDC00 + value)

    return _ESCAPE.sub(byte, text)


def typed(text: str) -> str:
    """A path that a person or a client gave: as it stands if it exists, else unescaped."""
    return text if os.path.lexists(text) else from_text(text)
