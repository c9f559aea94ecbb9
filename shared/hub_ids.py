"""What people type for something on the Hugging Face Hub, and what their environment adds to it."""

from __future__ import annotations

import os
import re
from typing import Literal

from shared.wire import FromHub

_ID = re.compile(
    r"(?:hf:|https://huggingface\.co/(?:datasets/)?)?"
    r"(?P<id>[\w.-]+/[\w.-]+)/?(?:@(?P<revision>\S+))?"
)
_SURE = ("hf:", "https://huggingface.co/")


def is_hub(text: str) -> bool:
    """Whether a text says by itself that it is no path."""
    return text.startswith(_SURE)


def from_hub(
    text: str,
    kind: Literal["model", "dataset", "captioner"] = "model",
    *,
    revision: str = "",
    file: str = "",
    mirror: str = "",
    offline: bool = False,
) -> FromHub | None:
    """``owner/name``, ``hf:owner/name@revision`` or a page's address; None if it is none of them.

    The client's HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE count where nothing is said.
    """
    match = _ID.fullmatch(text)
    if match is None:
        return None
    told = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return FromHub(
        id=match["id"],
        kind=kind,
        revision=revision or match["revision"] or "",
        file=file,
        token=os.environ.get("HF_TOKEN", ""),
        mirror=mirror or os.environ.get("HF_ENDPOINT", ""),
        offline=offline or told,
    )
