"""A LoRA's card: what its file says, the singular values of what it adds, and what follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from shared.weighing import Advised

LITTLE = 0.1  # ‖left out‖ / ‖ΔW‖ that is worth a smaller file: 1 % of the energy
FAR = 0.5  # of the rank; an effective rank and a sufficient rank below are far below
TAGS = 200  # told of a file; the commonest


class Tag(msgspec.Struct, frozen=True):
    """A tag or caption, and in how many pictures (times their repeats) it was learned."""

    text: str
    count: int


class Twins(msgspec.Struct, frozen=True, kw_only=True):
    """Files of the library with the same tensors. ``unread``: files of the same shapes of which it
    is not yet known; ``known``: whether it is of this one."""

    same: list[str] = []
    unread: int = 0
    known: bool = False


class ModuleSpectrum(msgspec.Struct, frozen=True, kw_only=True):
    """One module. ``values``: the singular values of ΔW, its scale included, the largest first."""

    module: str  # dotted path, or the name in the file where that is unknown
    block: str
    effective: float
    values: list[float]


class BlockSpectrum(msgspec.Struct, frozen=True, kw_only=True):
    """The modules of a block. ``effective``: their mean, each by its share of the energy."""

    block: str  # as ``shared.blocks`` names them, TE1 or TE2 for a text encoder
    modules: int
    rank: int  # the largest
    effective: float
    energy: float  # Σ‖ΔW‖²


class Spectrum(msgspec.Struct, frozen=True, kw_only=True, tag="spectrum"):
    """The singular values of a LoRA. ``losses``: at k − 1, ‖left out‖ / ‖ΔW‖ over all modules when
    each is cut to rank k. ``plain``: it is of low-rank pairs alone."""

    rank: int  # the largest
    effective: float
    energy: float
    losses: list[float]
    plain: bool
    blocks: list[BlockSpectrum]
    modules: list[ModuleSpectrum]
    notes: list[str]

    @property
    def enough(self) -> int:
        """The least rank that leaves out no more than LITTLE."""
        return next((k for k, loss in enumerate(self.losses, 1) if loss <= LITTLE), self.rank)


class SpectrumOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What ``python -m lora_daemon.engine.spectrum`` takes."""

    path: str


