"""The environment `make` makes: exact versions, and a torch that works stays."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``scripts/environment.py`` with a ``.venv`` of the test's own."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / "scripts/environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path)
    return module


def python_with_torch(folder: Path, version: str) -> Path:
    """An interpreter whose torch says it is ``version``."""
    package = folder / "torch.py"
    package.write_text(
        f"__version__ = {version!r}\nclass ones:\n    def __init__(self, n): pass\n"
        "    def sum(self): return self\n    def item(self): return 2.0\n"
    )
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return script


def test_constraints_are_exact_versions_that_every_platform_can_take() -> None:
    lines = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"
    ]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line
    assert "torch==2.13.0" in lines


def test_everything_that_make_installs_has_an_exact_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra in ("engine", "dev"):  # others are for people to add, beside the torch they have
        asked += project["optional-dependencies"][extra]
    exact = {
        line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert {re.split(r"[<>=]", one)[0].replace("_", "-").lower() for one in asked} <= exact


def test_a_torch_that_works_takes_the_place_of_ours(environment: ModuleType) -> None:
    lines = environment.constraints("2.12.0+cu126").read_text().splitlines()
    assert [line for line in lines if line.startswith("torch==")] == ["torch==2.12.0+cu126"]
    untouched = environment.constraints("").read_text().splitlines()
    assert "torch==2.13.0" in untouched


@pytest.mark.parametrize(
    ("version", "kept"),
    [("2.11.0", True), ("2.13.1+cu130", True), ("2.10.1", False), ("1.13.0", False)],
)
def test_only_a_new_enough_torch_is_kept(
    environment: ModuleType, tmp_path: Path, version: str, kept: bool
) -> None:
    found = environment.working_torch(python_with_torch(tmp_path, version))
    assert found == (version if kept else "")


def test_an_interpreter_without_torch_has_none_to_keep(environment: ModuleType) -> None:
    assert environment.working_torch("/nonexistent/python") == ""


def test_a_second_make_installs_nothing(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = tmp_path / "stamp"
    stamp.write_text(environment.stamp())
    monkeypatch.setattr(environment, "STAMP", stamp)
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was run")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert environment.main() == 0


@pytest.mark.parametrize(
    ("told", "version", "place"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb",
            "550.54.14",
            "cu126",
        ),
        ("NVRM version: NVIDIA UNIX Open Module for x86_64  580.95.05  Re", "580.95.05", ""),
        ("NVRM version: NVIDIA UNIX x86_64 Module  470.256.02  Thu", "470.256.02", "CPU"),
    ],
)
def test_torchs_build_is_chosen_by_the_driver(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], told: str, version: str, place: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    (tmp_path / "version").write_text(told)
    assert environment.driver(tmp_path / "version") == version
    chosen = environment.index(version)
    assert chosen.endswith(place if place != "CPU" else "")
    assert bool(chosen) == (place == "cu126")
    assert ("on the CPU" in capsys.readouterr().err) == (place == "CPU")
    monkeypatch.setenv("TORCH_INDEX", "https://mine")
    assert environment.index(version) == "https://mine"


def test_a_torch_that_uses_no_gpu_is_not_kept_where_there_is_one(
    environment: ModuleType, tmp_path: Path
) -> None:
    python = python_with_torch(tmp_path, "2.13.0+cpu")
    with (tmp_path / "torch.py").open("a") as file:
        file.write("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    assert environment.working_torch(python) == "2.13.0+cpu"
    assert environment.working_torch(python, gpu=True) == ""
