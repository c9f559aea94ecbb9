"""The wheel is all there is: what lora-tui needs travels inside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from shared import __version__
from tests.daemon.process import DaemonProcess

ROOT = Path(__file__).parents[2]
WITHIN = 300.0  # seconds


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy so that no build folder is left in it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("configs", "lora_daemon", "lora_tui", "shared"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", out, source],
        check=True, timeout=WITHIN,
    )  # fmt: skip
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory the wheel is installed in, away from this tree."""
    target = tmp_path_factory.mktemp("elsewhere") / "packages"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--target", target, wheel],
        check=True, timeout=WITHIN,
    )  # fmt: skip
    return target


def run(
    target: Path, *arguments: str, blocked: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Python with the installed lora-tui first and this tree nowhere; ``blocked`` packages are as
    if they were not installed."""
    block = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Rest:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        hidden = name.partition('.')[0] in {blocked!r}\n"
        "        return None if hidden else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Rest\n"
        f"sys.path.insert(0, {str(target)!r})\n"
    )
    code = arguments[1] if arguments[0] == "-c" else (
        f"sys.argv[1:] = {list(arguments)!r}\n"
        "from lora_tui.cli import main\nsys.exit(main())"
    )  # fmt: skip
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LORA_TUI_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-c", block + code], env=kept | environment, cwd=target.parent,
        capture_output=True, text=True, timeout=WITHIN, check=False,
    )  # fmt: skip


def test_the_wheel_has_data_beside_the_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "configs/lesson.toml",
        "configs/demo.toml",
        "configs/lora-tui.service",
        "lora_daemon/migrations/0001.sql",
        "lora_daemon/starter/datasets/creatures/creature-001.png",
        "lora_daemon/starter/datasets/creatures/creature-001.txt",
    ):
        assert wanted in names
    tree = {
        str(path.relative_to(ROOT))
        for part in ("lora_tui", "lora_daemon", "shared", "configs")
        for path in (ROOT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert tree - names == set(), "files of the packages that the wheel leaves behind"
    assert not any(name.startswith(("tests/", "bench/", "docs/")) for name in names)


def test_the_wheel_carries_the_licence_and_the_commands(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (licence,) = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert b"Apache License" in archive.read(licence)
    (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert {b"lora-tui", b"lora-daemon"} <= {
        line.partition(b" ")[0] for line in archive.read(points).splitlines()
    }


def test_torch_is_only_in_the_engine_extra(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
    required = [
        line for line in archive.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist: ")
    ]  # fmt: skip
    assert any("torch>" in line for line in required)
    for line in required:
        name = Requirement(line.removeprefix("Requires-Dist: ")).name
        if name in ("torch", "diffusers", "transformers", "peft"):
            assert 'extra == "engine"' in line
    assert any(
        line.startswith("Requires-Dist: pillow") and "extra" not in line for line in required
    )


def test_it_runs_from_where_it_is_installed(installed: Path) -> None:
    assert run(installed, "--version").stdout == f"lora-tui {__version__}\n"
    listed = run(installed, "recipe", "list")
    assert listed.returncode == 0, listed.stderr
    assert "lesson" in listed.stdout
    assert str(installed) in listed.stdout
    where = run(
        installed, "-c", "from lora_daemon import starter; print(starter.dataset_dir('creatures'))"
    )
    assert where.stdout.startswith(str(installed)), where.stderr


def test_its_daemon_migrates_and_serves_from_there(installed: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {"LORA_TUI_HOME": str(home), "PYTHONPATH": str(installed)}
    try:
        started = run(installed, "daemon", "start", "--json", **environment)
        assert started.returncode == 0, started.stderr
        where = Path(f"/proc/{DaemonProcess(home).pid}/environ").read_bytes()
        assert os.fsencode(installed) in where
        assert run(installed, "dataset", "list", **environment).returncode == 0
    finally:
        DaemonProcess(home).end()


ENGINE = ("torch", "diffusers", "transformers", "peft", "accelerate", "PIL", "numpy", "safetensors")


def test_a_client_alone_works_and_says_what_a_daemon_needs(installed: Path, tmp_path: Path) -> None:
    environment = {"LORA_TUI_HOME": str(tmp_path / "home")}
    version = run(installed, "--version", blocked=ENGINE, **environment)
    assert version.stdout == f"lora-tui {__version__}\n", version.stderr
    assert run(installed, "recipe", "list", blocked=ENGINE, **environment).returncode == 0
    start = run(installed, "daemon", "start", blocked=ENGINE, **environment)
    assert start.returncode == 5
    assert 'pip install "lora-tui[engine]"' in start.stderr
    assert "Traceback" not in start.stderr
