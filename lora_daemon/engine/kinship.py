"""How near two bases are, and a LoRA to a base: the daemon runs this as a process of its own.

``python -m lora_daemon.engine.kinship`` takes a ``shared.affinity.KinshipOrder`` in JSON on stdin.
On stdout comes one ``Kinship`` or a ``Failure``. One matrix of each base is in memory.

Training moves weights little, so kin have nearly the same ones; two trainings from other beginnings
share none. And what a LoRA learns follows the base's own matrices: the gradient at W_q is W_k's
rows times inputs, at W_v it is W_out's. So ΔW lies along singular directions of W more than chance.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import lora_daemon.engine  # noqa: F401  before torch: it says how torch's threads wait

# isort: split
import msgspec
import torch
from torch import Tensor

from lora_daemon import base_tensors
from lora_daemon.base_tensors import Places
from lora_daemon.engine.device import explained, use_threads
from lora_daemon.engine.lora_read import read_modules, tensor
from lora_daemon.engine.parts import low_rank
from shared.affinity import Kinship, KinshipOrder
from shared.filenames import typed
from shared.lora_keys import contents
from shared.lora_names import dotted, is_sdxl
from shared.safetensors_file import read_header, read_tensor


def main() -> None:
    """Obey the order on stdin."""
    use_threads()
    try:
        order = msgspec.json.decode(sys.stdin.buffer.read(), type=KinshipOrder)
        base = Path(typed(order.base))
        if order.lora:
            found: msgspec.Struct = alignment(Path(typed(order.lora)), base)
        else:
            found = distance(base, Path(typed(order.other)))
    except Exception as error:
        found = explained(error).failure()
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")


@torch.no_grad()
def distance(one: Path, other: Path) -> Kinship:
    """Every matrix of the UNet that both have at the same size. Raises LoraError: NOT_FOUND,
    STORAGE, INVALID_FILE."""
    here, there = base_tensors.places(one), base_tensors.places(other)
    modules = {}
    for network, key in sorted(here.keys() & there.keys()):
        path = key.removesuffix(".weight")
        if network != "unet" or path == key:
            continue
        a, b = _matrix(here, key), _matrix(there, key)
        if a is None or b is None or a.shape != b.shape:
            continue
        modules[f"unet.{path}"] = [
            float(a.square().sum()), float(b.square().sum()), float((a * b).sum())
        ]  # fmt: skip
    return Kinship(modules=modules)


@torch.no_grad()
def alignment(lora: Path, base: Path) -> Kinship:
    """How far each module of a LoRA's UNet part lies along the base's directions. Those that do not
    fit are left out. Raises LoraError as ``distance``."""
    header = read_header(lora)
    places, sdxl = base_tensors.places(base), is_sdxl(header)
    modules = {}
    for one in read_modules(lora, header, contents(lora, header)):
        name = dotted(one.module.name, sdxl=sdxl) or ""
        part, _, path = name.partition(".")
        weight = _matrix(places, f"{path}.weight") if part == "unet" else None
        pair = low_rank(one.part)
        up, down = pair.up, pair.down.flatten(1)
        if weight is None or weight.shape != (len(up), down.shape[1]):
            continue
        size = float(((up.t() @ up) * (down @ down.t())).sum() * weight.square().sum())
        if size > 0 and math.isfinite(size):
            left, right = weight.t() @ up, weight @ down.t()  # of ‖WᵀBA‖² and ‖BAWᵀ‖²
            along = ((left.t() @ left) * (down @ down.t())).sum() * len(up)
            across = ((right.t() @ right) * (up.t() @ up)).sum() * down.shape[1]
            modules[name] = [float(along) / size, float(across) / size]
    return Kinship(modules=modules)


def _matrix(places: Places, key: str) -> Tensor | None:
    """A weight of the UNet as a matrix, (out, in · kernel); None if there is none."""
    if ("unet", key) not in places:
        return None
    path, header = places["unet", key]
    if len(header.tensors[key].shape) < 2:
        return None
    with path.open("rb") as file:
        return tensor(header, key, read_tensor(file, header, key)).flatten(1)


if __name__ == "__main__":
    main()
