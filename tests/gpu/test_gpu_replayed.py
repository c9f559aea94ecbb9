"""Steps recorded as CUDA graphs are the steps that they would be without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_daemon.engine import bases, graphs
from lora_daemon.engine.bases import Base
from tests.engine.test_replayed import RECIPES, learnt

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("sections", [{}, *RECIPES, {"network": {"targets": ["to_q", "conv"]}}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_recorded_step_is_the_one_that_is_launched(
    precision: str, sections: dict[str, Any], cuda: torch.device, base_path: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    base = bases.load(base_path, cuda, precision)
    monkeypatch.setenv("LORA_TUI_CUDA_GRAPHS", "0")
    launched = learnt(base, tmp_path, **sections)
    monkeypatch.delenv("LORA_TUI_CUDA_GRAPHS")
    recorded = learnt(base, tmp_path, **sections)
    assert "No CUDA graph" not in capfd.readouterr().err
    near = 1e-4 if precision == "fp32" else 0.1
    for one, other in zip(launched, recorded, strict=True):
        for before, after in zip(one, other, strict=True):
            assert torch.dist(before, after) <= near * before.norm()


def test_where_there_is_no_room_it_is_launched_and_the_log_says_so(
    base: Base, cuda: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(graphs, "SPARE", 2**60)
    found = learnt(base, tmp_path)
    assert "No CUDA graph: the device has too little memory" in capfd.readouterr().err
    assert all(torch.isfinite(one[2]).all() and one[2].any() for one in found)
