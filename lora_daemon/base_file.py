"""A base as one ``.safetensors`` file in the original layout, looked over without torch.

The file is inspected, not believed: its keys and shapes say its family, marks in it say what it
predicts, and every tensor is either used or listed as carried along.
"""

from __future__ import annotations

import copy
import json
import re
import statistics
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lora_daemon.base_folder import cannot_predict
from lora_daemon.carried import carried
from lora_daemon.families import IN_ONE_FILE, SD1, SD2, SDXL, Family, Look, Network
from lora_daemon.original_layout import Row
from lora_daemon.vocabulary import Vocabulary
from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.lora_keys import split_key
from shared.safetensors_file import Header, read_header, read_tensor
from shared.wire import Objective

OWN = "lora_tui.base"  # the metadata entry of a file that is not of its family's full size
_UNET = "model.diffusion_model."
_INPUT = f"{_UNET}input_blocks.0.0.weight"
_WIDTHS = {768: SD1, 1024: SD2, 2048: SDXL}  # of the text that the UNet attends to
_TEXTS = (  # the beginning of a name that only this family has
    ("conditioner.embedders.1.", SDXL),
    ("cond_stage_model.model.", SD2),
    ("cond_stage_model.transformer.", SD1),
)
_OTHERS = (  # what else people have: part of a name → what it is
    ("conditioner.embedders.0.model.", "the refiner of Stable Diffusion XL"),
    ("joint_blocks.", "a Stable Diffusion 3"),
    ("double_blocks.", "a FLUX"),
    ("adaLN_modulation", "a diffusion transformer"),
    ("effnet_mapper", "a Stable Cascade"),
    ("control_model.", "a ControlNet"),
    ("edm_mean", "an EDM base (Playground 2.5)"),
    ("edm_vpred.sigma_max", "an EDM base (CosXL)"),
)
_EMBEDDING = {"emb_params", "clip_l", "clip_g"}
_KINDS_OF_INPUT = {9: "an inpainting base", 8: "an image-editing base", 5: "a depth-to-image base"}
_V_NAME = re.compile(r"v[-_ ]?pred", re.IGNORECASE)
_SD2_TELLS = f"{_UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SD2_SPREAD = 0.09  # its standard deviation is above this in the v-prediction bases


class Own(msgspec.Struct, frozen=True):
    """What a file says of itself where its family's configurations do not hold: diffusers'
    configurations by part, and the tokenizer."""

    configs: dict[str, dict[str, Any]]
    vocabulary: Vocabulary | None = None


@dataclass(frozen=True)
class BaseFile:
    """A whole base in one file. ``keys``: each network's rows with the names that this file has."""

    path: Path
    header: Header
    family: Family
    configs: Mapping[str, dict[str, Any]]
    vocabulary: Vocabulary | None
    keys: dict[Network, list[Row]]
    look: Look


def open_file(path: Path, predicts: Objective | None = None) -> BaseFile:
    """Recognise a base and see that no part is missing. Reads the header only.

    ``predicts``: what somebody who knows says it predicts. Raises LoraError: NOT_FOUND, STORAGE, or
    INVALID_FILE saying what the file is instead, or what it lacks.
    """
    header = read_header(path)
    _refuse_others(path, header)
    family = _family(path, header)
    own = _own(path, header)
    configs = copy.deepcopy(own.configs if own else family.configs)
    try:
        keys = {name: _spelled(family.rows(name, configs[name]), header) for name in family.parts}
        side = len(configs["vae"]["block_out_channels"]) - 1
        resolution = configs["unet"]["sample_size"] << side
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _wrong(path, f"has a metadata entry {OWN} that describes no base") from None
    _refuse_gaps(path, header, family, keys)
    objective, guessed = _objective(path, header, family)
    if predicts and predicts not in family.base_versions:
        raise cannot_predict(path, family, predicts)
    if predicts:
        objective, guessed = predicts, ""
    elif own and "v_pred" not in header.tensors:
        objective, guessed = configs["scheduler"].get("prediction_type", objective), ""
    zero_snr = "ztsnr" in header.tensors
    if own is None:
        resolution = family.resolutions[objective]
        configs["unet"]["sample_size"] = resolution >> side
    configs["scheduler"]["prediction_type"] = objective
    if zero_snr:
        configs["scheduler"]["rescale_betas_zero_snr"] = True
        configs["scheduler"]["timestep_spacing"] = "trailing"
    used = {row.original for rows in keys.values() for row in rows}
    look = Look(
        family=family.name,
        layout="file",
        resolution=resolution,
        size=header.size,
        objective=objective,
        guessed=guessed,
        zero_snr=bool(configs["scheduler"].get("rescale_betas_zero_snr")),
        precision=sorted({header.tensors[key].dtype for key in used}),
        carried=carried(header.tensors.keys() - used),
    )
    vocabulary = own.vocabulary if own else None
    return BaseFile(path, header, family, configs, vocabulary, keys, look)


