"""Textual inversions read for a base: vectors that its text encoders take in place of tokens'."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from lora_daemon.engine.bases import Base
from lora_daemon.engine.lora_read import tensor
from shared import embeddings
from shared.errors import Code, LoraError
from shared.safetensors_file import Header, read_header, read_tensor


def load(path: Path, base: Base) -> list[Tensor]:
    """The vectors of an embedding's own file, float32 (n, width) for each text encoder.

    Raises LoraError: NOT_FOUND, STORAGE, INVALID_FILE (a pickle, torn, of another width than the
    base's text encoders, not finite), naming the file.
    """
    header = read_header(path)
    return _read(path, header, embeddings.form(path, header), base, path.stem)


def carried(paths: Iterable[Path], base: Base) -> dict[str, list[Tensor]]:
    """The embeddings that LoRA files carry, by names in lower case. Raises as ``load``."""
    found = {}
    for path in paths:
        header = read_header(path)
        for name, form in embeddings.bundled(path, header).items():
            found[name.lower()] = _read(path, header, form, base, name)
    return found


def _read(path: Path, header: Header, form: embeddings.Form, base: Base, name: str) -> list[Tensor]:
    widths = [int(encoder.model.config.hidden_size) for encoder in base.encoders]
    if form.widths != widths:
        raise LoraError(
            Code.INVALID_FILE,
            f"The embedding {name} ({path}) was made for another kind of base: it is "
            f"{_and(form.widths)} wide, and the text encoders of this one ({base.family.title}) "
            f"are {_and(widths)}.",
        )
    try:
        with path.open("rb") as file:
            read = [tensor(header, key, read_tensor(file, header, key)) for key in form.tensors]
    except OSError as error:
        raise LoraError.storage("read", path, error) from None
    if not all(bool(torch.isfinite(one).all()) for one in read):
        raise LoraError(
            Code.INVALID_FILE,
            f"The embedding {name} ({path}) is broken: it holds numbers that are not finite.",
        )
    return [one.reshape(-1, one.shape[-1]) for one in read]


def _and(widths: list[int]) -> str:
    return " and ".join(map(str, widths))
