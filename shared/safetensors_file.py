"""Safetensors files without torch: a distrustful header reader and a writer whose bytes repeat.

The format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length,
a JSON header ``{name: {dtype, shape, data_offsets}, "__metadata__": {str: str}}``, the data.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from shared.errors import Code, LoraError
from shared.files import publish

MAX_HEADER = 100_000_000  # bytes; the reference implementation's own limit
_PICKLES = (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")  # each protocol's first bytes
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


class TensorInfo(msgspec.Struct, frozen=True):
    """Where one tensor lies: ``begin`` and ``end`` count bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(msgspec.Struct, frozen=True):
    """A checked header: every tensor lies inside the file, none overlaps another."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int  # bytes from the start of the file
    size: int  # of the whole file


class Tensor(msgspec.Struct, frozen=True):
    """A tensor to write: ``data`` is little-endian, C order, ``prod(shape)`` values long."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def read_header(path: Path) -> Header:
    """Read and check the header of ``path``, never trusting a length it states.

    Raises LoraError: NOT_FOUND, STORAGE, or INVALID_FILE saying what is wrong with the file.
    """
    try:
        with path.open("rb") as file:
            return _read_header(file, path)
    except FileNotFoundError:
        raise LoraError(Code.NOT_FOUND, f"There is no file {path}.") from None
    except OSError as error:
        raise LoraError.storage("read", path, error) from None


def read_tensor(file: BinaryIO, header: Header, name: str) -> bytes:
    """The raw bytes of one tensor from an open file whose ``header`` was read before."""
    info = header.tensors[name]
    file.seek(header.data_start + info.begin)
    data = file.read(info.end - info.begin)
    if len(data) != info.end - info.begin:
        raise LoraError(Code.INVALID_FILE, f"The file ended inside the tensor {name}.")
    return data


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A whole file in memory. The same input always gives the same bytes.

    Tensors are laid out wide values first (so that each is aligned), then by name; the reference
    writer orders metadata at random, so its hashes do not repeat.
    """
    names = sorted(tensors, key=lambda name: (-SIZES[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    begin = 0
    for name in names:
        tensor = tensors[name]
        if len(tensor.data) != math.prod(tensor.shape) * SIZES[tensor.dtype]:
            raise ValueError(f"{name}: {len(tensor.data)} bytes do not fill {tensor.shape}")
        end = begin + len(tensor.data)
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(tensors[n].data for n in names)])


def write(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, durable: bool = True
) -> int:
    """Publish a file at ``path`` and return its size. Raises LoraError(STORAGE).

    At every moment, a power cut included, ``path`` is the old file or the new one, whole; unless
    ``durable``, a power cut may tear it.
    """
    content = encode(tensors, metadata)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraError.storage("make", path.parent, error) from None
    publish(path, content, durable=durable)
    return len(content)


def _read_header(file: BinaryIO, path: Path) -> Header:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise _wrong(path, _instead(start, size))
    if length > MAX_HEADER:
        raise _wrong(
            path,
            f"has a header of {length:,} bytes, and a safetensors file has at most "
            f"{MAX_HEADER:,}: its metadata is too long",
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"has a damaged header ({error})") from None
    if not isinstance(header, dict):
        raise _wrong(path, "has a header that is not a table")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _wrong(path, "has metadata that is not text")
    tensors = {name: _tensor_info(path, name, entry) for name, entry in header.items()}
    reached = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != reached:
            what = "overlaps the one before" if info.begin < reached else "leaves a gap before it"
            raise _wrong(path, f"has a damaged header: the tensor {name} {what}")
        reached = info.end
    if 8 + length + reached != size:
        what = "was cut short" if 8 + length + reached > size else "has bytes after its end"
        raise _wrong(path, f"{what}: {8 + length + reached} bytes expected, {size} found")
    return Header(tensors, metadata, 8 + length, size)


def _instead(start: bytes, size: int) -> str:
    """What a file is that does not begin with the length of a header that it holds."""
    if start[:4] == b"PK\x03\x04" or start[:2] in _PICKLES:
        return (
            "is a pickle, which can run any program when opened, so lora-tui does not open it. "
            "Convert it to .safetensors with the tool it came from"
        )
    if start.lstrip()[:1] == b"<":
        return (
            "is a web page, saved under the name of a model: the download was refused, or wants "
            "you to log in first. Download it again"
        )
    if start == b"version ":
        return "is a Git LFS pointer, not the file itself. Fetch it with git lfs pull"
    if len(start) < 8:
        return f"is only {size} bytes long, too short for a safetensors file"
    return (
        "is not a safetensors file, or was cut short: its header claims "
        f"{int.from_bytes(start, 'little')} bytes, the file has {size}"
    )


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict):
        raise _wrong(path, f"has a damaged entry for the tensor {name}")
    dtype = entry.get("dtype")
    if dtype not in SIZES:
        raise _wrong(path, f"has the tensor {name} in an unknown number format, {dtype!r}")
    shape, offsets = _wholes(entry.get("shape")), _wholes(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise _wrong(path, f"has a damaged entry for the tensor {name}")
    begin, end = offsets
    if end - begin != math.prod(shape) * SIZES[dtype]:
        raise _wrong(path, f"has a tensor {name} whose length does not fit its shape {shape}")
    return TensorInfo(dtype, tuple(shape), begin, end)


def _wholes(value: Any) -> list[int] | None:
    """A list of whole numbers that fit 63 bits, or None."""
    if not isinstance(value, list):
        return None
    for one in value:
        if type(one) is not int or not 0 <= one < 2**63:
            return None
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name comes twice")
    return table


def _wrong(path: Path, what: str) -> LoraError:
    return LoraError(Code.INVALID_FILE, f"{path} {what}.", data={"path": str(path)})
