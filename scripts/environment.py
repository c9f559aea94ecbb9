"""Make ``.venv`` and install lora-tui into it, once. Standard library only.

On a box with an NVIDIA GPU its driver is read first, and torch's build chosen by it.

Run again it compares a stamp and says nothing. A torch that is new enough and imports is kept,
whether it is in ``.venv`` already or beside the interpreter this runs in (a rented GPU box often
brings one that fits its driver): constraints.txt then yields to it.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, os.fspath(ROOT))

from shared.gpu_fit import cuda_of, index_for  # noqa: E402 - of the standard library alone too

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "lora-tui.stamp"
OLDEST_TORCH = (2, 11)


def stamp() -> str:
    """What the environment depends on, as a hash; the place counts, because it is not movable."""
    digest = hashlib.sha256(os.fsencode(ROOT))
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def driver(proc: Path = Path("/proc/driver/nvidia/version")) -> str:
    """The version of the NVIDIA driver; empty without one."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True)
        told = done.stdout
    except (OSError, subprocess.SubprocessError):
        try:
            told = proc.read_text()
        except OSError:
            return ""
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", told)
    return found[0] if found else ""


def index(driver: str) -> str:
    """Where torch is to come from: TORCH_INDEX, or a build that the driver runs; empty for the
    ordinary place."""
    asked = os.environ.get("TORCH_INDEX", "")
    if asked or not driver:
        return asked
    found = index_for(cuda_of(driver))
    if found is None:
        say(f"The NVIDIA driver, {driver}, is too old for any torch that lora-tui can use: "
            "training will run on the CPU until the driver is 525 or newer.")  # fmt: skip
    elif found:
        say(f"Torch for CUDA 12 is taken, because the NVIDIA driver is {driver}.")
    return found or ""


def working_torch(python: str | Path, gpu: bool = False) -> str:
    """The version of the torch ``python`` can import, if it is new enough and, with ``gpu``, uses
    one; else nothing."""
    uses = "assert torch.cuda.is_available(); " if gpu else ""
    probe = f"import torch; torch.ones(2).sum().item(); {uses}print(torch.__version__)"
    try:
        done = subprocess.run(
            [python, "-c", probe], capture_output=True, text=True, timeout=300, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    version = done.stdout.strip().splitlines()[-1]
    found = re.match(r"(\d+)\.(\d+)", version)
    new_enough = found and (int(found[1]), int(found[2])) >= OLDEST_TORCH
    return version if new_enough else ""


def see_packages_of_this_venv() -> None:
    """Let ``.venv`` import what the virtual environment this runs in has: a venv's "system
    packages" are those of the interpreter below both."""
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(VENV)}))
    (inside / "lora-tui-outer.pth").write_text(sysconfig.get_path("purelib") + "\n")


def constraints(torch: str) -> Path:
    """The constraints to install with: constraints.txt, except that a torch that is there stays."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    if torch:
        lines = [f"torch=={torch}" if line.startswith("torch==") else line for line in lines]
    path = VENV / "lora-tui.constraints.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> int:
    if STAMP.exists() and PYTHON.exists() and STAMP.read_text() == stamp():
        return 0
    card = driver()
    torch = working_torch(PYTHON) if PYTHON.exists() else ""
    if not PYTHON.exists():
        torch = working_torch(sys.executable, gpu=bool(card))
        say(f"Making .venv with {sys.executable} (Python {sys.version.split()[0]}).")
        venv.create(VENV, with_pip=True, system_site_packages=bool(torch), symlinks=True)
        if torch and sys.prefix != sys.base_prefix:
            see_packages_of_this_venv()
    if torch:
        say(f"Keeping torch {torch}, which is there and works.")
    place = "" if torch else index(card)
    command = [
        PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--quiet",
        "--constraint", constraints(torch),
        *(["--extra-index-url", place] if place else []),
        "--editable", f"{ROOT}[engine,dev]",
    ]  # fmt: skip
    say("Installing lora-tui and what it needs; this takes a few minutes the first time.")
    done = subprocess.run(command, check=False)
    if done.returncode:
        say("The installation did not succeed; pip's message is above. `make` tries again.")
        return done.returncode
    STAMP.write_text(stamp())
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
