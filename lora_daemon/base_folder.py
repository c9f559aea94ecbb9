"""A diffusers folder looked over without torch: is a base whole, of which family, for what size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.safetensors_file import read_header

# folder, what it is, its configuration, its weights' file name without suffix
_PARTS = (
    ("text_encoder", "text encoder", ("config.json",), "model"),
    ("unet", "UNet", ("config.json",), "diffusion_pytorch_model"),
    ("vae", "VAE", ("config.json",), "diffusion_pytorch_model"),
    ("scheduler", "scheduler", ("scheduler_config.json",), ""),
    ("tokenizer", "tokenizer", ("vocab.json", "merges.txt"), ""),
)
_WANTED = {"in_channels": 4, "out_channels": 4, "addition_embed_type": None}


class BaseFolder(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole base is."""

    family: str
    resolution: int  # pixels, the side of the pictures it was made for
    size: int  # bytes of its weights


def look(path: Path) -> BaseFolder:
    """See that no part is missing or torn. Reads headers only.

    Raises LoraError: NOT_FOUND, or INVALID_FILE naming everything that is missing.
    """
    shown = to_text(path)
    if path.is_file():
        raise LoraError(
            Code.INVALID_FILE,
            f"{shown} is a file. This version takes a base as a diffusers folder: one with "
            "model_index.json, unet, vae, text_encoder, tokenizer and scheduler.",
        )
    if not path.is_dir():
        raise LoraError(Code.NOT_FOUND, f"There is no folder {shown}.")
    missing: list[str] = []
    size = 0
    for folder, title, files, weights in _PARTS:
        part = path / folder
        missing += [f"{folder}/{n} ({title})" for n in files if not _filled(part / n)]
        if weights:
            found = weight_files(part, weights)
            if not found:
                missing.append(f"{folder}/{weights}.safetensors ({title})")
            for file in found:
                read_header(file)
                size += file.stat().st_size
    if missing:
        raise LoraError(
            Code.INVALID_FILE,
            f"{shown} is no complete base: it lacks {', '.join(missing)}."
            + (_PICKLES if any(path.glob("*/*.bin")) else ""),
            data={"missing": missing},
        )
    unet, vae = _table(path / "unet" / "config.json"), _table(path / "vae" / "config.json")
    if any(unet.get(key) != value for key, value in _WANTED.items()):
        raise LoraError(
            Code.INVALID_FILE,
            f"{shown} is not a Stable Diffusion 1.x base, and this version trains no other "
            "family yet.",
        )
    try:
        resolution = int(unet["sample_size"]) << (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise LoraError(
            Code.INVALID_FILE, f"{shown}: its UNet or VAE configuration does not tell its size."
        ) from None
    return BaseFolder(family="sd1", resolution=resolution, size=size)


_PICKLES = (
    " It has .bin files: those are pickles, which can run any program when opened, so only "
    ".safetensors are read. Convert it first."
)


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of a part: whole, in half precision, or in shards; none: []."""
    for variant in ("", ".fp16"):
        whole = folder / f"{stem}{variant}.safetensors"
        if whole.is_file():
            return [whole]
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            shards = sorted({str(name) for name in _table(index).get("weight_map", {}).values()})
            if all((folder / shard).is_file() for shard in shards):
                return [folder / shard for shard in shards]
    return []


def _table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LoraError(Code.INVALID_FILE, f"{to_text(path)} cannot be read ({error}).") from None
    if not isinstance(table, dict):
        raise LoraError(Code.INVALID_FILE, f"{to_text(path)} is not a table.")
    return table
