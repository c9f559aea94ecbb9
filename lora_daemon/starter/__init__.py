"""A small Stable Diffusion of our own, its world, judge and data sets. Imports no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).parent


class StarterDamagedError(Exception):
    """A file of the packaged starter is missing or is not the file that was made."""


BASES = {"starter": "base", "starter-kin": "kin", "starter-foreign": "foreign"}
"""The packaged bases by name, and their folders: A, its kin in another look, and a stranger."""


def base_dir(name: str = "starter") -> Path:
    """Return the diffusers folder of a packaged base. Raises `KeyError` for an unknown name."""
    return ROOT / BASES[name]


def blip_dir() -> Path:
    """Return the folder of the tiny BLIP that captions this world."""
    return ROOT / "blip"


def dataset_dir(name: str) -> Path:
    """Return the folder of a packaged data set: `creatures` (captioned) or `pencil` (bare).

    Raises `ValueError` for a name that there is none of.
    """
    folder = ROOT / "datasets" / name
    if not name or not folder.is_dir() or folder.parent != ROOT / "datasets":
        known = ", ".join(sorted(one.name for one in (ROOT / "datasets").glob("*/")))
        raise ValueError(f"the starter has no data set {name!r}; it has: {known}")
    return folder


def made_files(root: Path = ROOT) -> list[Path]:
    """Return every file that `make` makes under `root`, sorted."""
    folders = [*BASES.values(), "blip", "datasets"]
    found = [file for name in folders for file in (root / name).rglob("*")]
    found.append(root / "judge.safetensors")
    return sorted(file for file in found if file.is_file())


def write_checksums(root: Path = ROOT) -> None:
    """Write `SHA256SUMS` over the made files, in the format of `sha256sum`."""
    lines = [f"{_digest(file)}  {file.relative_to(root).as_posix()}\n" for file in made_files(root)]
    (root / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def verify(root: Path | None = None, within: str = "") -> None:
    """Check every made file, or those in one folder such as `base`, against `SHA256SUMS`.

    Raises `StarterDamagedError`, naming the first file that is missing or differs.
    """
    root = root or ROOT
    sums = root / "SHA256SUMS"
    advice = "Install lora-tui again, or make the starter anew: python -m lora_daemon.starter.make"
    if not sums.is_file():
        raise StarterDamagedError(f"The starter's list of checksums is missing: {sums}. {advice}")
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        file = root / name
        if within and not file.is_relative_to(root / within):
            continue
        if not file.is_file():
            raise StarterDamagedError(f"A file of the starter is missing: {file}. {advice}")
        if _digest(file) != digest:
            raise StarterDamagedError(f"A file of the starter is damaged: {file}. {advice}")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
