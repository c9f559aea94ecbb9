"""The singular values of a LoRA file: the daemon runs this as a process of its own.

``python -m lora_daemon.engine.spectrum`` takes a ``shared.lora_cards.SpectrumOrder`` in JSON on
stdin. On stdout comes one ``Spectrum`` or a ``Failure``. ΔW is never formed.
"""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lora_daemon.engine  # noqa: F401  before torch: it says how torch's threads wait

# isort: split
import msgspec
import torch

from lora_daemon.engine import low_rank as algebra
from lora_daemon.engine.conflict import layers_of, order_of, where
from lora_daemon.engine.device import explained, use_threads
from lora_daemon.engine.lora_read import read_module
from lora_daemon.engine.parts import low_rank
from shared import blocks, lora_cards
from shared.errors import LoraError
from shared.filenames import typed
from shared.lora_cards import ModuleSpectrum, Spectrum, SpectrumOrder
from shared.lora_keys import Module, contents, wrong
from shared.lora_names import dotted, is_sdxl
from shared.safetensors_file import Header, read_header


def main() -> None:
    """Obey the order on stdin."""
    threads = use_threads()
    gc.freeze()  # what torch brought stays: no need to look through it again and again
    torch.set_num_threads(1)  # the matrices are small: a module a thread
    try:
        order = msgspec.json.decode(sys.stdin.buffer.read(), type=SpectrumOrder)
        found: msgspec.Struct = spectrum(Path(typed(order.path)), threads)
    except Exception as error:
        found = explained(error).failure()
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")


def spectrum(path: Path, threads: int = 1) -> Spectrum:
    """The singular values of every module of a LoRA file, so many modules at a time.

    Raises LoraError: NOT_FOUND, STORAGE, INVALID_FILE.
    """
    header = read_header(path)
    sdxl = is_sdxl(header)
    found = contents(path, header).modules
    used = [one for one in found if one.tensors.keys() != {"bias"}]
    if not used:
        raise wrong(path, "has no matrices, only biases")
    paths = [dotted(one.name, sdxl=sdxl) or one.name for one in used]
    layers = layers_of(paths)
    places = [where(one, layers)[0] if "." in one else blocks.BASE for one in paths]
    with ThreadPoolExecutor(threads) as pool:
        values = list(pool.map(lambda one: _values(path, header, one), used))
    modules = [
        ModuleSpectrum(
            module=name, block=block, effective=lora_cards.effective_rank(each), values=each
        )
        for name, block, each in zip(paths, places, values, strict=True)
    ]
    modules.sort(key=lambda one: (order_of(one.block), one.module))
    notes = []
    if decomposed := sum(one.decomposed for one in used):
        notes.append(f"{decomposed} DoRA modules: of their factors alone, without the norm.")
    return Spectrum(
        rank=max(len(one.values) for one in modules),
        effective=lora_cards.mean_rank(modules),
        energy=sum(map(lora_cards.energy, modules)),
        losses=lora_cards.losses(modules),
        plain=all(one.kind == "lora" and not one.decomposed for one in used),
        blocks=lora_cards.blocks_of(modules),
        modules=modules,
        notes=notes,
    )


def _values(path: Path, header: Header, module: Module) -> list[float]:
    try:
        with path.open("rb") as file:
            one = read_module(path, file, header, module)
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    pair = low_rank(one.part)
    values = algebra.singular_values((pair.up.double(), pair.down.flatten(1).double()))
    found: list[float] = (values * abs(one.scale)).tolist()
    return found


if __name__ == "__main__":
    main()
