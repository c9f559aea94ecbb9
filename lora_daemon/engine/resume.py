"""Resume states: all that a run needs to go on as if it had never stopped, and the proof of it.

One safetensors file a state, published whole: the LoRA's vector, its running average if there is
one, the optimiser's tensors and numbers, the step, the recent losses. All other randomness is
counted from the seed (see ``randomness``), so it needs no state. The last two are kept; a damaged
newest one falls back to the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import numpy as np
import peft
import torch
import transformers
from torch import Tensor

from lora_daemon.engine import quantized
from lora_daemon.engine.bases import Base
from shared.errors import LoraError
from shared.safetensors_file import Tensor as RawTensor
from shared.safetensors_file import read_header, read_tensor, write

KEPT = 2
VERSION = 2
# Numbers of an optimiser's group that the recipe tells it, in a fork other ones than before.
_TOLD = ("lr", "initial_lr", "weight_decay", "eps", "d_coef")
_BYTES = "|uint8"  # behind the name of a tensor that is bytes to an 8-bit optimiser


class Fingerprint(msgspec.Struct, frozen=True):
    """What must be equal for arithmetic to repeat bit for bit. ``kernels``: torch's own (eager), or
    compiled for the run."""

    build: str
    processor: str
    instructions: str
    threads: int
    memory_format: str
    device: str
    dtype: str
    base: str
    processes: int = 1
    quantize: str = quantized.NONE
    kernels: str = "eager"

    @classmethod
    def of(cls, base: Base, processes: int = 1, kernels: str = "eager") -> Fingerprint:
        """This process's, for training on ``base``, together with others if several."""
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__,
                    "transformers": transformers.__version__, "peft": peft.__version__}  # fmt: skip
        device = "cpu"
        if base.device.type == "cuda":
            device = f"cuda {torch.cuda.get_device_name(base.device)}"
        return cls(
            build=" ".join(f"{name} {version}" for name, version in versions.items()),
            processor=_processor(),
            instructions=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
            memory_format="channels_last",
            device=device,
            dtype=str(base.dtype).removeprefix("torch."),
            base=base.model_hash,
            processes=processes,
            quantize=base.quantize,
            kernels=kernels,
        )

    def differs(self, other: Fingerprint) -> str:
        """What is not equal, in words; empty if nothing is."""
        pairs = [
            (name.replace("_", " "), getattr(other, name), getattr(self, name))
            for name in self.__struct_fields__
        ]
        return "; ".join(f"{name}: {then} → {now}" for name, then, now in pairs if then != now)

    @property
    def exact(self) -> bool:
        """Whether this kind of arithmetic repeats at all: fp32 on the CPU does."""
        return self.device == "cpu" and self.dtype == "float32"


class Progress(msgspec.Struct, frozen=True):
    """The numbers of a state."""

    step: int
    numbers: dict[str, int | float]  # of the optimiser, by name as its tensors
    losses: list[float]  # of the last steps
    fingerprint: Fingerprint
    version: int = VERSION


@dataclass(frozen=True)
class State:
    """A whole state. Each tensor is float32, on the CPU: ``vector`` (n,), ``average`` (n,) if one
    is kept, and the optimiser's, named as ``optimizer_memory`` names them."""

    progress: Progress
    tensors: dict[str, Tensor]

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(one).all()) for one in self.tensors.values())


class States:
    """The ``state/`` folder of a run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, state: State) -> None:
        """Keep a state, and let go of all but the last two. Raises LoraError(STORAGE)."""
        raw = {name: one.numpy().tobytes() for name, one in state.tensors.items()}
        tensors = {
            name: RawTensor("F32", tuple(state.tensors[name].shape), data)
            for name, data in raw.items()
        }
        progress = msgspec.json.encode(state.progress).decode()
        metadata = {"progress": progress, "checksum": _checksum(raw, progress)}
        write(self.root / _file_name(state.progress.step), tensors, metadata)
        for old in self._files()[KEPT:]:
            with contextlib.suppress(OSError):
                old.unlink()

    def newest(self) -> tuple[State | None, list[str]]:
        """The newest whole state, and what is wrong with those newer than it."""
        damaged: list[str] = []
        for path in self._files():
            try:
                return _read(path), damaged
            except (LoraError, OSError, KeyError, ValueError, msgspec.MsgspecError) as error:
                damaged.append(f"{path.name} is damaged ({error})")
        return None, damaged

    def thin(self) -> None:
        """Let go of all but the newest whole state."""
        state, _ = self.newest()
        if state is None:
            return
        for path in self._files():
            if path.name != _file_name(state.progress.step):
                with contextlib.suppress(OSError):
                    path.unlink()

    def forget_after(self, step: int) -> None:
        """Remove states newer than ``step``: damaged ones, or those of a diverged stretch."""
        for path in self._files():
            if path.name > f"step{step:09d}.safetensors":
                with contextlib.suppress(OSError):
                    path.unlink()

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.root.glob("step*.safetensors"), reverse=True)


def _file_name(step: int) -> str:
    return f"step{step:09d}.safetensors"


def optimizer_memory(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, int | float]]:
    """What an optimiser remembers, its tensors (float32, on the CPU) and its numbers, named by
    group, and by parameter: ``group.0.d``, ``parameter.3.exp_avg``."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, int | float] = {}
    for prefix, memory in _memories(optimizer):
        for name, value in memory.items():
            if isinstance(value, Tensor):
                mark = _BYTES if value.dtype == torch.uint8 else ""
                tensors[f"{prefix}.{name}{mark}"] = value.detach().float().cpu().clone()
            elif type(value) in (int, float) and math.isfinite(value):
                numbers[f"{prefix}.{name}"] = value
    return tensors, numbers


def put_back_memory(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Let an optimiser, made by the same recipe, remember what a state says."""
    optimizer.state.clear()
    device = optimizer.param_groups[0]["params"][0].device
    for prefix, memory in _memories(optimizer):
        for name, number in state.progress.numbers.items():
            inner = name.removeprefix(f"{prefix}.")
            if name.startswith(f"{prefix}.") and inner not in _TOLD:
                memory[inner] = number
        for name, tensor in state.tensors.items():
            if name.startswith(f"{prefix}."):
                dtype = torch.uint8 if name.endswith(_BYTES) else None
                inner = name.removeprefix(f"{prefix}.").removesuffix(_BYTES)
                memory[inner] = tensor.to(device, dtype, copy=True)


def _memories(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, group in enumerate(optimizer.param_groups):
        yield f"group.{number}", group
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for number, parameter in enumerate(parameters):
        yield f"parameter.{number}", optimizer.state[parameter]


def _read(path: Path) -> State:
    header = read_header(path)
    with path.open("rb") as file:
        raw = {name: read_tensor(file, header, name) for name in header.tensors}
    progress = header.metadata["progress"]
    if header.metadata["checksum"] != _checksum(raw, progress):
        raise ValueError("its checksum does not fit")
    tensors = {
        name: torch.from_numpy(np.frombuffer(data, "<f4").copy()).reshape(
            header.tensors[name].shape
        )
        for name, data in raw.items()
    }
    return State(msgspec.json.decode(progress, type=Progress), tensors)


def _checksum(raw: dict[str, bytes], progress: str) -> str:
    digest = hashlib.sha256(progress.encode())
    for name in sorted(raw):
        digest.update(name.encode() + raw[name])
    return digest.hexdigest()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
