"""A GPU that somebody else uses: how much of it, and what is done about it before a run begins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, get_args

from shared import wire

Manner = Literal["wait", "refuse", "share"]
LEAST, SHARE = 2 * 2**30, 0.2  # bytes, and of all of it: less than both is a desktop or a context
EVERY = 10.0  # seconds between two looks while a run waits


def manner() -> Manner:
    """What LORA_TUI_TAKEN_GPU says: to wait for the GPU (so without it), to refuse, to share."""
    return next((one for one in get_args(Manner) if one == _said()), "wait")


def warnings() -> list[str]:
    """That LORA_TUI_TAKEN_GPU says what is not known; else nothing."""
    if _said() in ("", *get_args(Manner)):
        return []
    known = ", ".join(get_args(Manner))
    return [f"LORA_TUI_TAKEN_GPU is {_said()!r}, which is none of {known}: runs wait."]


def _said() -> str:
    return os.environ.get("LORA_TUI_TAKEN_GPU", "").strip().lower()


def by_others(devices: Sequence[wire.DeviceUse], own: str = "") -> str:
    """That others hold much of the GPU that a run would be on, in a sentence; "" if they do not.

    ``own``: the worker's device as NVML calls it; without one a run would be on the first.
    """
    gpus = [one for one in devices if one.kind == "cuda"]
    one = next((gpu for gpu in gpus if own and gpu.device == own), gpus[0] if gpus else None)
    if one is None or one.others < max(LEAST, SHARE * one.total):
        return ""
    name = f"{one.name} (GPU {one.gpu})" if one.gpu else one.name
    return f"Others hold {one.others / 2**30:.1f} of the {one.total / 2**30:.1f} GiB of {name}"
