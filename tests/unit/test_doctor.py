"""The doctor's judgement, from facts that no test machine has."""

from __future__ import annotations

from typing import Any

import pytest

from lora_tui.commands import doctor

HEALTHY: dict[str, Any] = {
    "packages": {"torch": "2.13.0", "diffusers": "0.42.1"},
    "torch_error": "",
    "built_for": "13.0",
    "gpus": [{"name": "H100", "memory": 80 * 2**30, "bf16": True}],
    "gpu_error": "",
    "driver": "580.10",
    "driver_cuda": "13.0",
    "cards": ["H100"],
    "disk": "ext4",
    "network_disk": False,
    "ephemeral_disk": False,
    "free": 100 * 10**9,
    "starter_error": "",
}


def checks(**facts: Any) -> dict[str, doctor.Check]:
    return {check.about: check for check in doctor.installation(HEALTHY | facts)}


def test_nothing_is_wrong_with_a_healthy_box() -> None:
    assert {check.level for check in checks().values()} == {"ok"}


def test_a_box_without_a_gpu_is_no_fault() -> None:
    found = checks(gpus=[], cards=[], driver="", driver_cuda="", built_for="")
    assert found["gpu"].level == "ok"
    assert "CPU" in found["gpu"].found


@pytest.mark.parametrize(
    ("facts", "why", "mend"),
    [
        ({"built_for": ""}, "built without CUDA", "pip install --force-reinstall"),
        ({"driver_cuda": "12.4", "driver": "550.54"}, "runs CUDA up to 12.4", "whl/cu126"),
        ({"gpu_error": "no CUDA-capable device"}, "no CUDA-capable device", "--gpus all"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_bad_with_the_command_that_mends_it(
    facts: dict[str, Any], why: str, mend: str
) -> None:
    check = checks(gpus=[], **facts)["gpu"]
    assert check.level == "bad"
    assert why in check.found
    assert mend in check.mend


def test_a_card_without_bf16_is_told() -> None:
    gpus = [{"name": "T4", "memory": 16 * 2**30, "bf16": False}]
    assert "fp16" in checks(gpus=gpus)["gpu"].found


def test_a_client_without_the_engine_is_told_what_to_install() -> None:
    check = checks(packages={"torch": "", "diffusers": ""})["engine"]
    assert check.level == "warn"
    assert 'pip install "lora-tui[engine]"' in check.mend


def test_a_torch_that_does_not_import_is_bad() -> None:
    check = checks(torch_error="ImportError: libcudart.so.13")["engine"]
    assert check.level == "bad"
    assert "libcudart" in check.found


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({"ephemeral_disk": True, "disk": "overlay"}, "warn", "gone with the machine"),
        ({"network_disk": True, "disk": "nfs4"}, "warn", "network disk"),
        ({"free": 2 * 10**9}, "warn", "2.0 GB free"),
        ({"free": 10**8}, "bad", "100 MB free"),
        ({"free": 10**8, "ephemeral_disk": True, "disk": "tmpfs"}, "bad", "gone with the machine"),
    ],
)
def test_a_disk_that_will_not_do_is_named(facts: dict[str, Any], level: str, words: str) -> None:
    check = checks(**facts)["disk"]
    assert check.level == level
    assert words in check.found
    assert check.mend.count(".") == len(facts) - ("disk" in facts)  # what to do of each


@pytest.mark.parametrize(
    ("environment", "size", "encoding", "level"),
    [
        ({"TERM": "xterm-256color"}, (120, 40), "utf-8", "ok"),
        ({"TERM": "dumb"}, (80, 24), "utf-8", "warn"),
        ({"TERM": "xterm"}, (60, 20), "utf-8", "warn"),
        ({"TERM": "xterm"}, (80, 24), "iso8859-1", "warn"),
    ],
)
def test_the_terminal_is_judged_by_what_the_screens_need(
    environment: dict[str, str], size: tuple[int, int], encoding: str, level: str
) -> None:
    levels = [check.level for check in doctor.terminal(environment, size, encoding)]
    assert ("warn" if "warn" in levels else "ok") == level


def test_a_probe_that_dies_is_a_bad_engine_and_not_a_crash() -> None:
    (check,) = doctor.installation("ModuleNotFoundError: No module named 'msgspec'")
    assert check.level == "bad"


def test_a_torchvision_for_another_torch_is_bad_with_the_command_that_mends_it() -> None:
    error = "RuntimeError: operator torchvision::nms does not exist"
    check = checks(torchvision="0.20.1", torchvision_error=error)["engine"]
    assert check.level == "bad"
    assert "torchvision 0.20.1 does not fit torch 2.13.0" in check.found
    assert check.mend.endswith("pip uninstall torchvision")
