"""Where a LoRA that was made from others comes from, in its metadata, beside what tools read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from shared.safetensors_file import Tensor, encode

MADE = "lora_tui.made"  # JSON: {"how": …, "from": [{"name", "sha256", "weight", …}]}
_OF_THE_CONTENT = ("sshs_", "modelspec.hash_", "ss_session_id")  # no longer true of a new file


def derived(
    sources: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]],
    how: Mapping[str, Any],
    changes: Mapping[str, str],
) -> dict[str, str]:
    """The metadata of a file made from others: what all of them say alike, then ``changes``.

    ``sources``: each one's metadata and its entry in the provenance; ``how``: what was done. A
    source that was itself made keeps its own provenance inside its entry.
    """  # fmt: skip
    first, *others = (metadata for metadata, _ in sources)
    kept = {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
        and not key.startswith(_OF_THE_CONTENT)
        and key != MADE
    }
    entries = []
    for metadata, entry in sources:
        before = {"made": metadata[MADE]} if MADE in metadata else {}
        entries.append({**entry, **before})
    made = json.dumps({**how, "from": entries}, ensure_ascii=False, sort_keys=True)
    return {**kept, **changes, MADE: made}


def hashed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata with kohya's two hashes of the file, which the WebUI shows."""
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    model_hash, legacy_hash = kohya_hashes(encode(tensors, training))
    return {**metadata, "sshs_model_hash": model_hash, "sshs_legacy_hash": legacy_hash}


def kohya_hashes(file: bytes) -> tuple[str, str]:
    """kohya's model hash (everything behind the header) and legacy hash (64 KiB at 1 MiB) of a
    file as it is with the ``ss_`` entries alone."""
    behind = 8 + int.from_bytes(file[:8], "little")
    legacy = hashlib.sha256(file[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    return hashlib.sha256(file[behind:]).hexdigest(), legacy