class LoraCard(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a LoRA without running it. Empty or 0: the file does not say.

    ``preview``: of a picture beside the file, its name; ``picture``: of one its run painted, its
    id. ``leak``: its effect without the trigger word, relative to that with it; None: not measured.
    ``advised``: the weight to begin with; None: not measured.
    ``spectrum``: None unless asked for.
    """

    name: str
    path: str
    size: int  # bytes
    preview: str = ""
    picture: str = ""
    title: str = ""
    trigger: str = ""
    tags: list[Tag] = []
    kinds: dict[str, int] = {}  # lora, loha, lokr, full → modules
    modules: int = 0
    ranks: list[int] = []
    alphas: list[float] = []
    base: str = ""
    base_version: str = ""
    resolution: str = ""
    pictures: int = 0
    steps: int = 0
    epochs: int = 0
    made: str = ""  # ISO 8601
    run: str = ""
    leak: float | None = None
    advised: Advised | None = None
    twins: Twins = Twins()
    spectrum: Spectrum | None = None
    advice: str = ""


def effective_rank(values: Sequence[float]) -> float:
    """exp(−Σ pᵢ ln pᵢ) with pᵢ = σᵢ / Σσ: the effective rank of Roy & Vetterli (EUSIPCO 2007), from
    1 for a single direction to the rank for equal ones; 0 where all values are."""
    total = math.fsum(values)
    if not total > 0:
        return 0.0
    shares = [value / total for value in values if value > 0]
    return math.exp(-math.fsum(share * math.log(share) for share in shares if share > 0))


def blocks_of(modules: Iterable[ModuleSpectrum]) -> list[BlockSpectrum]:
    """What the modules come to, block by block, in the order in which the blocks come."""
    by_block: dict[str, list[ModuleSpectrum]] = {}
    for one in modules:
        by_block.setdefault(one.block, []).append(one)
    return [
        BlockSpectrum(
            block=block,
            modules=len(inside),
            rank=max(len(one.values) for one in inside),
            effective=mean_rank(inside),
            energy=math.fsum(map(energy, inside)),
        )
        for block, inside in by_block.items()
    ]


def energy(one: ModuleSpectrum) -> float:
    """‖ΔW‖²."""
    return math.fsum(value * value for value in one.values)


def mean_rank(modules: Sequence[ModuleSpectrum]) -> float:
    """The mean effective rank, each module by its share of the energy; 0 where there is none."""
    weights = [energy(one) for one in modules]
    total = math.fsum(weights)
    pairs = zip(weights, modules, strict=True)
    return math.fsum(w * one.effective for w, one in pairs) / total if total else 0.0


def losses(modules: Sequence[ModuleSpectrum]) -> list[float]:
    """‖left out‖ / ‖ΔW‖ over all modules when each is cut to its best rank 1, 2, … (Eckart &
    Young)."""
    rank = max((len(one.values) for one in modules), default=0)
    left = [0.0] * (rank + 1)  # at k: what lies beyond the first k
    for one in modules:
        beyond = 0.0
        for at in range(len(one.values) - 1, -1, -1):
            beyond += one.values[at] ** 2
            left[at] += beyond
    return [math.sqrt(lost / left[0]) if left[0] else 0.0 for lost in left[1:]]


def advice(lora: str, found: Spectrum) -> str:
    """What to do about a rank that is not used; empty where it is, or where nothing is there."""
    if not found.energy:
        return "It adds nothing: all of its singular values are 0."
    enough = found.enough
    unused = found.effective < FAR * found.rank and enough <= FAR * found.rank
    if not (found.plain and unused):
        return ""
    return (
        f"Rank {enough} would do: it leaves out {found.losses[enough - 1]:.1%} of ΔW (Frobenius) "
        f"at {enough / found.rank:.0%} of the size: "
        f"`lora-tui lora resize {lora} --rank {enough} --out smaller.safetensors`."
    )


def tags(metadata: Mapping[str, str]) -> list[Tag]:
    """What kohya's trainers count (``ss_tag_frequency``), the commonest first; a damaged table is
    none."""
    try:
        table = msgspec.json.decode(
            metadata.get("ss_tag_frequency") or "{}", type=dict[str, dict[str, int]]
        )
    except msgspec.MsgspecError:
        return []
    counted: dict[str, int] = {}
    for folder in table.values():
        for text, count in folder.items():
            counted[text.strip()] = counted.get(text.strip(), 0) + count
    found = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [Tag(text, count) for text, count in found if text][:TAGS]


def resolution(metadata: Mapping[str, str]) -> str:
    """Width × height in pixels, as ``512x768``."""
    said = metadata.get("modelspec.resolution") or metadata.get("ss_resolution", "")
    numbers = "".join(c if c.isdecimal() else " " for c in said).split()
    return "x".join((numbers * 2)[:2]) if 1 <= len(numbers) <= 2 else ""


def made(metadata: Mapping[str, str]) -> str:
    """When the training ended, ISO 8601."""
    if said := metadata.get("modelspec.date"):
        return said
    try:
        seconds = float(metadata.get("ss_training_finished_at", ""))
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return ""


def said_base(metadata: Mapping[str, str]) -> str:
    """The base that a file names, without its folders and ending; else its kind (``sd_v1``)."""
    name = metadata.get("ss_sd_model_name", "").replace("\\", "/").rsplit("/", 1)[-1]
    for ending in (".safetensors", ".ckpt"):
        name = name.removesuffix(ending)
    return (
        name
        or metadata.get("ss_base_model_version", "")
        or metadata.get("modelspec.architecture", "").removesuffix("/lora")
    )
