"""The GPUs that the daemon may use, each for a worker of its own.

They are those that the driver tells of; of these the ones that CUDA_VISIBLE_DEVICES names, read as
CUDA reads it; and of these the ones that LORA_TUI_GPUS names. A part of a GPU (MIG) is one of its
own where it is named. ``python -m lora_daemon.gpus 0,1`` says whether a daemon may be given these.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shared.errors import Code, LoraError

VISIBLE = "CUDA_VISIBLE_DEVICES"
LIMIT = "LORA_TUI_GPUS"


class Card(msgspec.Struct, frozen=True):
    """A GPU as the driver tells of it; its place among them is its number in nvidia-smi."""

    uuid: str
    name: str


class Gpu(msgspec.Struct, frozen=True):
    """A GPU that a worker can have for itself."""

    name: str  # its number in nvidia-smi; where that is not known, as CUDA_VISIBLE_DEVICES has it
    visible: str  # what CUDA_VISIBLE_DEVICES says to the worker
    uuid: str = ""  # NVML's name for it; empty where only the worker will know


def cards(module: Any = None) -> list[Card]:
    """What the driver tells of; nothing without one. ``module``: instead of pynvml."""
    try:
        nvml = module or importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # no package, no library, no driver
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
        return [
            Card(_text(nvml.nvmlDeviceGetUUID(one)), _text(nvml.nvmlDeviceGetName(one)))
            for one in handles
        ]
    except Exception:  # NVML's errors are its own types
        return []
    finally:
        nvml.nvmlShutdown()


def usable(there: Sequence[Card], environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """What may be used; nothing where there is nothing to choose: the worker then finds what it
    finds.

    Raises LoraError(BAD_REQUEST) where LORA_TUI_GPUS names what is not there.
    """
    visible, limit = environment.get(VISIBLE), environment.get(LIMIT, "").strip()
    if visible is None:
        found = [Gpu(str(number), card.uuid, card.uuid) for number, card in enumerate(there)]
        if not limit:
            return found if len(found) > 1 else []
    else:
        in_order = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        found = _visible(there, visible, in_order or len({card.name for card in there}) == 1)
    return _limited(found, there, limit, free=visible is None) if limit else found


def _visible(there: Sequence[Card], said: str, in_order: bool) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES leaves: all before the first that makes no sense.

    ``in_order``: CUDA numbers the GPUs as nvidia-smi does; else the fastest is its first, and which
    that is only the worker will know.
    """
    found: list[Gpu] = []
    for name in map(str.strip, said.split(",")):
        if name.startswith("MIG-"):
            one = Gpu(name, name, name)
        elif name.isdecimal() and int(name) < len(there):
            one = Gpu(name, name, there[int(name)].uuid if in_order else "")
        elif found_here := _by_uuid(there, name):
            number, card = found_here
            one = Gpu(str(number), name, card.uuid)
        else:
            break
        if one in found:
            break
        found.append(one)
    return found


def _limited(found: Sequence[Gpu], there: Sequence[Card], limit: str, *, free: bool) -> list[Gpu]:
    """Those that LORA_TUI_GPUS names. ``free``: CUDA_VISIBLE_DEVICES does not limit them too."""
    chosen: list[Gpu] = []
    for name in filter(None, map(str.strip, limit.split(","))):
        one = next((gpu for gpu in found if _is(gpu, name)), None)
        if one is None and free and (name.startswith("MIG-") or not there):
            one = Gpu(name, name, "" if name.isdecimal() else name)  # it cannot be looked up
        if one is None:
            here = ", ".join(gpu.name for gpu in found) or "none"
            raise LoraError(
                Code.BAD_REQUEST,
                f"{LIMIT} names GPU {name}, which is not among those that may be used ({here}). "
                "`nvidia-smi -L` lists numbers and UUIDs"
                + ("." if free else f"; {VISIBLE} limits them as well."),
            )
        if one not in chosen:
            chosen.append(one)
    return chosen


def _is(gpu: Gpu, name: str) -> bool:
    return name == gpu.name or (not name.isdecimal() and gpu.uuid.startswith(name))


def _by_uuid(there: Sequence[Card], name: str) -> tuple[int, Card] | None:
    """The card that a UUID, or the beginning of one, names, and its number."""
    found = [(n, card) for n, card in enumerate(there) if name and card.uuid.startswith(name)]
    return found[0] if len(found) == 1 else None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def main() -> None:
    """Ends with a sentence where the GPUs in the first argument cannot be had."""
    try:
        usable(cards(), {**os.environ, LIMIT: sys.argv[1]})
    except LoraError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
