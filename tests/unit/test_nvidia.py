"""A GPU that the engine cannot use is told, from drivers and builds that no test machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_daemon import nvidia
from shared.gpu_fit import cuda_of, misfit

KERNEL = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\nGCC version: 12.3"


class Nvml:
    """pynvml with one card."""

    def __init__(self, broken: bool = False) -> None:
        self.broken, self.open = broken, 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        if self.broken:
            raise RuntimeError("Driver/library version mismatch")
        return b"580.95.05"

    def __getattr__(self, name: str) -> Any:
        values = {
            "nvmlSystemGetCudaDriverVersion_v2": 13000, "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": 0, "nvmlDeviceGetName": "NVIDIA T4",
        }  # fmt: skip
        return lambda *_: values[name]


def test_the_driver_is_asked_through_nvml_and_else_through_the_kernel(tmp_path: Path) -> None:
    proc = tmp_path / "version"
    nvml = Nvml()
    asked = nvidia.driver(nvml, proc)
    assert asked == nvidia.Driver(version="580.95.05", cuda="13.0", cards=["NVIDIA T4"])
    assert nvml.open == 0
    proc.write_text(KERNEL)
    found = nvidia.driver(Nvml(broken=True), proc)
    assert (found.version, found.cuda, found.cards) == ("550.54.14", "12.9", [])
    assert "mismatch" in found.error
    assert nvidia.driver(object(), proc).version == "550.54.14"  # no NVML at all
    assert nvidia.driver(object(), tmp_path / "absent") == nvidia.Driver()


@pytest.mark.parametrize(
    ("text", "built_for"),
    [
        ("cuda: Optional[str] = '13.0'\nhip = None", "13.0"),
        ("cuda = None\ncudaless = '1'", ""),
        ("debug = False", None),
    ],
)
def test_torchs_build_is_read_without_importing_it(
    tmp_path: Path, text: str, built_for: str | None
) -> None:
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{text}\n")
    assert nvidia.torch_built_for(tmp_path) == built_for


def test_the_status_bar_has_a_sentence_and_a_command_and_no_false_alarm() -> None:
    old = nvidia.Driver(version="550.54.14", cuda="12.4", cards=["NVIDIA T4"])
    (said,) = nvidia.warnings(old, "13.0", "")
    assert said.startswith("NVIDIA T4 cannot be used: driver 550.54.14 runs CUDA up to 12.4")
    assert "--index-url https://download.pytorch.org/whl/cu126" in said
    (said,) = nvidia.warnings(old, "", "cpu")
    assert "without CUDA" in said
    assert "cu126" in said  # the build that this driver runs
    (said,) = nvidia.warnings(old, "12.6", "cpu")  # it should work, and the worker is on the CPU
    assert "torch finds no device" in said
    assert not nvidia.warnings(old, "12.6", "")
    assert not nvidia.warnings(old, "13.0", "cuda:0")
    assert not nvidia.warnings(old, None, "")  # a client only
    assert not nvidia.warnings(nvidia.Driver(), "", "cpu")


def test_a_driver_too_old_for_any_build_is_to_be_updated() -> None:
    assert cuda_of("470.256.02") == "11.8"
    wrong = misfit("470.256.02", "", "12.6", "")
    assert wrong is not None
    assert wrong.mend == "Update the driver (now 470.256.02) to 525 or newer."
