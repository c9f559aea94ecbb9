"""LoRA files to tensors, module by module, needing no base: for placing them and for merging."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from lora_daemon.engine.parts import LowRank, Part, part
from shared.errors import Code, LoraError
from shared.lora_keys import Contents, Module, wrong
from shared.safetensors_file import Header, read_tensor
from shared.safetensors_file import Tensor as RawTensor

_EXTRAS = {"rows", "magnitude", "bias"}
_TORCH = {
    "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Read:
    """One module of a file: what it adds is ``scale`` times ``part``. Tensors are float32.

    ``extras``: what is not in the part, by role: a DoRA's magnitude, a bias. ``factors``: what the
    part was made of, by role.
    """

    module: Module
    part: Part
    scale: float
    extras: dict[str, Tensor]
    factors: dict[str, Tensor]


def read_modules(path: Path, header: Header, found: Contents) -> Iterator[Read]:
    """Each module of a file whose ``header`` and contents were read before.

    Raises LoraError: STORAGE, or INVALID_FILE (numbers that are not finite, matrices that do not
    multiply, a number format that is not a float's).
    """
    try:
        with path.open("rb") as file:
            for module in found.modules:
                yield read_module(path, file, header, module)
    except OSError as error:
        raise LoraError.storage("read", path, error) from None


def read_module(path: Path, file: BinaryIO, header: Header, module: Module) -> Read:
    """One module of an open file. Raises LoraError as ``read_modules``, and OSError."""
    tensors = {
        role: tensor(header, name, read_tensor(file, header, name))
        for role, name in module.tensors.items()
    }
    return _read(path, module, tensors)


def read_pair(path: Path, file: BinaryIO, header: Header, module: Module) -> tuple[float, LowRank]:
    """The scale and the pair of a plain LoRA's module, as numbers of its file's own format, which
    nobody has looked at: they may be NaN. Raises as ``read_module``."""
    tensors = {
        role: _tensor(header, name, read_tensor(file, header, name))
        for role, name in module.tensors.items()
    }
    return _scale(path, module, tensors), LowRank(tensors["down"], tensors["up"].flatten(1))


def _read(path: Path, module: Module, tensors: dict[str, Tensor]) -> Read:
    if not all(map(finite, tensors.values())):
        raise wrong(
            path,
            f"is broken: {module.name} holds numbers that are not finite (NaN). "
            "Its training diverged; take an earlier checkpoint",
        )
    scale = _scale(path, module, tensors)
    try:
        whole = part(module.kind, tensors)
    except (RuntimeError, ValueError, IndexError):
        raise wrong(path, f"is broken: the matrices of {module.name} do not multiply") from None
    extras = {role: one for role, one in tensors.items() if role in _EXTRAS}
    factors = {role: one for role, one in tensors.items() if role not in _EXTRAS}
    return Read(module, whole, scale, extras, factors)


def _scale(path: Path, module: Module, tensors: dict[str, Tensor]) -> float:
    if not module.alpha:
        return module.scale
    if tensors["alpha"].numel() != 1:
        raise wrong(path, f"is broken: {module.alpha} is not one number")
    return float(tensors["alpha"]) / module.rank


def finite(values: Tensor) -> bool:
    """The sum tells, at a fraction of the cost; where it overflows, each number does."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def tensor(header: Header, name: str, data: bytes) -> Tensor:
    """Raw bytes to float32."""
    return _tensor(header, name, data).to(torch.float32)


def _tensor(header: Header, name: str, data: bytes) -> Tensor:
    info = header.tensors[name]
    if info.dtype not in _TORCH:
        raise LoraError(Code.INVALID_FILE, f"The tensor {name} is in {info.dtype}, not a float.")
    if not data:
        return torch.zeros(info.shape)
    return torch.frombuffer(bytearray(data), dtype=_TORCH[info.dtype]).reshape(info.shape)


def raw(values: Tensor, dtype: str = "F32") -> RawTensor:
    """A tensor as a file keeps it. ``dtype``: F32, F16 or BF16."""
    kept = values.detach().to("cpu", _TORCH[dtype]).contiguous()
    data = kept.reshape(-1).view(torch.uint8).numpy().tobytes() if kept.numel() else b""
    return RawTensor(dtype, tuple(kept.shape), data)