def _refuse_others(path: Path, header: Header) -> None:
    names = header.tensors
    if names and all(split_key(name) for name in names):
        raise _wrong(
            path,
            "is a LoRA, not a base: it changes a base and cannot be one. Use it with --lora, or as "
            "network.start of a recipe",
        )
    if names and names.keys() <= _EMBEDDING:
        raise _wrong(
            path,
            "is a textual inversion, not a base: a word for prompts. Put it into the workspace's "
            "folder embeddings",
        )
    for part, what in _OTHERS:
        if any(part in name for name in names):
            if part == "double_blocks.":
                raise _wrong(
                    path,
                    "is a FLUX in one file, and no such file has T5's tokenizer in it. Give the "
                    "diffusers folder of the model, with model_index.json, or its Hub id",
                )
            raise _wrong(path, f"is {what}, which lora-tui cannot train yet. {_KNOWN}")
    if any(name.startswith(("down_blocks.", "encoder.down_blocks.")) for name in names):
        raise _wrong(
            path,
            "is one network of a diffusers folder. Give the folder that holds model_index.json",
        )
    if _INPUT not in names:
        if any(name.startswith(("encoder.", "decoder.")) for name in names):
            raise _wrong(path, "is a VAE alone. A base has a UNet and a text encoder, too")
        raise _wrong(path, f"is not a base: it has no {_INPUT}. {_KNOWN}")
    channels = (*names[_INPUT].shape, 0, 0)[1]
    if channels != 4:
        kind = _KINDS_OF_INPUT.get(channels, "a base of another kind")
        raise _wrong(
            path,
            f"is {kind} (its UNet takes {channels} channels, not 4), which lora-tui does not "
            "train. Take the plain base that it was made from",
        )


_KNOWN = f"lora-tui trains {', '.join(family.title for family in IN_ONE_FILE)}"


def _family(path: Path, header: Header) -> Family:
    """By the text encoder's names; where there is none, by the width of the text."""
    for beginning, family in _TEXTS:
        if any(name.startswith(beginning) for name in header.tensors):
            return family
    for name, info in header.tensors.items():
        if name.startswith(_UNET) and name.endswith("attn2.to_k.weight") and len(info.shape) == 2:
            if info.shape[1] in _WIDTHS:
                return _WIDTHS[info.shape[1]]
            break
    raise _wrong(path, f"is of no family that lora-tui knows. {_KNOWN}")


def _own(path: Path, header: Header) -> Own | None:
    if (text := header.metadata.get(OWN)) is None:
        return None
    try:
        return msgspec.json.decode(text, type=Own)
    except msgspec.MsgspecError as error:
        raise _wrong(path, f"has a damaged metadata entry {OWN} ({error})") from None


def _spelled(rows: list[Row], header: Header) -> list[Row]:
    """Rows with the names that a file has: some write CLIP's without ``text_model.``."""
    return [
        row._replace(original=short)
        if row.original not in header.tensors
        and (short := row.original.replace(".text_model.", ".")) in header.tensors
        else row
        for row in rows
    ]


def _refuse_gaps(
    path: Path, header: Header, family: Family, keys: Mapping[Network, list[Row]]
) -> None:
    lacks, missing = [], []
    for name, rows in keys.items():
        part = family.parts[name]
        absent = [row.original for row in rows if row.original not in header.tensors]
        missing += absent
        if len(absent) == len(rows):
            lacks.append(f"its {part.title} ({part.prefix}…)")
        elif absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            lacks.append(f"{min(absent)}{more} of its {part.title}")
    if lacks:
        raise LoraError(
            Code.INVALID_FILE,
            f"{to_text(path)} is a {family.title} base that is not complete. It lacks "
            f"{'; '.join(lacks)}. Take a file with everything in it, or a diffusers folder.",
            data={"path": to_text(path), "missing": missing[:100]},
        )


def _objective(path: Path, header: Header, family: Family) -> tuple[Objective, str]:
    """What a base predicts, and why that is a guess, if it is one."""
    if "v_pred" in header.tensors:
        return "v_prediction", ""
    said = header.metadata.get("modelspec.prediction_type", "").lower()
    if said.startswith("v") or header.metadata.get("modelspec.architecture", "").endswith("-v"):
        return "v_prediction", ""
    if said.startswith("eps"):
        return "epsilon", ""
    if _V_NAME.search(path.name):
        return "v_prediction", "only its name says that it predicts v"
    if family is SD2 and _SD2_TELLS in header.tensors:
        with path.open("rb") as file:
            values = _floats(header, _SD2_TELLS, read_tensor(file, header, _SD2_TELLS))
        spread = statistics.pstdev(values)
        objective: Objective = "v_prediction" if spread > _SD2_SPREAD else "epsilon"
        return objective, f"the file does not say; one of its norms has a deviation of {spread:.3f}"
    return "epsilon", ""


def _floats(header: Header, name: str, data: bytes) -> list[float]:
    match header.tensors[name].dtype:
        case "F16":
            values: Iterable[tuple[float]] = struct.iter_unpack("<e", data)
        case "BF16":  # the upper half of a float32
            halves = (data[place : place + 2] for place in range(0, len(data), 2))
            values = struct.iter_unpack("<f", b"".join(b"\0\0" + half for half in halves))
        case "F32":
            values = struct.iter_unpack("<f", data)
        case other:
            raise LoraError(Code.INVALID_FILE, f"The tensor {name} is in {other}, not a float.")
    return [one for (one,) in values]


def own_entry(configs: Mapping[str, Mapping[str, Any]], vocabulary: Vocabulary) -> dict[str, str]:
    """The metadata of a file that is not of its family's full size, for whoever writes one."""
    own = {"configs": configs, "vocabulary": msgspec.to_builtins(vocabulary)}
    return {OWN: json.dumps(own, ensure_ascii=False, sort_keys=True, separators=(",", ":"))}


def _wrong(path: Path, what: str) -> LoraError:
    shown = to_text(path)
    return LoraError(Code.INVALID_FILE, f"{shown} {what}.", data={"path": shown})
