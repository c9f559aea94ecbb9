"""Bases as one ``.safetensors`` file in the original layout: read into networks, and written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lora_daemon import base_folder, vocabulary
from lora_daemon.base_file import BaseFile, own_entry
from lora_daemon.base_folder import STEMS, table, weight_files
from lora_daemon.families import Network, TextEncoder
from lora_daemon.original_layout import Row, to_original
from lora_daemon.vocabulary import END, START, Vocabulary
from shared.errors import Code, LoraError
from shared.safetensors_file import SIZES, read_header, read_tensor, write
from shared.safetensors_file import Tensor as RawTensor


def network(file: BaseFile, name: Network, dtype: torch.dtype) -> nn.Module:
    """One network of a base, on the CPU. Every weight comes from the file, at the right shape.

    Raises LoraError: STORAGE, or INVALID_FILE naming the tensor that does not fit.
    """
    model: nn.Module = _empty(name, file.configs[name])
    shapes = {_bare(key): one.shape for key, one in model.state_dict().items()}
    wrapped = any(key.startswith("text_model.") for key in model.state_dict())
    state = {}
    for row, tensor in _tensors(file, name):
        bare = _bare(row.diffusers)
        fitted = _brought(tensor, row, shapes.get(bare, torch.Size()))
        if fitted is None:
            raise LoraError(
                Code.INVALID_FILE,
                f"{file.path}: {row.original} is {_by(tensor.shape)}, and a {file.family.title} "
                f"base of this size has {_by(shapes.get(bare, ()))} there. It is of another kind.",
                data={"path": str(file.path)},
            )
        key = row.diffusers if wrapped or not name.startswith("text") else bare
        # A copy, out of the mapped file, into memory of fixed alignment.
        state[key] = fitted.to(dtype, copy=True).contiguous()
    model.load_state_dict(state, assign=True)
    return model


def tokenizer(file: BaseFile, encoder: TextEncoder) -> CLIPTokenizer:
    """Raises LoraError(WRONG_STATE) where CLIP's vocabulary is not installed."""
    words = file.vocabulary or vocabulary.clip()
    return CLIPTokenizer(
        vocab=words.tokens, merges=words.merges, bos_token=START, eos_token=END, unk_token=END,
        pad_token=encoder.padding if encoder.padding in words.tokens else END, model_max_length=77,
    )  # fmt: skip


def digest(file: BaseFile, name: Network) -> str:
    """SHA-256 of a network's numbers as the file has them, hex."""
    found = hashlib.sha256()
    with file.path.open("rb") as opened:
        for key in sorted({row.original for row in file.keys[name]}):
            info = file.header.tensors[key]
            found.update(f"{key} {info.dtype} {info.shape}".encode())
            found.update(read_tensor(opened, file.header, key))
    return found.hexdigest()


def pack(folder: Path, out: Path, metadata: Mapping[str, str] | None = None) -> int:
    """Write a diffusers folder as one file in the original layout; returns its size in bytes.

    Number formats stay as they are. What of its configurations, or of its tokenizer, is not as its
    family's goes into the metadata, so that the file can be read without the folder. It is put
    together in memory. Raises LoraError: NOT_FOUND, INVALID_FILE, STORAGE.
    """
    found = base_folder.look(folder)
    family = base_folder.family(folder)
    if not family.single_files:
        raise LoraError(
            Code.BAD_REQUEST,
            f"{folder} is a {family.title}, which no one file can hold whole: T5's tokenizer has "
            "no place in it. Other tools take the folder, too.",
        )
    configs: dict[str, dict[str, Any]] = {}
    tensors: dict[str, RawTensor] = {}
    for name in family.parts:
        configs[name] = _without_traces(table(folder / name / "config.json"))
        here = {_whole(name, key): one for key, one in _read(folder / name, STEMS[name])}
        for key, rows in to_original(family.rows(name, configs[name])).items():
            try:
                tensors[key] = _joined([here[row.diffusers] for row in rows], rows[0])
            except KeyError as error:
                raise LoraError(
                    Code.INVALID_FILE, f"{folder / name} has no weight {error.args[0]}."
                ) from None
    prediction = {"epsilon": "epsilon", "v_prediction": "v"}[found.objective]
    said = {"format": "pt", "modelspec.prediction_type": prediction, **(metadata or {})}
    if found.zero_snr:
        tensors["ztsnr"] = RawTensor("F32", (0,), b"")
    words = _vocabulary(folder / family.encoders[0].tokenizer)
    if len(words.tokens) != vocabulary.SIZE or _sizes(configs) != _sizes(family.configs):
        scheduler = table(folder / "scheduler" / "scheduler_config.json")
        said |= own_entry({**configs, "scheduler": _without_traces(scheduler)}, words)
    return write(out, tensors, said)


