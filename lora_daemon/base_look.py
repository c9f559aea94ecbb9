"""A base looked over, wherever it lies: a diffusers folder or one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_daemon import base_file, base_folder
from lora_daemon.families import Family, Look, Network
from shared.wire import Objective


def look(path: Path, predicts: Objective | None = None) -> Look:
    """What the base at ``path`` is. Reads headers and configurations only; without torch.

    Raises LoraError: NOT_FOUND, STORAGE, or INVALID_FILE saying what it is instead or lacks.
    """
    if path.is_dir() or not path.exists():
        return base_folder.look(path, predicts)
    return base_file.open_file(path, predicts).look


def family(path: Path) -> Family:
    """The family of a base. Raises LoraError as ``look``."""
    return base_file.open_file(path).family if path.is_file() else base_folder.family(path)


def config(path: Path, network: Network) -> dict[str, Any]:
    """One of a base's networks as diffusers describes it. Raises LoraError as ``look``."""
    if path.is_file():
        return dict(base_file.open_file(path).configs[network])
    return base_folder.table(path / network / "config.json")


def unet_config(path: Path) -> dict[str, Any]:
    """A base's denoiser as diffusers describes it. Raises LoraError as ``look``."""
    return config(path, "unet") if path.is_file() else base_folder.denoiser_config(path)
