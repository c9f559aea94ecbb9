"""Errors of the device in words, and those that nothing more can be done after."""

from __future__ import annotations

import pytest
import torch

from lora_daemon.engine import device
from shared.errors import Code, LoraError


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        # What the driver and its libraries take beside torch's own blocks: nothing is poisoned.
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_too_little_memory_is_said_and_can_be_tried_again(error: Exception) -> None:
    told = device.explained(error)
    assert told.code is Code.OUT_OF_MEMORY and told.retryable


def test_a_poisoned_device_is_not_explained_but_raised() -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert device.poisoned(error)
    with pytest.raises(RuntimeError, match="illegal memory"):
        device.explained(error)


def test_what_cannot_be_recorded_poisons_nothing() -> None:
    for words in ("operation not permitted when stream is capturing",
                  "operation failed due to a previous error during capture"):  # fmt: skip
        assert not device.poisoned(torch.AcceleratorError(f"CUDA error: {words}"))
    assert device.poisoned(torch.AcceleratorError("CUDA error: device-side assert triggered"))


def test_fp32_is_fp32_but_for_what_is_told_roughly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    device.settle()
    assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), device.roughly():
        assert torch.backends.cudnn.allow_tf32
        raise ZeroDivisionError
    assert not torch.backends.cudnn.allow_tf32


def test_other_errors_are_told_without_ending_the_worker() -> None:
    assert device.explained(ZeroDivisionError("x")).code is Code.INTERNAL
    assert device.explained(OSError(28, "No space left", "/f")).code is Code.STORAGE


def test_a_file_name_that_is_no_text_can_be_told() -> None:
    error = LoraError(Code.INVALID_FILE, "bad \udcff.png", data={"path": "\udcff.png", "n": 1})
    told = device.explained(error)
    assert told.message == r"bad \xff.png" and told.data == {"path": r"\xff.png", "n": 1}


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("LORA_TUI_THREADS", "1")
    assert device.use_threads() == torch.get_num_threads() == 1
    torch.set_num_threads(before)