def _empty(name: Network, config: Mapping[str, Any]) -> Any:
    """The network without memory for its weights; its buffers are real."""
    with init_empty_weights(include_buffers=False):
        if name == "unet":
            return UNet2DConditionModel.from_config(dict(config))
        if name == "vae":
            return AutoencoderKL.from_config(dict(config))
        projects = "CLIPTextModelWithProjection" in config.get("architectures", ())
        kind = CLIPTextModelWithProjection if projects else CLIPTextModel
        return kind(CLIPTextConfig(**config))


def _tensors(file: BaseFile, name: Network) -> Iterator[tuple[Row, Tensor]]:
    try:
        with safe_open(file.path, framework="pt") as opened:
            for row in file.keys[name]:
                yield row, opened.get_tensor(row.original)
    except (OSError, SafetensorError) as error:
        raise LoraError(Code.INVALID_FILE, f"{file.path} cannot be read: {error}.") from None


def _brought(tensor: Tensor, row: Row, shape: torch.Size) -> Tensor | None:
    """An original tensor as diffusers has it; None if it does not come out at ``shape``."""
    match row.form:
        case "turned":
            tensor = tensor.T
        case "q" | "k" | "v":
            if len(tensor) % 3:
                return None
            tensor = tensor.chunk(3)["qkv".index(row.form)]
    if tensor.shape != shape and _core(tensor.shape) == _core(shape):
        tensor = tensor.reshape(shape)  # a 1×1 convolution is a linear layer, either way
    return tensor if tensor.shape == shape else None


def _core(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:2]) if tuple(shape[2:]) in ((), (1, 1)) and len(shape) > 1 else tuple(shape)


def _joined(parts: list[RawTensor], row: Row) -> RawTensor:
    """The original's tensor of diffusers' one, or of its q, k and v."""
    first = parts[0]
    if row.form == "point":
        return RawTensor(first.dtype, (*first.shape[:2], 1, 1), first.data)
    if row.form == "turned":
        values = np.frombuffer(first.data, f"<u{SIZES[first.dtype]}").reshape(first.shape)
        return RawTensor(first.dtype, first.shape[::-1], values.T.tobytes())
    if len(parts) == 1:
        return first
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    return RawTensor(first.dtype, shape, b"".join(part.data for part in parts))


def _read(folder: Path, stem: str) -> Iterator[tuple[str, RawTensor]]:
    for path in weight_files(folder, stem):
        header = read_header(path)
        with path.open("rb") as file:
            for key, info in header.tensors.items():
                yield key, RawTensor(info.dtype, info.shape, read_tensor(file, header, key))


def _vocabulary(folder: Path) -> Vocabulary:
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return Vocabulary(table(folder / "vocab.json"), [(one, two) for one, two in pairs])


def _sizes(configs: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """What of the networks' configurations decides the shapes, and the heads."""
    return [
        [list(value) if isinstance(value, tuple | list) else value for value in values]
        for name in ("unet", "vae", "text_encoder")
        for values in [[configs[name].get(key) for key in _SIZES]]
    ]


_SIZES = (
    "block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim",
    "transformer_layers_per_block", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "vocab_size",
)  # fmt: skip


def _without_traces(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what says only which program wrote it."""
    traces = ("_class_name", "_diffusers_version", "_name_or_path", "transformers_version")
    return {key: value for key, value in config.items() if key not in traces}


def _whole(name: Network, key: str) -> str:
    """A tensor's name in a folder's file, as the table has it."""
    if name.startswith("text") and not key.startswith(("text_model.", "text_projection.")):
        return f"text_model.{key}"
    return key


def _bare(key: str) -> str:
    return key.removeprefix("text_model.")


def _by(shape: object) -> str:
    return " × ".join(map(str, shape)) if shape else "nothing"  # type: ignore[call-overload]
