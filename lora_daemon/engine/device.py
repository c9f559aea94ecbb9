"""The device: its name, its memory, and what its errors mean in words."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from lora_daemon.pipe import Memory
from shared.errors import Code, LoraError
from shared.filenames import to_text

# torch's own, oneDNN's; of what the driver, cuBLAS and cuDNN take beside torch's blocks
_NO_MEMORY = (
    "can't allocate memory", "could not create a primitive", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)  # fmt: skip


def use_threads() -> int:
    """Set torch's threads to LORA_TUI_THREADS, or to the cores this process may use."""
    asked = os.environ.get("LORA_TUI_THREADS", "")
    threads = int(asked) if asked.isdecimal() and int(asked) else len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    return threads


def settle() -> None:
    """Let fp32 be fp32. On a GPU torch would compute convolutions in TF32, with 10 bits of 23, and
    what is trained, mixed and measured in fp32 would not be what it is on a CPU."""
    torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def roughly() -> Iterator[None]:
    """Convolutions in TF32 for as long as the context lasts: several times as fast, and near enough
    for what becomes a picture of 8 bits, or comes from one."""
    with convolutions("allow_tf32"):
        yield


@contextlib.contextmanager
def convolutions(flag: str) -> Iterator[None]:
    """Convolutions on a GPU with one of cuDNN's flags on, for as long as the context lasts."""
    before = getattr(torch.backends.cudnn, flag)
    setattr(torch.backends.cudnn, flag, True)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, flag, before)


def name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def uuid(device: torch.device) -> str:
    """NVML's name for the device; empty on a CPU."""
    if device.type != "cuda":
        return ""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def memory(device: torch.device) -> Memory:
    """The process's own account, in bytes."""
    if device.type == "cuda":
        allocated = torch.cuda.memory_allocated(device)
        reserved = torch.cuda.memory_reserved(device)
        peak = torch.cuda.max_memory_allocated(device)
        return Memory(allocated=allocated, cached=reserved - allocated, peak=peak)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Memory(allocated=pages * os.sysconf("SC_PAGESIZE"), cached=0, peak=0)


def free_cache() -> None:
    """Give back memory that torch keeps for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def poisoned(error: BaseException) -> bool:
    """Whether the CUDA context is beyond use: every later call would fail the same way. What cannot
    be recorded as a CUDA graph ends the recording alone."""
    if out_of_memory(error) or "captur" in str(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def explained(error: Exception) -> LoraError:
    """An error in words for the user. Raises it again if the device is poisoned by it."""
    if isinstance(error, LoraError):
        return _sayable(error)
    if poisoned(error):
        raise error
    if out_of_memory(error):
        return LoraError(
            Code.OUT_OF_MEMORY,
            "The memory is not enough. Take a smaller resolution or batch, or close what else "
            "uses the device.",
            data={"error": str(error)},
            retryable=True,
        )
    if isinstance(error, OSError):
        return _sayable(LoraError.storage("use", error.filename or "a file", error))
    return _sayable(
        LoraError(Code.INTERNAL, f"Something broke in lora-tui: {error!r}. The log has more.")
    )


def _sayable(error: LoraError) -> LoraError:
    """The error as text that the pipe takes: file names need not be UTF-8."""
    data = {key: to_text(one) if isinstance(one, str) else one for key, one in error.data.items()}
    message = error.message.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return LoraError(error.code, message, data=data, retryable=error.retryable)
