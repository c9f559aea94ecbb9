"""The header reader believes nothing; the writer's bytes repeat."""

from __future__ import annotations

import json
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import Code, LoraError
from shared.safetensors_file import Tensor, encode, read_header, write

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def _file(path: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def _entry(**changes: Any) -> dict[str, Any]:
    return {"a": {**GOOD["a"], **changes}}


def test_what_the_reference_library_writes_is_read(tmp_path: Path) -> None:
    tensors = {"x": torch.arange(6.0).reshape(2, 3), "y": torch.ones(5, dtype=torch.float16)}
    save_file(tensors, tmp_path / "f", {"title": "a thing"})
    header = read_header(tmp_path / "f")
    assert header.metadata == {"title": "a thing"}
    assert {n: (t.dtype, t.shape) for n, t in header.tensors.items()} == {
        "x": ("F32", (2, 3)),
        "y": ("F16", (5,)),
    }


def test_what_we_write_the_reference_library_reads(tmp_path: Path) -> None:
    values = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "narrow": Tensor("U8", (3,), b"abc"),
        "wide": Tensor("F32", (2, 3), values.numpy().tobytes()),
    }
    write(tmp_path / "f", tensors, {"ü": "龍"})
    read = load_file(tmp_path / "f")
    assert torch.equal(read["wide"], values)
    assert read["narrow"].tolist() == [97, 98, 99]
    assert read_header(tmp_path / "f").metadata == {"ü": "龍"}


def test_the_same_tensors_in_any_order_give_the_same_bytes() -> None:
    names = [f"t{number}" for number in range(50)]
    tensors = {name: Tensor("F32", (1,), b"1234") for name in names}
    first = encode(tensors, {"b": "2", "a": "1"})
    random.Random(0).shuffle(names)
    assert encode({name: tensors[name] for name in names}, {"a": "1", "b": "2"}) == first


@pytest.mark.parametrize(
    ("header", "data", "length", "words"),
    [
        (GOOD, b"\0" * 7, None, "cut short"),
        (GOOD, b"\0" * 9, None, "after its end"),
        (GOOD, b"", 2**62, "claims"),
        (GOOD, b"", 10**9, "claims"),
        ({"__metadata__": {"a": " " * 100_000_000}}, b"", None, "its metadata is too long"),
        (b"{not json", b"", None, "damaged header"),
        (b"[" * 100_000, b"", None, "damaged header"),
        (b"[]", b"", None, "not a table"),
        (b'{"a":{},"a":{}}', b"", None, "comes twice"),
        ({"__metadata__": {"a": 1}}, b"", None, "not text"),
        (_entry(dtype="F99"), b"\0" * 8, None, "unknown number format"),
        (_entry(shape=[3]), b"\0" * 8, None, "does not fit its shape"),
        (_entry(shape=[-2]), b"\0" * 8, None, "damaged entry"),
        (_entry(shape=[True]), b"\0" * 8, None, "damaged entry"),
        (_entry(shape=[2**40, 2**40, 0], data_offsets=[8, 8]), b"", None, "gap"),
        (_entry(data_offsets=[8, 0]), b"\0" * 8, None, "does not fit"),
        (_entry(data_offsets=[0]), b"\0" * 8, None, "damaged entry"),
        (_entry(data_offsets=[1.0, 9.0]), b"\0" * 8, None, "damaged entry"),
        ({**GOOD, "b": GOOD["a"]}, b"\0" * 8, None, "overlaps"),
        ({"a": 3}, b"", None, "damaged entry"),
    ],
)
def test_a_lying_header_is_refused(
    header: Any, data: bytes, length: int | None, words: str, tmp_path: Path
) -> None:
    path = _file(tmp_path / "lie.safetensors", header, data, length)
    with pytest.raises(LoraError) as refused:
        read_header(path)
    assert refused.value.code is Code.INVALID_FILE
    assert words in refused.value.message and str(path) in refused.value.message


@pytest.mark.parametrize("cut", [0, 4, 8, 20])
def test_a_truncated_file_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(encode({"a": Tensor("F32", (1,), b"1234")}, {})[:cut])
    with pytest.raises(LoraError, match=r"short|too short"):
        read_header(path)


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": 1}))
    with zipfile.ZipFile(tmp_path / "new.pt", "w") as archive:
        archive.writestr("data.pkl", b"")
    for name in ("old.pt", "new.pt"):
        with pytest.raises(LoraError, match="pickle"):
            read_header(tmp_path / name)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(LoraError) as missing:
        read_header(tmp_path / "nothing")
    assert missing.value.code is Code.NOT_FOUND


def test_random_damage_never_escapes_the_reader(tmp_path: Path) -> None:
    dice = random.Random(3)
    good = encode({f"t{n}": Tensor("F32", (2,), b"12345678") for n in range(4)}, {"k": "v"})
    path = tmp_path / "damaged"
    for _ in range(500):
        damaged = bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            header = read_header(path)
        except LoraError as refused:
            assert refused.code is Code.INVALID_FILE
        else:
            ends = [tensor.end for tensor in header.tensors.values()]
            assert max(ends) + header.data_start == len(good)


@pytest.mark.parametrize("length", [0x0280, 0x0480, 60 + 256, 0x0D20])
def test_a_header_whose_length_begins_like_something_else_is_read(
    length: int, tmp_path: Path
) -> None:
    """640 bytes are the first two of a pickle, 316 begin with the < of a web page."""
    text = json.dumps(GOOD).encode().ljust(length)
    assert read_header(_file(tmp_path / "f", text)).tensors.keys() == {"a"}
