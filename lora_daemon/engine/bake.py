"""LoRAs baked into a base: ``lora-tui lora bake`` runs this as a process of its own.

``python -m lora_daemon.engine.bake`` takes a ``shared.lora_orders.BakeOrder`` in JSON on stdin. On
stdout come lines of ``Advance``, and at last one ``Baked`` or a ``Failure``. The folder or the file
is copied and W + Σ wᵢ ΔWᵢ written over W where it lies, so that every other byte stays as it was.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import BinaryIO

import lora_daemon.engine  # noqa: F401  before torch: it says how torch's threads wait

# isort: split
import msgspec
import torch
from torch import Tensor

from lora_daemon.base_tensors import Places, places
from lora_daemon.engine import bases, lora_file
from lora_daemon.engine.device import explained, use_threads
from lora_daemon.engine.lora_read import raw, tensor
from lora_daemon.engine.mix import Placed, whole_delta
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.lora_orders import Advance, Baked, BakeOrder
from shared.safetensors_file import Header, read_tensor

Wanted = dict[tuple[str, str], list[tuple[Placed, float]]]  # (network, path) → who, at what weight


def main() -> None:
    """Obey the order on stdin."""
    use_threads()
    try:
        baked = bake(msgspec.json.decode(sys.stdin.buffer.read(), type=BakeOrder))
        _tell(baked)
    except Exception as error:
        _tell(explained(error).failure())


@torch.no_grad()
def bake(order: BakeOrder) -> Baked:
    """Make the folder. Raises LoraError: NOT_FOUND, STORAGE, ALREADY_EXISTS, INVALID_FILE."""
    source, out = Path(typed(order.base)), Path(typed(order.out))
    if out.exists():
        raise LoraError(Code.ALREADY_EXISTS, f"{order.out} is there already. Take another name.")
    if source.is_file() and out.suffix != ".safetensors":
        raise LoraError(
            Code.BAD_REQUEST, f"The base is one file, and so is the result: {order.out}.safetensors"
        )
    base = bases.load(source, torch.device("cpu"))
    wanted: Wanted = {}
    notes = []
    for use in order.sources:
        weights = lora_file.load(Path(typed(use.path)), base)
        if weights.unplaced:
            notes.append(f"{use.path}: {len(weights.unplaced)} modules have no place and are left "
                         f"out, such as {weights.unplaced[0]}.")  # fmt: skip
        for module in weights.modules:
            weight = use.weight
            if module.network.startswith("text") and use.text_weight is not None:
                weight = use.text_weight
            if weight:
                wanted.setdefault((module.network, module.path), []).append((module, weight))
    partial = out.with_name(f".{out.name}.baking")
    try:
        _discard(partial)
        (shutil.copyfile if source.is_file() else shutil.copytree)(source, partial)
        changed = _write(partial, places(source, partial), wanted)
        partial.rename(out)
    except OSError as error:
        raise LoraError.storage("write", to_text(out), error) from None
    finally:
        _discard(partial)
    return Baked(path=order.out, tensors=changed, notes=notes)


def _discard(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.unlink(missing_ok=True)


def _write(base: Path, found: Places, wanted: Wanted) -> int:
    """Write the sums over the tensors of a copied base; returns how many were changed."""
    changed = 0
    for number, ((network, path), members) in enumerate(sorted(wanted.items())):
        bare = path.removeprefix("text_model.")
        for end in ("weight", "bias"):
            spellings = (f"{path}.{end}", f"text_model.{bare}.{end}", f"{bare}.{end}")
            key = next((one for one in spellings if (network, one) in found), "")
            if end == "bias" and all(module.bias is None for module, _ in members):
                continue
            if not key:
                raise LoraError(Code.INVALID_FILE, f"{base} has no {network}/{path}.{end}.")
            with found[network, key][0].open("r+b") as opened:
                _add(opened, found[network, key][1], key, members, bias=end == "bias")
            changed += 1
        _tell(Advance(done=number + 1, total=len(wanted)))
    return changed


def _add(
    file: BinaryIO, header: Header, key: str, members: list[tuple[Placed, float]], *, bias: bool
) -> None:
    clean = tensor(header, key, read_tensor(file, header, key)).double()
    total: Tensor = clean.clone()
    for module, weight in members:
        if bias:
            total += 0.0 if module.bias is None else weight * module.bias.reshape(clean.shape)
        else:
            total += weight * whole_delta(module, clean)
    info = header.tensors[key]
    kept = raw(total, info.dtype)
    largest = torch.finfo({"F16": torch.float16}.get(info.dtype, torch.float32)).max
    if not float(total.abs().max()) <= largest:
        raise LoraError(Code.INVALID_FILE, f"{key} does not fit {info.dtype} with these LoRAs.")
    file.seek(header.data_start + info.begin)
    file.write(kept.data)


def _tell(message: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
