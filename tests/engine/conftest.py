"""Bases that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_daemon.engine import bases
from tests.engine import tiny_base


@pytest.fixture(scope="session")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base's folder. Not to be changed: tests that damage it copy it first."""
    return tiny_base.build(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def base(base_path: Path) -> bases.Base:
    """The tiny base, loaded. Tests that inject into it remove what they injected."""
    torch.set_num_threads(1)
    return bases.load(base_path, torch.device("cpu"))
