"""Whether a LoRA belongs on a base: what it was trained on, and how far that is from the base."""

from __future__ import annotations

from typing import Literal

import msgspec

KIN = 0.95  # cosine of two bases' weights from which a LoRA of the one works on the other
APART = 0.7  # below that they share too little
ALIGNED = 1.2  # a LoRA's alignment with a base from which it was trained on that base or its kin
CHANCE = 1.1  # below that it is as to any other

Fit = Literal["same", "kin", "distant", "foreign", "misfit", "unknown"]
How = Literal["run", "hash", "name", "weights", ""]


class BlockDistance(msgspec.Struct, frozen=True, kw_only=True):
    """A block of two bases' UNets, as ``shared.blocks`` names it."""

    block: str
    relative: float  # ‖W − W'‖ / ‖W‖
    cosine: float


class Distance(msgspec.Struct, frozen=True, kw_only=True):
    """How far apart two bases are in the modules a LoRA changes. ``blocks``: farthest first."""

    of: str
    to: str
    relative: float
    cosine: float
    blocks: list[BlockDistance]


class Affinity(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. ``how``: how what it was trained on is known; weights: by its own directions.

    ``says``: what the file itself calls its base. ``alignment``: per base, how much more of the
    LoRA lies along the base's own directions than chance would have it; 1 is chance. ``warning``:
    why it may not work, empty where it should. It is never in anybody's way.
    """

    lora: str
    base: str
    fit: Fit
    trained_on: str
    how: How
    says: str
    sentence: str
    warning: str
    distance: Distance | None
    alignment: dict[str, float]


class KinshipOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What ``python -m lora_daemon.engine.kinship`` takes: two bases, or a LoRA and a base."""

    base: str
    other: str = ""
    lora: str = ""


class Kinship(msgspec.Struct, frozen=True, kw_only=True):
    """Per module by its dotted path. Two bases: ‖W‖², ‖W'‖², ⟨W, W'⟩. A LoRA and a base: n ‖WᵀΔW‖²
    and n ‖ΔWWᵀ‖², each over ‖W‖² ‖ΔW‖²: chance makes 1 of either."""

    modules: dict[str, list[float]]


def fit(distance: Distance) -> Fit:
    """How a LoRA of one base stands to another at this distance."""
    if distance.cosine >= KIN:
        return "kin"
    return "distant" if distance.cosine >= APART else "foreign"
