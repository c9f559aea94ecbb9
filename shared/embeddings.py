"""Textual inversions: vectors that stand in a prompt by a name, and the forms their files have.

A file holds one of them: ``emb_params`` or any single tensor (SD 1.x and 2.x), or ``clip_l`` and
``clip_g`` (SDXL, one for each text encoder). A LoRA file may carry some, each tensor under
``bundle_emb.NAME.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from shared.errors import Code, LoraError
from shared.safetensors_file import Header, TensorInfo

BUNDLED = "bundle_emb."
MOST = 75  # vectors: they must find room in one window
SUFFIXES = (".safetensors", ".pt", ".bin")
_SDXL = ("clip_l", "clip_g")


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """A textual inversion in a file: its tensors, one for each text encoder, all (vectors, width)
    or one vector alone."""

    tensors: list[str]
    vectors: int
    widths: list[int]


def form(path: Path, header: Header) -> Form:
    """What an embedding's own file holds. Raises LoraError(INVALID_FILE) naming the file."""
    return _form(path, header.tensors, "")


def bundled(path: Path, header: Header) -> dict[str, Form]:
    """What a LoRA file carries, by names. Raises LoraError(INVALID_FILE) naming the file."""
    found: dict[str, dict[str, TensorInfo]] = {}
    for key, info in header.tensors.items():
        if key.startswith(BUNDLED):
            name = key.removeprefix(BUNDLED).partition(".")[0]
            found.setdefault(name, {})[key] = info
    return {name: _form(path, tensors, name) for name, tensors in found.items()}


def _form(path: Path, tensors: Mapping[str, TensorInfo], name: str) -> Form:
    what = f"{path}: its embedding {name!r}" if name else f"{path}"
    by_ending = {key.rsplit(".", 1)[-1]: key for key in tensors}
    keys = [by_ending[one] for one in _SDXL if one in by_ending]
    if len(keys) != len(_SDXL):
        params = [key for key in tensors if key.endswith(("emb_params", "string_to_param.*"))]
        keys = params or list(tensors)
        if len(keys) != 1:
            raise LoraError(
                Code.INVALID_FILE,
                f"{what} is no textual inversion that is known here: it holds {len(tensors)} "
                "tensors, and neither emb_params nor clip_l and clip_g.",
            )
    shapes = [tensors[key].shape for key in keys]
    counts = {shape[0] if len(shape) == 2 else 1 for shape in shapes}
    if any(len(shape) not in (1, 2) or not all(shape) for shape in shapes) or len(counts) != 1:
        raise LoraError(
            Code.INVALID_FILE,
            f"{what} is no textual inversion: its tensors are {', '.join(map(str, shapes))}.",
        )
    if (vectors := counts.pop()) > MOST:
        raise LoraError(
            Code.INVALID_FILE, f"{what} has {vectors} vectors; a prompt has room for {MOST}."
        )
    return Form(tensors=keys, vectors=vectors, widths=[shape[-1] for shape in shapes])
