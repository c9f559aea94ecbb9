"""What a LoRA file says about itself, read without torch: for ``lora inspect`` and the library."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from shared.errors import Code, LoraError
from shared.safetensors_file import Header, read_header, read_tensor

Value = TypeVar("Value")
Dialect = Literal["kohya", "diffusers", "peft"]

_SUFFIXES: tuple[tuple[Dialect, str, str], ...] = (
    ("kohya", ".lora_down.weight", ".lora_up.weight"),
    ("diffusers", ".lora.down.weight", ".lora.up.weight"),
    ("peft", ".lora_A.weight", ".lora_B.weight"),
    ("peft", ".lora_A.default.weight", ".lora_B.default.weight"),
)
_OTHER_KINDS = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lora_mid": "a LoCon with a middle matrix",
    "oft_": "an OFT",
    "glora": "a GLoRA",
}
# diffusers' first form: "….attn1.processor.to_q_lora.down.weight"
_PROCESSOR = re.compile(r"^(?P<path>.+)\.processor\.(?P<leaf>to_(?:q|k|v|out))_lora\.(?P<end>.+)$")


class Pair(msgspec.Struct, frozen=True):
    """One module of a LoRA file and the names of its tensors.

    ``module``: the kohya name, or a dotted path that starts ``unet.`` or ``text_encoder.``.
    ``scale``: alpha / rank where the file keeps it outside the tensors (``alpha`` is then empty).
    """

    module: str
    down: str
    up: str
    alpha: str
    rank: int
    scale: float


class LoraInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA file at a glance. Hashes are SHA-256 in hex."""

    path: str
    size: int  # bytes
    dialect: Dialect
    modules: dict[str, int]  # part ("unet", "text encoder") → adapted modules
    rank: int  # the commonest, as is alpha
    alpha: float
    ranks: list[int]  # all that occur
    dtype: str
    base_version: str = ""  # such as sd_v1; empty: the file does not say
    title: str = ""
    trigger: str = ""
    steps: int | None = None
    epochs: int | None = None
    pictures: int | None = None
    sha256: str  # of the whole file
    model_hash: str  # of everything behind the header, as sshs_model_hash
    metadata: dict[str, str]


def inspect(path: Path) -> LoraInfo:
    """Read a LoRA file's header, alphas and hashes.

    Raises LoraError: NOT_FOUND, STORAGE, or INVALID_FILE saying why it is not a usable LoRA.
    """
    header = read_header(path)
    found = pairs(path, header)
    try:
        alphas = _alphas(path, header, found)
        whole, data = _hashes(path, header)
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    metadata = header.metadata
    return LoraInfo(
        path=str(path),
        size=header.size,
        dialect=dialect(header),
        modules=dict(Counter(map(_part, found))),
        rank=_commonest(pair.rank for pair in found),
        alpha=_commonest(alphas),
        ranks=sorted({pair.rank for pair in found}),
        dtype=_commonest(header.tensors[pair.up].dtype for pair in found),
        base_version=metadata.get("ss_base_model_version", ""),
        title=metadata.get("modelspec.title", "") or metadata.get("ss_output_name", ""),
        trigger=metadata.get("modelspec.trigger_phrase", ""),
        steps=_number(metadata.get("ss_steps")),
        epochs=_number(metadata.get("ss_epoch")),
        pictures=_number(metadata.get("ss_num_train_images")),
        sha256=whole,
        model_hash=data,
        metadata=metadata,
    )


def dialect(header: Header) -> Dialect:
    """Which of the three ways of naming a file uses."""
    for name, suffix, _ in _SUFFIXES:
        if any(key.endswith(suffix) for key in header.tensors):
            return name
    return "diffusers"


