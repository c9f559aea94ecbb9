"""The revisions of captions: every one is kept."""

from __future__ import annotations

from lora_daemon.store import Change
from shared import wire


def put_revision(change: Change, op: int, item: str, caption: wire.Caption) -> None:
    """Make ``caption`` the item's present one and keep it among its revisions. ``op`` 0: it came
    from its file."""
    keep_revision(change, op, item, caption)
    change.execute(
        "UPDATE items SET text = ?, state = ?, source = ?, by = ?, at = ?, rev = ? WHERE id = ?",
        (*columns(caption), item),
    )


def keep_revision(change: Change, op: int, item: str, caption: wire.Caption) -> None:
    """Keep what is the item's present caption already."""
    change.execute(
        "INSERT INTO revisions (text, state, source, by, at, rev, item, op)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*columns(caption), item, op),
    )


def columns(caption: wire.Caption) -> tuple[str, str, str, str, float, int]:
    """A caption as the columns text, state, source, by, at, rev."""
    return (caption.text, caption.state, caption.source, caption.by, caption.at, caption.rev)
