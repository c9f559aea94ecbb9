"""LoRA files: written in kohya's dialect, read in kohya's, diffusers' and PEFT's.

The dialects name the same pair of matrices differently; all that this module returns is placed on a
base, module by module, or named as not placeable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lora_daemon.engine.bases import Base
from lora_daemon.engine.mix import Placed
from shared.errors import Code, LoraError
from shared.lora_info import Pair, pairs
from shared.safetensors_file import Header, read_header, read_tensor, write
from shared.safetensors_file import Tensor as RawTensor

_NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


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
    tensors = {}
    for name, down, up in modules:
        tensors[f"{name}.lora_down.weight"] = _raw(down)
        tensors[f"{name}.lora_up.weight"] = _raw(up)
        tensors[f"{name}.alpha"] = _raw(torch.tensor(alpha))
    return tensors


def load(path: Path, base: Base) -> Weights:
    """Read a LoRA file of any of the three dialects and place it on ``base``.

    Raises LoraError: NOT_FOUND, STORAGE, or INVALID_FILE (torn, a pickle, not a LoRA, another kind
    of adapter, of another family of base, not finite).
    """
    header = read_header(path)
    found = pairs(path, header)
    places = {name: ("unet", module) for module, name in base.unet_names.items()}
    places |= {name: ("text_encoder", module) for module, name in base.text_names.items()}
    places |= {f"unet.{module}": ("unet", module) for module in base.unet_names}
    for module in base.text_names:
        bare = module.removeprefix("text_model.")
        places[f"text_encoder.text_model.{bare}"] = ("text_encoder", module)
        places[f"text_encoder.{bare}"] = ("text_encoder", module)
    modules, unplaced = [], []
    try:
        with path.open("rb") as file:
            for pair in found:
                down, up, alpha = (
                    _tensor(header, name, read_tensor(file, header, name)) if name else None
                    for name in (pair.down, pair.up, pair.alpha)
                )
                assert down is not None and up is not None
                _refuse_not_finite(path, pair, down, up, alpha)
                if (place := places.get(pair.module)) is None:
                    unplaced.append(pair.module)
                    continue
                scale = pair.scale if alpha is None else float(alpha) / down.shape[0]
                modules.append(_placed(path, base, place, down, up, scale))
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    if not modules:
        raise LoraError(
            Code.INVALID_FILE,
            f"{path} does not belong on this base ({base.family.title}): of its {len(unplaced)} "
            f"modules, such as {unplaced[0]}, the base has none.",
            data={"path": str(path)},
        )
    return Weights(modules, unplaced)


def _placed(
    path: Path, base: Base, place: tuple[str, str], down: Tensor, up: Tensor, scale: float
) -> Placed:
    """A pair brought to its module's shape: files mix linear and 1 × 1 convolution forms."""
    network, module = place
    weight: Tensor = getattr(base, network).get_submodule(module).weight
    rank = down.shape[0]
    wide, high = math.prod(weight.shape[1:]), weight.shape[0]
    if down.numel() != rank * wide or up.numel() != high * rank:
        raise LoraError(
            Code.INVALID_FILE,
            f"{path} was made for another base: its {module} is {down.numel() // max(1, rank)} → "
            f"{up.numel() // max(1, rank)} wide, this base's {wide} → {high}.",
            data={"path": str(path)},
        )
    up = up.reshape(high, rank, *(1 for _ in weight.shape[2:]))
    return Placed(network, module, down.reshape(rank, *weight.shape[1:]), up, scale)


def _refuse_not_finite(path: Path, pair: Pair, *tensors: Tensor | None) -> None:
    if not all(bool(torch.isfinite(one).all()) for one in tensors if one is not None):
        raise LoraError(
            Code.INVALID_FILE,
            f"{path} is broken: {pair.module} holds numbers that are not finite (NaN). "
            "Its training diverged; take an earlier checkpoint.",
            data={"path": str(path)},
        )


def _tensor(header: Header, name: str, data: bytes) -> Tensor:
    """Raw bytes to float32."""
    info = header.tensors[name]
    if info.dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        values = wide.view("<f4")
    elif info.dtype in _NUMPY:
        values = np.frombuffer(data, _NUMPY[info.dtype]).astype("<f4")
    else:
        raise LoraError(Code.INVALID_FILE, f"The tensor {name} is in {info.dtype}, not a float.")
    return torch.from_numpy(values.copy()).reshape(info.shape)


def _raw(tensor: Tensor) -> RawTensor:
    values = tensor.detach().float().cpu().contiguous()
    return RawTensor("F32", tuple(values.shape), values.numpy().tobytes())
