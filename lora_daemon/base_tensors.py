"""Where each tensor of a base lies, whatever its layout, by its diffusers name. Headers only."""

from __future__ import annotations

from pathlib import Path

from lora_daemon.base_file import open_file
from lora_daemon.base_folder import STEMS, weight_files
from lora_daemon.original_layout import Form
from shared.safetensors_file import Header, TensorInfo, read_header

# (network, tensor's diffusers name) → the file it is in, and a header of that tensor alone.
Places = dict[tuple[str, str], tuple[Path, Header]]


def places(source: Path, copy: Path | None = None) -> Places:
    """Of a base, or of a copy of it. Raises LoraError: NOT_FOUND, STORAGE, INVALID_FILE."""
    where = source if copy is None else copy
    found: Places = {}
    if source.is_file():
        file = open_file(source)
        for network, rows in file.keys.items():
            for row in rows:
                info = _third(file.header.tensors[row.original], row.form)
                own = Header({row.diffusers: info}, {}, file.header.data_start, file.header.size)
                found[network, row.diffusers] = where, own
        return found
    for folder, stem in STEMS.items():
        for path in weight_files(where / folder, stem):
            header = read_header(path)
            found |= {(folder, key): (path, header) for key in header.tensors}
    return found


def _third(info: TensorInfo, form: Form) -> TensorInfo:
    """q, k or v of a matrix that holds all three, one below the other."""
    if form not in ("q", "k", "v"):
        return info
    length, (rows, *wide) = (info.end - info.begin) // 3, info.shape
    begin = info.begin + "qkv".index(form) * length
    return TensorInfo(info.dtype, (rows // 3, *wide), begin, begin + length)
