"""What a LoRA file says about itself, read without torch: for ``lora inspect`` and the library."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from shared.errors import LoraError
from shared.lora_keys import Dialect, Module, contents, dialect, wrong
from shared.safetensors_file import Header, read_header, read_tensor

Value = TypeVar("Value")
PACKED = {"F16": "<e", "F32": "<f", "F64": "<d", "I16": "<h", "I32": "<i", "I64": "<q"}  # alphas


class LoraInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA file at a glance. Hashes are SHA-256 in hex."""

    path: str
    size: int  # bytes
    dialect: Dialect
    modules: dict[str, int]  # part ("unet", "transformer", "text encoder") → adapted modules
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
    found = contents(path, header).modules
    try:
        found_alphas = alphas(path, header, found)
        whole, data = _hashes(path, header)
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    metadata = header.metadata
    return LoraInfo(
        path=str(path),
        size=header.size,
        dialect=dialect(header),
        modules=dict(Counter(map(_part, found))),
        rank=commonest(module.rank for module in found),
        alpha=commonest(found_alphas),
        ranks=sorted({module.rank for module in found}),
        dtype=commonest(header.tensors[one.matrix].dtype for one in found),
        base_version=metadata.get("ss_base_model_version", ""),
        title=metadata.get("modelspec.title", "") or metadata.get("ss_output_name", ""),
        trigger=trigger(metadata),
        steps=number(metadata.get("ss_steps")),
        epochs=number(metadata.get("ss_epoch")),
        pictures=number(metadata.get("ss_num_train_images")),
        sha256=whole,
        model_hash=data,
        metadata=metadata,
    )


def trigger(metadata: Mapping[str, str]) -> str:
    """The word that a file says it is called for by; empty where it does not say."""
    return metadata.get("modelspec.trigger_phrase", "")


def prompts(metadata: Mapping[str, str], most: int) -> list[str]:
    """What a LoRA was trained to show, in words: its commonest captions, or its commonest tags in
    one line, with its trigger; empty where the file does not say."""
    word = trigger(metadata)
    counted: Counter[str] = Counter()
    try:
        for tags in msgspec.json.decode(
            metadata.get("ss_tag_frequency", "{}"), type=dict[str, dict[str, int]]
        ).values():
            counted.update(tags)
    except msgspec.MsgspecError:
        pass
    found = [text for text, _ in counted.most_common()]
    captions = [text for text in found if len(text.split()) >= _CAPTION]
    if len(captions) * 2 < len(found):
        captions = [", ".join(found[:_TAGS])] if found else []
    captions = captions[:most] or [word]
    named = [one if word in one else f"{word}, {one}" for one in captions]
    return [one for one in named if one]


def shapes(header: Header) -> str:
    """A digest (SHA-256 in hex) of the formats and shapes of the tensors, whatever their names."""
    return _digest(f"{one.dtype} {one.shape}" for one in header.tensors.values())


def tensors(path: Path) -> str:
    """A digest (SHA-256 in hex) of all tensors of a file, whatever their names and order and the
    metadata: the same for copies that were renamed, relabelled or put into another dialect.

    Raises LoraError: NOT_FOUND, STORAGE, INVALID_FILE.
    """
    header = read_header(path)
    found = []
    try:
        with path.open("rb") as file:
            for name in sorted(header.tensors, key=lambda name: header.tensors[name].begin):
                one = header.tensors[name]
                data = hashlib.sha256(read_tensor(file, header, name)).hexdigest()
                found.append(f"{one.dtype} {one.shape} {data}")
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    return _digest(found)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


_CAPTION, _TAGS = 4, 6  # words of what is a caption and no tag; tags in one prompt


def _part(module: Module) -> str:
    if module.name.startswith(("lora_te", "text_encoder")):
        return "text encoder"
    flux = ("lora_unet_double_blocks_", "lora_unet_single_blocks_", "transformer.")
    return "transformer" if module.name.startswith(flux) else "unet"


def alphas(path: Path, header: Header, found: list[Module]) -> list[float]:
    with path.open("rb") as file:
        return [
            scalar(path, header, module.alpha, read_tensor(file, header, module.alpha))
            if module.alpha
            else module.scale * module.rank
            for module in found
        ]


def scalar(path: Path, header: Header, name: str, data: bytes) -> float:
    dtype = header.tensors[name].dtype
    if dtype == "BF16":  # the upper half of a float32
        dtype, data = "F32", b"\0\0" + data
    try:
        (value,) = struct.unpack(PACKED[dtype], data)
    except (KeyError, struct.error):
        raise wrong(path, f"is broken: {name} is not one number") from None
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


def commonest(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]


def number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