def pairs(path: Path, header: Header) -> list[Pair]:
    """Every module of a LoRA file, in the order of their names.

    Raises LoraError(INVALID_FILE) if it is no LoRA, or an adapter of another kind.
    """
    for name in header.tensors:
        for mark, kind in _OTHER_KINDS.items():
            if mark in name:
                raise _wrong(path, f"is {kind}, which lora-tui cannot apply yet ({name})")
    configs = _configs(path, header)
    found = []
    for key in sorted(header.tensors):
        module = up = ""
        for _, down_suffix, up_suffix in _SUFFIXES:
            if key.endswith(down_suffix):
                module = key.removesuffix(down_suffix)
                up = module + up_suffix
        if (match := _PROCESSOR.match(key)) and match["end"] == "down.weight":
            leaf = match["leaf"] + (".0" if match["leaf"] == "to_out" else "")
            module = f"{match['path']}.{leaf}"
            up = key.removesuffix("down.weight") + "up.weight"
        if not module:
            continue
        if up not in header.tensors:
            raise _wrong(path, f"is not complete: {key} has no {up}")
        shape, other = header.tensors[key].shape, header.tensors[up].shape
        if len(shape) < 2 or len(other) < 2 or shape[0] != other[1] or not shape[0]:
            raise _wrong(path, f"is broken: {key} {shape} and {up} {other} do not multiply")
        alpha = f"{module}.alpha" if f"{module}.alpha" in header.tensors else ""
        scale = _scale(configs, _dotted(module), shape[0])
        found.append(Pair(_dotted(module), key, up, alpha, shape[0], scale))
    if not found:
        raise _wrong(path, "is not a LoRA: no tensor in it is named like one")
    return found


def _dotted(module: str) -> str:
    """One spelling for the dotted dialects: ``unet.…`` or ``text_encoder.…``."""
    if module.startswith("lora_"):
        return module
    module = module.removeprefix("base_model.model.")
    if module.startswith(("unet.", "text_encoder.")):
        return module
    return f"unet.{module}" if "_blocks." in module or "mid_block." in module else module


def _configs(path: Path, header: Header) -> dict[str, dict[str, Any]]:
    """Part → its PEFT configuration, from the metadata (diffusers) or the file beside (PEFT)."""
    configs: dict[str, dict[str, Any]] = {}
    try:
        if text := header.metadata.get("lora_adapter_metadata"):
            for key, value in json.loads(text).items():
                part, _, name = key.partition(".")
                configs.setdefault(part, {})[name] = value
        beside = path.parent / "adapter_config.json"
        if not configs and dialect(header) == "peft" and beside.is_file():
            configs["unet"] = dict(json.loads(beside.read_bytes()))
    except (ValueError, TypeError, AttributeError, OSError):
        return {}
    return configs


def _scale(configs: dict[str, dict[str, Any]], module: str, rank: int) -> float:
    """alpha / rank as a PEFT configuration has it; 1.0 without one."""
    part, _, inside = module.partition(".")
    config = configs.get(part, {})
    alpha = config.get("lora_alpha", rank)
    for pattern, special in (config.get("alpha_pattern") or {}).items():
        if inside == pattern or inside.endswith(f".{pattern}"):
            alpha = special
    if not isinstance(alpha, int | float):
        return 1.0
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _part(pair: Pair) -> str:
    return "text encoder" if pair.module.startswith(("lora_te", "text_encoder")) else "unet"


def _alphas(path: Path, header: Header, found: list[Pair]) -> list[float]:
    with path.open("rb") as file:
        return [
            _scalar(header, pair.alpha, read_tensor(file, header, pair.alpha))
            if pair.alpha
            else pair.scale * pair.rank
            for pair in found
        ]


def _scalar(header: Header, name: str, data: bytes) -> float:
    match header.tensors[name].dtype:
        case "F16" if len(data) == 2:
            (value,) = struct.unpack("<e", data)
        case "BF16" if len(data) == 2:  # the upper half of a float32
            (value,) = struct.unpack("<f", b"\0\0" + data)
        case "F32" if len(data) == 4:
            (value,) = struct.unpack("<f", data)
        case "F64" if len(data) == 8:
            (value,) = struct.unpack("<d", data)
        case _:
            raise LoraError(Code.INVALID_FILE, f"The alpha {name} is not one number.")
    return float(value)


def _hashes(path: Path, header: Header) -> tuple[str, str]:
    """SHA-256 of the whole file, and of what follows its header."""
    whole, data = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        whole.update(file.read(header.data_start))
        while block := file.read(1 << 20):
            whole.update(block)
            data.update(block)
    return whole.hexdigest(), data.hexdigest()


def _commonest(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _wrong(path: Path, what: str) -> LoraError:
    return LoraError(Code.INVALID_FILE, f"{path} {what}.", data={"path": str(path)})
