"""Orders to make a LoRA file from others, as ``python -m lora_daemon.engine.merge`` takes them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from shared.errors import Code, LoraError
from shared.pictures import LoraUse, Weight

Method = Literal["exact", "svd", "ties", "dare", "orthogonal", "ziplora"]
METHODS: tuple[Method, ...] = get_args(Method)
Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: dict[Precision, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA file and its weights. ``text_weight``: on the text encoders; none: as ``weight``."""

    path: str
    weight: Weight = 1.0
    text_weight: Weight | None = None


def source(use: LoraUse, path: str) -> Source:
    """How a LoRA of a mix goes into a file. Raises LoraError(BAD_REQUEST) for what no file has:
    weights per block, a part of the steps or of the picture, guidance."""
    if use.blocks:
        raise LoraError(Code.BAD_REQUEST, "Block weights (lbw=) need a base; a merge has none.")
    if use.begin > 0 or use.end < 1:
        raise LoraError(
            Code.BAD_REQUEST, "A file takes part in all steps: leave start=, stop= out."
        )
    if use.region is not None:
        raise LoraError(Code.BAD_REQUEST, "A file acts in the whole picture: leave its region out.")
    if use.guidance:
        raise LoraError(
            Code.BAD_REQUEST, "A file cannot guide a picture along itself: leave guide= out."
        )
    return Source(path=path, weight=use.weight, text_weight=use.text_weight)


class MergeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Σ wᵢ ΔWᵢ into one file of kohya's dialect.

    exact: concatenated, rank Σr. svd: the best approximation of a rank or within an error. ties,
    dare: on the true ΔW, keeping ``density`` of each, then as svd. orthogonal: the first alone,
    without what it does where the others act; exact, or then as svd; weighed by ``inputs``, what
    was measured of a base with these files, each at its place in ``order``. ziplora: exact, or then
    as svd, the columns of each times the coefficients in ``columns``. ``rank``: 0 lets
    ``error`` decide, else Σr. ``error``: relative, per module (Frobenius). ``precision``: empty
    takes the widest of the sources. ``base``: its path; needed for a DoRA, which is then what it
    does to it.
    """

    sources: Annotated[list[Source], Meta(min_length=1, max_length=64)]
    out: str
    base: str = ""
    method: Method = "exact"
    rank: Annotated[int, Meta(ge=0, le=4096)] = 0
    error: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    density: Annotated[float, Meta(gt=0, le=1)] = 0.5
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 0
    precision: Precision | Literal[""] = ""
    inputs: str = ""
    order: list[int] = []
    columns: str = ""


class MergedModule(msgspec.Struct, frozen=True, kw_only=True):
    """One module of the result. ``error``: ‖saved − wanted‖ / ‖wanted‖, rounding included."""

    name: str
    rank: int
    error: float


class Advance(msgspec.Struct, frozen=True, kw_only=True, tag="advance"):
    """So many modules are done."""

    done: int
    total: int


class Merged(msgspec.Struct, frozen=True, kw_only=True, tag="merged"):
    """The file is in place. ``error``: over all modules together. ``notes``: what to know."""

    path: str
    size: int  # bytes
    modules: list[MergedModule]
    error: float
    notes: list[str]


class BakeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """LoRAs into a copy of a base. ``base``, ``out``: diffusers folders, or both one file."""

    sources: Annotated[list[Source], Meta(min_length=1, max_length=64)]
    base: str
    out: str


class Baked(msgspec.Struct, frozen=True, kw_only=True, tag="baked"):
    """The base is in place. ``tensors``: how many differ from the base's."""

    path: str
    tensors: int
    notes: list[str]


class PackOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A base that is a diffusers folder, written as one file in the original layout."""

    base: str
    out: str


class Packed(msgspec.Struct, frozen=True, kw_only=True, tag="packed"):
    path: str
    size: int  # bytes
