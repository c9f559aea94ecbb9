"""The status bar's word on a GPU that the engine cannot use."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_daemon import nvidia
from lora_daemon.pipe import Ready
from tests.daemon.house import House


async def test_a_gpu_that_the_engine_cannot_use_is_in_the_status_before_and_after_it_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = nvidia.Driver(version="580.95.05", cuda="13.0", cards=["NVIDIA L4"])
    monkeypatch.setattr(nvidia, "driver", lambda: card)
    house = House(home)
    try:
        for built_for, device, told in (
            ("", "", "NVIDIA L4 cannot be used: this torch is built without CUDA"),
            ("13.0", "", ""),
            ("13.0", "cpu", "NVIDIA L4 cannot be used: torch finds no device"),
            ("13.0", "cuda:0", ""),
        ):
            monkeypatch.setattr(nvidia, "torch_built_for", lambda built=built_for: built)
            house.domain._gpu = None  # as in a daemon that has just begun
            house.domain._seats.first.supervisor.ready = Ready(
                pid=1, torch="2.13.0", device=device, device_name="", device_uuid="",
                precision="fp32", threads=1,
            ) if device else None  # fmt: skip
            said = [one for one in house.domain.status().warnings if "L4" in one]
            assert len(said) == bool(told) and told in "".join(said)
    finally:
        await house.close()
