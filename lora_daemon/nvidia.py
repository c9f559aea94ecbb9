"""The NVIDIA driver and the build of torch beside it, read without importing torch."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import msgspec

from shared.gpu_fit import cuda_of, misfit

PROC = Path("/proc/driver/nvidia/version")  # the kernel module's word, also where NVML is broken


class Driver(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver says. Without one ``version`` is empty."""

    version: str = ""
    cuda: str = ""  # the newest it runs
    cards: list[str] = []  # names
    error: str = ""


def driver(module: Any = None, proc: Path = PROC) -> Driver:
    """Ask NVML, and where it does not answer, the kernel. ``module``: instead of pynvml."""
    try:
        nvml = module or importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception as error:  # no package, no library, no driver, or another than the kernel's
        version = _kernels(proc)
        told = f"the driver's library says: {error}" if version else ""
        return Driver(version=version, cuda=cuda_of(version), error=told)
    try:
        version = _text(nvml.nvmlSystemGetDriverVersion())
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        cards = [
            _text(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index)))
            for index in range(nvml.nvmlDeviceGetCount())
        ]
    except Exception as error:  # NVML's errors are its own types
        version = _kernels(proc)
        return Driver(
            version=version, cuda=cuda_of(version), error=f"the driver's library says: {error}"
        )
    finally:
        nvml.nvmlShutdown()
    return Driver(version=version, cuda=f"{cuda // 1000}.{cuda % 1000 // 10}", cards=cards)


def torch_built_for(folder: Path | None = None) -> str | None:
    """The CUDA version of the installed torch, "" of a build without; None: no torch, or none that
    says so. ``folder``: of the package, instead of the installed one."""
    if folder is None:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent
    try:
        text = (folder / "version.py").read_text()
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*(None|['\"]([\d.]+)['\"])", text, re.MULTILINE)
    return (found[2] or "") if found else None


def warnings(there: Driver, built_for: str | None, device: str) -> list[str]:
    """What a user should know who has a GPU that the engine does not use: a sentence, or nothing.

    ``device``: that of the worker, "" without one.
    """
    if built_for is None or not (there.cards or there.version) or device.startswith("cuda"):
        return []
    error = there.error or ("torch finds no device" if device else "")
    wrong = misfit(there.version, there.cuda, built_for, error)
    if wrong is None:
        return []
    card = ", ".join(there.cards) or "A GPU"
    return [f"{card} cannot be used: {wrong.why}. {wrong.mend} (`lora-tui doctor` says more.)"]


def _kernels(proc: Path) -> str:
    """The version that the kernel module tells; empty without one."""
    try:
        found = re.search(r"\b(\d{3,}\.\d+(\.\d+)?)\b", proc.read_text())
    except OSError:
        return ""
    return found[1] if found else ""


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
