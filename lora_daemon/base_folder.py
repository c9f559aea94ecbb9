"""A diffusers folder looked over without torch: is a base whole, of which family, for what size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_daemon.families import FAMILIES, Family, Look
from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.safetensors_file import read_header
from shared.wire import Objective

STEMS = {  # the file name of each network's weights, without suffix
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}


def look(path: Path, predicts: Objective | None = None) -> Look:
    """See that no part is missing or torn. Reads headers only.

    ``predicts``: what somebody who knows says it predicts, whatever the scheduler's configuration
    says. Raises LoraError: NOT_FOUND, or INVALID_FILE naming everything that is missing.
    """
    shown = to_text(path)
    if not path.is_dir():
        raise LoraError(Code.NOT_FOUND, f"There is no folder {shown}.")
    unet = table(path / "unet" / "config.json") if _filled(path / "unet" / "config.json") else {}
    kind = family(path, unet) if unet else FAMILIES[0]
    missing: list[str] = []
    formats: set[str] = set()
    size = 0
    for folder, title, files in _parts(kind):
        part = path / folder
        missing += [f"{folder}/{n} ({title})" for n in files if not _filled(part / n)]
        if stem := STEMS.get(folder):
            found = weight_files(part, stem)
            if not found:
                missing.append(f"{folder}/{stem}.safetensors ({title})")
            for file in found:
                formats |= {info.dtype for info in read_header(file).tensors.values()}
                size += file.stat().st_size
    if missing:
        raise LoraError(
            Code.INVALID_FILE,
            f"{shown} is no complete base: it lacks {', '.join(missing)}."
            + (_PICKLES if any(path.glob("*/*.bin")) else ""),
            data={"missing": missing},
        )
    vae = table(path / "vae" / "config.json")
    scheduler = table(path / "scheduler" / "scheduler_config.json")
    try:
        resolution = int(unet["sample_size"]) << (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise LoraError(
            Code.INVALID_FILE, f"{shown}: its UNet or VAE configuration does not tell its size."
        ) from None
    objective = predicts or scheduler.get("prediction_type", "epsilon")
    if objective not in ("epsilon", "v_prediction"):
        raise LoraError(
            Code.INVALID_FILE, f"{shown} predicts {objective!r}, which lora-tui does not know."
        )
    return Look(
        family=kind.name,
        layout="folder",
        resolution=resolution,
        size=size,
        objective=objective,
        zero_snr=bool(scheduler.get("rescale_betas_zero_snr")),
        precision=sorted(formats),
    )


_PICKLES = (
    " It has .bin files: those are pickles, which can run any program when opened, so only "
    ".safetensors are read. Convert it first."
)


def family(path: Path, config: Mapping[str, Any]) -> Family:
    """The family of a folder by its UNet's configuration, in which an option left out means no.

    Raises LoraError(INVALID_FILE).
    """
    channels = config.get("in_channels", 4)
    if channels == 4 and config.get("out_channels", 4) == 4:
        for one in FAMILIES:
            wanted = one.unet_marks.items()
            if all((config.get(key) or None) == (value or None) for key, value in wanted):
                return one
    known = ", ".join(one.title for one in FAMILIES)
    what = " (its UNet takes 9 channels: an inpainting base)" if channels == 9 else ""
    raise LoraError(
        Code.INVALID_FILE,
        f"{to_text(path)} is of no family that lora-tui trains{what}. It trains {known}.",
        data={"path": to_text(path)},
    )


def _parts(kind: Family) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Folder, what it is, and the files it must have besides weights."""
    for folder, part in kind.parts.items():
        yield folder, part.title, ("config.json",)
    yield "scheduler", "scheduler", ("scheduler_config.json",)
    for encoder in kind.encoders:
        yield encoder.tokenizer, "tokenizer", ("vocab.json", "merges.txt")


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
            shards = sorted({str(name) for name in table(index).get("weight_map", {}).values()})
            if all((folder / shard).is_file() for shard in shards):
                return [folder / shard for shard in shards]
    return []


def table(path: Path) -> dict[str, Any]:
    """A configuration. Raises LoraError(INVALID_FILE)."""
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LoraError(Code.INVALID_FILE, f"{to_text(path)} cannot be read ({error}).") from None
    if not isinstance(table, dict):
        raise LoraError(Code.INVALID_FILE, f"{to_text(path)} is not a table.")
    return table
