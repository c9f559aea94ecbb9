"""Numbers by pattern: ``"OUT*=16/8"`` or ``"*attn2*=0.5"``, for some of the modules that learn.

A pattern is a shell's: ``*`` is anything, ``?`` one character. It is held against a module's block
as the WebUI calls it (``IN04``, ``M00``, ``OUT11``; ``TEXT`` is a text encoder) and against its
network and path (``unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k``). Of several
that fit a module the first counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from shared.errors import Code, LoraError


def read(entry: str, most: int) -> tuple[str, list[float]]:
    """A pattern and its numbers, with ``/`` between them: from one to ``most``.

    Raises LoraError(INVALID_RECIPE).
    """
    pattern, equals, numbers = entry.rpartition("=")
    try:
        values = [float(number) for number in numbers.split("/")]
    except ValueError:
        values = []
    good = all(math.isfinite(value) and value >= 0 for value in values)
    if not pattern.strip() or not equals or not 1 <= len(values) <= most or not good:
        shape = "PATTERN=NUMBER" if most == 1 else "PATTERN=RANK or PATTERN=RANK/ALPHA"
        raise LoraError(
            Code.INVALID_RECIPE, f'{entry!r} is not {shape}, such as "OUT*=4" or "*attn2*=2".'
        )
    return pattern.strip(), values


def find(entries: Sequence[str], names: Sequence[str]) -> int | None:
    """The place of the first entry whose pattern fits one of a module's names."""
    for number, entry in enumerate(entries):
        pattern = entry.rpartition("=")[0].strip()
        if any(fnmatchcase(name, pattern) for name in names):
            return number
    return None
