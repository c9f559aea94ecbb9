"""Where LoRAs meet: how much of what each changes the others add to or undo, place by place.

ΔWᵢ is what LoRA i adds to a module at its weight in the mix, C the second moment of the module's
input on the base, ⟨ΔWᵢ, ΔWⱼ⟩ = tr(BᵢᵀBⱼ · Aⱼ C Aᵢᵀ) how alike two of them answer to that input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.pictures import LoraUse

MOST = 64  # LoRAs compared at once
FELT = 0.05  # an overlap below that is not worth a word
STRONG = 0.3  # one that is felt as a LoRA at another weight

KINDS = (
    "self q", "self k", "self v", "self out", "cross q", "cross k", "cross v", "cross out",
    "ff", "proj", "conv", "time", "other",
)  # fmt: skip
_WORDS = {
    "self q": "queries", "self k": "keys", "self v": "values", "self out": "attention outputs",
    "cross q": "queries to the prompt", "cross k": "keys", "cross v": "values of the prompt",
    "cross out": "answers to the prompt", "ff": "feed-forward layers", "proj": "projections",
    "conv": "convolutions", "time": "timestep projections", "other": "modules",
}  # fmt: skip

_QKV = ("q", "k", "v", "out")
_NAMED = (  # kind → what a module's dotted path has in it; the first that fits
    *((f"self {what}", re.compile(rf"attn1\.to_{what}\b|self_attn\.{what}_proj")) for what in _QKV),
    *((f"cross {what}", re.compile(rf"attn2\.to_{what}\b")) for what in _QKV),
    ("ff", re.compile(r"\.ff\.|\.mlp\.")),
    ("proj", re.compile(r"\.proj_(in|out)$|text_projection")),
    ("time", re.compile(r"time_emb|add_embedding")),
    ("conv", re.compile(r"\bconv")),
)  # fmt: skip


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A module, the modules of one kind in a block, a block, or all of it. Row i, column j is what
    j does to i.

    ``energy``: ‖ΔWᵢ‖². ``overlap``: ⟨ΔWᵢ, ΔWⱼ⟩ / ‖ΔWᵢ‖²: −1 where j undoes all of i, 1 where it
    doubles it; chance gives nothing. ``touched``: the share of i's energy that answers to inputs
    which j reads too, whatever j makes of them, 0 … 1; what chance gives, about rank / width, is
    taken off.
    """  # fmt: skip

    block: str = ""  # as ``shared.blocks`` names them, TE1 or TE2 for a text encoder; empty: all
    kind: str = ""  # one of KINDS; empty: all
    module: str = ""  # dotted path; empty: several
    met: int  # modules that at least two LoRAs change
    energy: list[float]
    overlap: list[list[float]]
    touched: list[list[float]]

    def keeps(self, of: int) -> float:
        """What is left of a LoRA along its own direction beside the others: 1 is all of it."""
        return 1 + sum(one for by, one in enumerate(self.overlap[of]) if by != of)


class Conflict(msgspec.Struct, frozen=True, kw_only=True, tag="conflict"):
    """LoRAs compared. ``measured``: whether C was measured on the base; else it is the identity.

    ``cells``: by block and kind. ``modules``: empty unless asked for. ``notes``: what was left out.
    """

    loras: list[str]
    weights: list[float]
    measured: bool
    sentence: str
    whole: Place
    blocks: list[Place]
    cells: list[Place]
    modules: list[Place]
    notes: list[str]


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A file to compare, and how it stands in the mix."""

    path: str
    use: LoraUse


class ConflictOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What ``python -m lora_daemon.engine.conflict`` takes. ``base``: a path, needed for block
    weights only. ``inputs``: what was measured of the base's inputs with these very files, a path;
    ``order``: each LoRA's place among those measured."""

    loras: Annotated[list[Compared], Meta(min_length=2, max_length=MOST)]
    base: str = ""
    inputs: str = ""
    order: list[int] = []
    modules: bool = False  # say it of each module too


def kind(path: str) -> str:
    """The kind of a module by its dotted path."""
    return next((name for name, pattern in _NAMED if pattern.search(path)), "other")


def directed(count: int) -> Iterator[tuple[int, int]]:
    """Every LoRA with every other, both ways."""
    return ((of, by) for of in range(count) for by in range(count) if of != by)


def worst(places: Sequence[Place], whole: Place) -> tuple[Place, int, int] | None:
    """Where most is undone, by its share of the whole LoRA, and who undoes whose; None where
    nothing worth a word is."""
    found = [
        (place.overlap[of][by] * place.energy[of] / whole.energy[of], place, of, by)
        for place in places
        for of, by in directed(len(whole.energy))
        if whole.energy[of] and place.overlap[of][by] <= -FELT
    ]
    if not found:
        return None
    _, place, of, by = min(found, key=lambda one: one[0])
    return place, of, by


def heaviest(whole: Place) -> tuple[int, int]:
    """The two that meet most, the one that feels it more first."""
    pairs = directed(len(whole.energy))
    return min(pairs, key=lambda p: (-abs(whole.overlap[p[0]][p[1]]), -whole.touched[p[0]][p[1]]))


def sentence(
    names: Sequence[str], whole: Place, cells: Sequence[Place], stages: dict[str, str]
) -> str:
    """What a person needs to know first. ``stages``: block → its place in the UNet (up.1)."""
    if not whole.met:
        return "They change no module in common: they cannot fight."
    found = worst(cells, whole)
    if found and whole.keeps(found[1]) < 1:
        place, of, by = found
        share, back = place.overlap[of][by], place.overlap[by][of]
        loses = "both lose" if abs(back - share) < FELT else f"{names[of]} loses"
        lost = f"{-share:.0%} of it" if share > -1 else "all of it"
        kept = whole.keeps(of)
        left = f"it keeps {kept:.0%}" if kept > 0 else "nothing of it is left"
        pair = "They" if len(names) == 2 else f"{names[of]} and {names[by]}"
        return (
            f"{pair} pull the same {_WORDS[place.kind]} in {_where(place.block, stages)} in "
            f"opposite ways; {loses} ({lost} there; over all {left})."
        )
    said = _over_all(names, whole)
    if found:
        place, of, _ = found
        said += (
            f" Only the {_WORDS[place.kind]} in {_where(place.block, stages)} are pulled in "
            f"opposite ways, and {names[of]} gains more elsewhere."
        )
    return said


def _over_all(names: Sequence[str], whole: Place) -> str:
    """Of the two that meet most, where nothing is undone."""
    of, by = heaviest(whole)
    pair = "They" if len(names) == 2 else f"{names[of]} and {names[by]}"
    if whole.overlap[of][by] >= STRONG:
        return (
            f"{pair} change much the same in the same way: together {names[of]} is as strong as "
            f"at {whole.keeps(of):.0%}. A lower weight may do."
        )
    if whole.touched[of][by] >= STRONG:
        return (
            f"{pair} listen to the same inputs and answer differently: neither undoes the other, "
            f"but {names[of]} seldom acts alone."
        )
    return f"{pair} hardly meet: what is wrong with the picture has another cause."


def _where(block: str, stages: dict[str, str]) -> str:
    if block.startswith("TE"):
        return "the text encoder" if block == "TE1" else "the second text encoder"
    return f"{stages[block]} ({block})" if stages.get(block) else block
