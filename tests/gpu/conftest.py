"""What these tests run on: the first CUDA device, or ``--device cpu`` to rehearse them without.

``pytest tests/gpu -m gpu``. Everything in them that is not CUDA's own runs on the CPU as well, on
which a test that cannot is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lora_daemon.engine import bases
from lora_daemon.engine import device as devices
from lora_daemon.engine.bases import Base
from lora_daemon.starter import base_dir
from tests.engine.conftest import base_path
from tests.engine.worker_process import REPOSITORY


@pytest.fixture(scope="session", autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where the tests compute. Processes that they begin find this project, and the same device."""
    asked = torch.device(request.config.getoption("--device"))
    with pytest.MonkeyPatch.context() as patch:
        around = os.environ.get("PYTHONPATH", "")
        patch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep * bool(around)}{around}")
        if asked.type == "cpu":
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        elif not torch.cuda.is_available():
            build = torch.version.cuda or "none"
            pytest.skip(f"torch {torch.__version__} (CUDA {build}) finds no GPU; see --device")
        devices.settle()
        torch.set_num_threads(1)
        yield asked


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device of a test about what a CPU has not."""
    if device.type != "cuda":
        pytest.skip("of a CUDA device only")
    return device


@pytest.fixture(scope="session")
def base(base_path: Path, device: torch.device) -> Base:
    """The tiny base on the device, in fp32. Tests that inject into it remove what they injected."""
    return bases.load(base_path, device, "fp32")


@pytest.fixture(scope="session")
def on_cpu(base_path: Path) -> Base:
    """The same on the CPU."""
    return bases.load(base_path, torch.device("cpu"), "fp32")


@pytest.fixture(scope="session")
def starter(device: torch.device) -> Base:
    """The starter's base on the device, in fp32."""
    return bases.load(base_dir(), device, "fp32")
