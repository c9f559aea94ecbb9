"""The filters this person used last, kept from one time to the next."""

from __future__ import annotations

import contextlib
from pathlib import Path

KEPT = 30


class FilterHistory:
    """One file, a filter a line, the newest last. A disk that refuses costs the memory alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: list[str] = []  # the newest first
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = path.read_text("utf-8").splitlines()
            self.texts = [line for line in reversed(lines) if line.strip()][:KEPT]

    def add(self, text: str) -> None:
        """``text`` was used just now."""
        text = " ".join(text.splitlines()).strip()
        if not text:
            return
        self.texts = [text, *(other for other in self.texts if other != text)][:KEPT]
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".part")
            temporary.write_text("".join(f"{line}\n" for line in reversed(self.texts)), "utf-8")
            temporary.replace(self.path)
