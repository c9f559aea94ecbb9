"""LoRA files: written in kohya's dialect, read in kohya's, diffusers' and PEFT's.

The dialects name the same pair of matrices differently; all that this module returns is placed on a
base, module by module, or named as not placeable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lora_daemon.engine.bases import Base
from lora_daemon.engine.lora_read import Read, raw, read_modules
from lora_daemon.engine.mix import Placed
from lora_daemon.engine.parts import LowRank, fitted, low_rank
from lora_daemon.names import diffusers_name
from lora_daemon.original_layout import SPANS
from shared.embeddings import BUNDLED
from shared.lora_keys import Module, contents, kohya_ending, wrong
from shared.safetensors_file import Tensor as RawTensor
from shared.safetensors_file import read_header, write


@dataclass(frozen=True)
class Weights:
    """A LoRA file as far as a base has a place for it; ``unplaced`` names the rest."""

    modules: list[Placed]
    unplaced: list[str] = field(default_factory=list)


def save(
    path: Path,
    modules: Sequence[tuple[str, Tensor, Tensor]],
    alpha: float,
    metadata: Mapping[str, str],
) -> int:
    """Publish a LoRA in kohya's dialect and return its size in bytes.

    ``modules``: (kohya name, down (rank, in …), up (out, rank …)). Weights are kept in float32, as
    they were trained. Raises LoraError(STORAGE).
    """
    return write(path, kohya_tensors(modules, alpha), metadata)


def kohya_tensors(
    modules: Sequence[tuple[str, Tensor, Tensor]], alpha: float
) -> dict[str, RawTensor]:
    """Per module ``.lora_down.weight``, ``.lora_up.weight`` and ``.alpha`` (one number)."""
    tensors: dict[str, RawTensor] = {}
    for name, down, up in modules:
        tensors |= module_tensors(name, {"down": down, "up": up}, alpha)
    return tensors


class Trained(Protocol):
    """A module as it was trained. ``name``: in LoRA files; ``weights``: by role; of a plain pair
    also ``down`` (rank, in …) and ``up`` (out, rank …)."""

    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> Mapping[str, Tensor]: ...
    @property
    def down(self) -> Tensor: ...
    @property
    def up(self) -> Tensor: ...
    @property
    def alpha(self) -> float: ...


def tensors_of(modules: Sequence[Trained]) -> dict[str, RawTensor]:
    """All modules of an adapter as kohya's and LyCORIS's files have them."""
    tensors: dict[str, RawTensor] = {}
    together: dict[str, list[Trained]] = {}
    for one in modules:
        whole, dot, _ = one.name.partition(".")
        if dot:
            together.setdefault(whole, []).append(one)
        else:
            tensors |= module_tensors(one.name, one.weights, one.alpha)
    for pieces in together.values():
        tensors |= _fused_tensors(pieces)
    return tensors


def _fused_tensors(modules: Sequence[Trained]) -> dict[str, RawTensor]:
    """Modules that are some of the rows of one in LoRA files (``name.q``) as that one: their pairs
    side by side, each in its own rows. Exact; the rank is the sum of the ranks."""
    first, total = modules[0], 0
    scale = first.alpha / len(first.down)
    begin, end, of = _span(first.name)
    out = len(first.up) * of // (end - begin)
    up = torch.zeros(out, sum(len(one.down) for one in modules))
    for one in modules:
        begin, end, of = _span(one.name)
        rank = len(one.down)
        own = one.up.detach().to("cpu", torch.float32)
        if one.alpha / rank != scale:
            own = own * (one.alpha / rank / scale)
        up[begin * out // of : end * out // of, total : total + rank] = own
        total += rank
    down = torch.cat([one.down.detach().cpu() for one in modules])
    name = first.name.partition(".")[0]
    return module_tensors(name, {"down": down, "up": up}, scale * total)


def _span(name: str) -> tuple[int, int, int]:
    """Which rows of the one module a name stands for, as ``SPANS`` has it."""
    form = name.partition(".")[2]
    return next(span for known, span in SPANS.items() if known == form)


def fused(names: Mapping[str, str]) -> dict[str, list[tuple[str, tuple[int, int, int]]]]:
    """Of a table of module paths and their names in LoRA files: each name that is of several
    modules, with the path of each and which rows it is."""
    found: dict[str, list[tuple[str, tuple[int, int, int]]]] = {}
    for path, name in names.items():
        whole, dot, _ = name.partition(".")
        if dot:
            found.setdefault(whole, []).append((path, _span(name)))
    return found


def module_tensors(name: str, weights: Mapping[str, Tensor], alpha: float) -> dict[str, RawTensor]:
    """One module of any kind of adapter, as kohya's and LyCORIS's files have it.

    ``weights``: by role. A DoRA's magnitude gets the shape (out, 1, …), by which readers know that
    it is of rows.
    """
    tensors = {}
    for role, weight in weights.items():
        kept = weight
        if role == "magnitude":
            kept = weight.reshape(-1, *(1 for _ in weights["down"].shape[1:]))
        tensors[f"{name}{kohya_ending(role)}"] = raw(kept)
    return tensors | {f"{name}.alpha": raw(torch.tensor(alpha))}


def load(path: Path, base: Base) -> Weights:
    """Read a LoRA file of any of the three dialects and place it on ``base``.

    Raises LoraError: NOT_FOUND, STORAGE, or INVALID_FILE (torn, a pickle, not a LoRA, a kind of
    adapter that cannot be applied, of another family of base, not finite, without any effect).
    """
    header = read_header(path)
    found = contents(path, header)
    known, joined = places(base), fused(base.unet_names)
    denoiser = base.family.denoiser
    modules: list[Placed] = []
    unplaced = [name for name in found.unknown if not name.startswith(BUNDLED)]
    for one in read_modules(path, header, found):
        if one.module.name in joined:
            modules += _apart(path, base, joined[one.module.name], one)
        elif (place := known.get(one.module.name)) is None:
            unplaced.append(one.module.name)
        else:
            modules.append(_placed(path, base, place, one))
    unets = [n for n in unplaced if n.startswith(("lora_unet_", "unet.", "transformer."))]
    # SDXL's first text encoder has the shape of SD 1.x's: that alone is no kinship.
    if not modules or (unets and all(module.network != denoiser for module in modules)):
        lost = unets or unplaced
        raise wrong(
            path,
            f"does not belong on this base ({base.family.title}): of its {len(lost)} modules, "
            f"such as {lost[-1]}, the base has none",
        )
    if not any(module.scale for module in modules):
        raise wrong(path, "would do nothing: every alpha in it is 0. Set it to the rank, or resize")
    return Weights(modules, unplaced)


def places(base: Base) -> dict[str, tuple[str, str]]:
    """Module names in LoRA files, in every dialect, to (network, module path) of a base."""
    known: dict[str, tuple[str, str]] = {}
    denoiser = base.family.denoiser
    for path, module in base.denoiser.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            known[diffusers_name("lora_unet", path)] = (denoiser, path)
            known[f"{denoiser}.{path}"] = (denoiser, path)
    for path, name in base.unet_names.items():
        known[name] = known[f"{denoiser}.{path}"] = (denoiser, path)
    for encoder in base.encoders:
        network = encoder.use.network
        for path, name in encoder.names.items():
            bare = path.removeprefix("text_model.")
            for spelling in (
                name,
                name.replace("lora_te_", "lora_te1_"),  # as diffusers' own conversion writes it
                f"{network}.text_model.{bare}",
                f"{network}.{bare}",
            ):
                known[spelling] = (network, path)
    return known


def placed(path: Path, base: Base, one: Read) -> Placed | None:
    """One module of a file on a base; None if the base has no place for it. Raises as ``load``."""
    place = places(base).get(one.module.name)
    return None if place is None else _placed(path, base, place, one)


def _apart(
    path: Path, base: Base, pieces: Sequence[tuple[str, tuple[int, int, int]]], one: Read
) -> Iterator[Placed]:
    """A module of a file that is several of the base's, by their rows. Of a pair each gets the
    ranks that reach it; a piece that none reaches is left out, if others are reached."""
    if one.module.decomposed and "rows" not in one.extras and len(one.extras["magnitude"]) == 1:
        raise wrong(
            path,
            f"is a DoRA of columns ({one.module.name}), whose norms are over layers that this base "
            "has apart",
        )
    whole = low_rank(one.part)
    out = len(whole.up)
    idle = not bool(whole.up.any())
    for place, (begin, end, of) in pieces:
        if out % of:
            raise wrong(path, f"was made for another base: its {one.module.name} is {out} wide")
        rows = slice(begin * out // of, end * out // of)
        up, down = whole.up[rows], whole.down
        extras = {role: tensor[rows] for role, tensor in one.extras.items()}
        reached = up.ne(0).any(dim=0)
        if not extras and not idle:
            if not bool(reached.any()):
                continue
            up, down = up[:, reached], down[reached]
        part = LowRank(down, up)
        own = replace(one, part=part, extras=extras, factors={"down": down, "up": up})
        yield _placed(path, base, (base.family.denoiser, place), own)


def _placed(path: Path, base: Base, place: tuple[str, str], one: Read) -> Placed:
    """A module brought to its weight's shape."""
    shape = getattr(base, place[0]).get_submodule(place[1]).weight.shape
    try:
        part = fitted(one.part, shape)
    except (RuntimeError, ValueError):
        raise wrong(
            path,
            f"was made for another base: its {place[1]} is {math.prod(one.part.shape[1:])} → "
            f"{one.part.shape[0]} wide, this base's {math.prod(shape[1:])} → {shape[0]}",
        ) from None
    magnitude, columns = _magnitude(path, one.module, one.extras, shape)
    bias = one.extras.get("bias")
    return Placed(*place, part, one.scale, magnitude, columns, bias, one.factors)


def _magnitude(
    path: Path, module: Module, tensors: dict[str, Tensor], shape: torch.Size
) -> tuple[Tensor | None, bool]:
    """A DoRA's magnitudes and whether they are of columns (inputs) and not of rows (outputs).

    PEFT's are of rows; those of LyCORIS and kohya say by their shape.
    """
    if (bias := tensors.get("bias")) is not None and bias.numel() != shape[0]:
        raise wrong(path, f"was made for another base: {module.tensors['bias']} does not fit")
    if (rows := tensors.get("rows")) is not None and rows.numel() == shape[0]:
        return rows.flatten(), False
    if (magnitude := tensors.get("magnitude")) is not None:
        if magnitude.numel() == shape[0] == len(magnitude):
            return magnitude.flatten(), False
        if magnitude.numel() == shape[1] and len(magnitude) == 1:
            return magnitude.flatten(), True
    if module.decomposed:
        key = module.tensors.get("rows") or module.tensors["magnitude"]
        raise wrong(path, f"was made for another base: {key} does not fit")
    return None, False
