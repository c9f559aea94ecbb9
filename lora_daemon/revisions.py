"""The revisions of captions: every one is kept."""

from __future__ import annotations

from lora_daemon.store import Change
from shared import wire


def put_revision(change: Change, op: int, item: str, caption: wire.Caption) -> None:
    """Make ``caption`` the item's present one and keep it among its revisions. ``op`` 0: it came
    from its file."""
    values = (caption.text, caption.state, caption.source, caption.by, caption.at)
    change.execute(
        "INSERT INTO revisions (text, state, source, by, at, item, rev, op)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, item, caption.rev, op),
    )
    change.execute(
        "UPDATE items SET text = ?, state = ?, source = ?, by = ?, at = ?, rev = ? WHERE id = ?",
        (*values, caption.rev, item),
    )
