"""What people type for something on the Hugging Face Hub, and what their environment adds to it."""

from __future__ import annotations

import os
import re
from typing import Literal
from urllib.parse import unquote

from shared.wire import FromHub

_ID = re.compile(r"(?:hf:)?(?P<id>[\w.-]+/[\w.-]+)/?(?:@(?P<revision>\S+))?")
_PAGE = re.compile(  # as a browser has it: a repository's, a folder's, or a file's
    r"/(?:datasets/)?(?P<id>[\w.-]+/[\w.-]+)/?(?:@(?P<revision>\S+))?"
    r"(?:/tree/(?P<tree>[^/]+)(?:/.*)?|/(?:resolve|blob)/(?P<at>[^/]+)/(?P<file>.+))?"
)
_SURE = ("hf:", "https://huggingface.co/", "https://hf.co/")


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
    """``owner/name``, ``hf:owner/name@revision`` or the address of a page or of a file; None if it
    is none of them.

    The client's HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE count where nothing is said.
    """
    mirror = mirror or os.environ.get("HF_ENDPOINT", "")
    at = next((one for one in (*_SURE[1:], mirror) if one and text.startswith(one)), "")
    page = re.split(r"[?#]", text.removeprefix(at.rstrip("/")))[0]
    match = _PAGE.fullmatch(page) if at else _ID.fullmatch(text)
    if match is None:
        return None
    found = {name: unquote(part) for name, part in match.groupdict("").items()}
    told = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return FromHub(
        id=found["id"],
        kind=kind,
        revision=revision or found["revision"] or found.get("tree") or found.get("at", ""),
        file=file or found.get("file", ""),
        token=os.environ.get("HF_TOKEN", ""),
        mirror=mirror,
        offline=offline or told,
    )
