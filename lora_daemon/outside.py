"""Caption files that somebody else has changed: what becomes of the caption here.

The digest of what was last read or written says whether a file is as we left it; ``pending`` says
whether the caption is. Only the file is another: the caption follows it. Both are: the caption
stays, the file is left alone, and its text is among the caption's candidates until a person says
which it is to be. Neither text is ever lost.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from lora_daemon.catalog import Catalog, caption_of
from lora_daemon.revisions import put_revision
from lora_daemon.sidecars import TABLE, SideCar
from lora_daemon.store import Change, Store
from shared import wire

WRITTEN, BEHIND, BOTH = 0, 1, 2  # of items.pending: BOTH waits for a person, not for the writer
BY = "file"  # who changed a caption that follows its file

Outcome = Literal["same", "late", "taken", "both", "gone"]


def follow(
    store: Store, catalog: Catalog, change: Change, item: str, known: str, sidecar: SideCar
) -> Outcome:
    """Hold a picture's caption against its file as it was read; ``known``: the digest in the
    database before that. "late": it was written since, so look again."""
    rows = store.query("SELECT * FROM items WHERE id = ?", (item,))
    if not rows or sidecar.warning or sidecar.digest == known:
        return "same"
    (row,) = rows
    if row["written"] != known:
        return "late"
    ours, pending = caption_of(row), row["pending"]
    outcome: Outcome = "same"
    from_table = sidecar.digest.startswith(TABLE)
    if not sidecar.digest or (from_table and ours.source != "file"):
        outcome, pending = "gone", min(pending, BEHIND)
    elif sidecar.text == ours.text.strip():
        pending = pending if pending == BEHIND else WRITTEN
    elif _of_another(store, row["dataset"], row["name"], sidecar.digest):
        return "same"
    elif pending == WRITTEN:
        outcome = "taken"
        state = "unreviewed" if ours.state in ("accepted", "edited") else ours.state
        _announce(change, catalog, row["dataset"], item, _theirs(change, sidecar, ours, state))
    elif _known(store, item, sidecar.text):
        if pending == BEHIND:  # what the writer is about to replace
            return "same"
    else:
        outcome, pending = "both", BOTH
        theirs = _theirs(change, sidecar, ours, ours.state)
        put_revision(change, 0, item, theirs)
        again = msgspec.structs.replace(ours, rev=theirs.rev + 1)
        _announce(change, catalog, row["dataset"], item, again)
    change.execute(
        "UPDATE items SET sidecar = ?, written = ?, pending = ? WHERE id = ?",
        (sidecar.name, sidecar.digest, pending, item),
    )
    return outcome


def _theirs(
    change: Change, sidecar: SideCar, ours: wire.Caption, state: wire.CaptionState
) -> wire.Caption:
    return wire.Caption(
        text=sidecar.text, state=state, rev=ours.rev + 1, source="file", by=BY, at=change.at
    )


def _announce(
    change: Change, catalog: Catalog, dataset: str, item: str, caption: wire.Caption
) -> None:
    put_revision(change, 0, item, caption)
    change.emit(wire.CaptionChanged(dataset=dataset, item=item, caption=caption))
    change.emit(wire.DatasetChanged(dataset=catalog.dataset(dataset)))


def _known(store: Store, item: str, text: str) -> bool:
    """Whether a text is nothing new: empty, or one of the caption's own revisions."""
    rows = store.query("SELECT text FROM revisions WHERE item = ?", (item,))
    return not text or any(kept.strip() == text for (kept,) in rows)


def _of_another(store: Store, dataset: str, name: str, digest: str) -> bool:
    """Whether the file holds what was written here for another picture of the same stem."""
    stem = name.rpartition(".")[0]
    rows = store.query(
        "SELECT 1 FROM items WHERE dataset = ? AND name > ? AND name < ? AND name <> ?"
        " AND written = ? AND source <> 'file'", (dataset, f"{stem}.", f"{stem}/", name, digest),
    )  # fmt: skip
    return bool(rows)
