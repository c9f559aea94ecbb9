"""A diffusers folder looked over without torch: is a base whole, of which family, for what size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_daemon.carried import carried
from lora_daemon.families import FAMILIES, Family, Look, Network
from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.safetensors_file import read_header
from shared.wire import Objective

STEMS = {  # the file name of each network's weights, without suffix
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}


def look(path: Path, predicts: Objective | None = None) -> Look:
    """See that no part is missing or torn. Reads headers only.

    ``predicts``: what somebody who knows says it predicts, whatever the scheduler's configuration
    says. Raises LoraError: NOT_FOUND, or INVALID_FILE naming everything that is missing.
    """
    shown = to_text(path)
    if not path.is_dir():
        what = "file" if path.suffix in (".safetensors", ".ckpt") else "folder"
        raise LoraError(Code.NOT_FOUND, f"There is no {what} {shown}.")
    denoiser = denoiser_config(path)
    models = sorted(to_text(one.name) for one in path.glob("*.safetensors"))
    if models and not denoiser and not _filled(path / "model_index.json"):
        raise LoraError(
            Code.INVALID_FILE,
            f"{shown} is a folder with models in it, not one: give a file of it, such as "
            f"{', '.join(models[:3])}.",
            data={"path": shown},
        )
    kind = family(path) if denoiser else FAMILIES[0]
    missing: list[str] = []
    unused: list[str] = []
    formats: set[str] = set()
    size = 0
    for folder, title, files in _parts(kind):
        part = path / folder
        missing += [f"{folder}/{n} ({title})" for n in files if not _filled(part / n)]
        if stem := STEMS.get(folder):
            found = weight_files(part, stem)
            if not found:
                missing.append(f"{folder}/{stem}.safetensors ({title})")
            tensors: set[str] = set()
            for file in found:
                header = read_header(file)
                formats |= {info.dtype for info in header.tensors.values()}
                tensors |= header.tensors.keys()
                size += file.stat().st_size
            if kind.flows and found and _filled(part / "config.json"):
                absent, more = _compared(kind, folder, table(part / "config.json"), tensors)
                unused += more
                if absent:
                    missing.append(f"{len(absent)} weights of {folder}, such as {absent[0]}")
    if missing:
        raise LoraError(
            Code.INVALID_FILE,
            f"{shown} is no complete base: it lacks {', '.join(missing)}."
            + (_PICKLES if any(path.glob("*/*.bin")) else ""),
            data={"missing": missing},
        )
    scheduler = table(path / "scheduler" / "scheduler_config.json")
    objective = _objective(path, kind, scheduler, predicts)
    return Look(
        family=kind.name,
        layout="folder",
        resolution=_resolution(path, kind, denoiser),
        size=size,
        objective=objective,
        zero_snr=bool(scheduler.get("rescale_betas_zero_snr")),
        precision=sorted(formats),
        carried=carried(unused),
    )


def _resolution(path: Path, kind: Family, denoiser: Mapping[str, Any]) -> int:
    vae = table(path / "vae" / "config.json")
    try:
        if kind.flows:  # its transformer takes any size, and says none
            return int(vae["sample_size"])
        return int(denoiser["sample_size"]) << (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise LoraError(
            Code.INVALID_FILE,
            f"{to_text(path)}: its UNet or VAE configuration does not tell its size.",
        ) from None


def _objective(
    path: Path, kind: Family, scheduler: Mapping[str, Any], predicts: Objective | None
) -> Objective:
    """What a base predicts. Raises LoraError."""
    if predicts and predicts not in kind.base_versions:
        raise cannot_predict(path, kind, predicts)
    if kind.flows:
        if "Flow" not in str(scheduler.get("_class_name", "Flow")):
            raise LoraError(
                Code.INVALID_FILE,
                f"{to_text(path)} is a {kind.title} with a {scheduler['_class_name']}, which has "
                "no flow. Take the scheduler folder of the model that it was made from.",
            )
        return "flow"
    objective: Objective = predicts or scheduler.get("prediction_type", "epsilon")
    if objective not in kind.base_versions:
        raise LoraError(
            Code.INVALID_FILE,
            f"{to_text(path)} predicts {objective!r}, which lora-tui does not know.",
        )
    return objective


def cannot_predict(path: Path, kind: Family, predicts: Objective) -> LoraError:
    """What is said of a base that somebody says to predict what its family never does."""
    known = " or ".join(kind.base_versions)
    return LoraError(
        Code.BAD_REQUEST,
        f"{to_text(path)} is a {kind.title}, which predicts {known}, not {predicts}. Leave out "
        "what it predicts.",
    )


def _compared(
    kind: Family, folder: str, config: Mapping[str, Any], tensors: set[str]
) -> tuple[list[str], list[str]]:
    """The tensors that a network lacks, and those that it has no place for. Raises
    LoraError(INVALID_FILE) if its configuration tells no shape."""
    network: Network = next(one for one in kind.parts if one == folder)
    try:
        rows = kind.rows(network, config)
    except (KeyError, TypeError, ValueError) as error:
        raise LoraError(
            Code.INVALID_FILE, f"The configuration of {folder} does not tell its size ({error})."
        ) from None
    wanted = {row.diffusers.removeprefix("text_model.") for row in rows}
    present = {name.removeprefix("text_model.") for name in tensors}
    return sorted(wanted - present), sorted(present - wanted)


_PICKLES = (
    " It has .bin files: those are pickles, which can run any program when opened, so only "
    ".safetensors are read. Convert it first."
)


def denoiser_config(path: Path) -> dict[str, Any]:
    """The configuration of a folder's UNet or transformer; empty if it has neither.

    Raises LoraError(INVALID_FILE).
    """
    for name in dict.fromkeys(one.denoiser for one in FAMILIES):
        if _filled(path / name / "config.json"):
            return table(path / name / "config.json")
    return {}


def family(path: Path) -> Family:
    """The family of a folder by its denoiser's configuration, in which an option left out means no.

    Raises LoraError(INVALID_FILE).
    """
    config = denoiser_config(path)
    channels = config.get("in_channels", 4)
    for one in FAMILIES:
        if not _filled(path / one.denoiser / "config.json"):
            continue
        wanted = {"in_channels": 4, "out_channels": 4} if one.denoiser == "unet" else {}
        given = {**wanted, **config}
        if all((given.get(key) or None) == (value or None)
               for key, value in (wanted | dict(one.unet_marks)).items()):  # fmt: skip
            return one
    known = ", ".join(one.title for one in FAMILIES)
    what = " (its UNet takes 9 channels: an inpainting base)" if channels == 9 else ""
    if _filled(path / "transformer" / "config.json"):
        what = f" (its denoiser is a {config.get('_class_name', 'transformer')})"
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
        yield encoder.tokenizer, "tokenizer", encoder.tokenizer_files


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
