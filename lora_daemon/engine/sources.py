"""Where a base's networks come from: a diffusers folder or one file, without network access."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging as diffusers_logging
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.utils import logging as transformers_logging

from lora_daemon import base_file, base_folder
from lora_daemon.base_folder import STEMS, weight_files
from lora_daemon.engine import single_file
from lora_daemon.engine.denoisers import CLASSES
from lora_daemon.families import Network, TextEncoder
from shared.errors import Code, LoraError
from shared.wire import Objective

diffusers_logging.set_verbosity_error()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def opened(path: Path, predicts: Objective | None) -> Folder | File:
    """The source at ``path``, looked over. Raises LoraError: NOT_FOUND, INVALID_FILE."""
    return File(path, predicts) if path.is_file() else Folder(path, predicts)


class Folder:
    """A diffusers folder as a source of networks."""

    def __init__(self, path: Path, predicts: Objective | None) -> None:
        self.path = path
        # The loaders below make up what is missing: vocabularies, weights.
        self.look = base_folder.look(path, predicts)
        self.family = base_folder.family(path)

    def network(self, name: Network, dtype: torch.dtype) -> Any:
        """Every weight must be in the file, at the right shape."""
        folder = self.path / name
        files = weight_files(folder, STEMS[name])
        text = name.startswith("text_encoder")
        use = next((one for one in self.family.encoders if one.network == name), None)
        kind: Any = {**CLASSES, "vae": AutoencoderKL}.get(name, CLIPTextModel)
        options: dict[str, Any] = {"dtype" if text else "torch_dtype": dtype}
        if use and use.kind == "t5":
            kind = T5EncoderModel
        elif use and use.pooled == "projected":
            kind = CLIPTextModelWithProjection
        network, report = _part(
            folder, kind, use_safetensors=True, output_loading_info=True,
            variant="fp16" if ".fp16" in files[0].name else None, **options,
        )  # fmt: skip
        absent = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
        if absent:
            raise wrong(folder, f"lacks {len(absent)} weights, among them {min(absent)}")
        for parameter in network.parameters():  # out of the mapped file, aligned as any other
            parameter.data = parameter.data.clone()
        return network

    def tokenizer(self, use: TextEncoder) -> Any:
        kind = T5Tokenizer if use.kind == "t5" else CLIPTokenizer
        return _part(self.path / use.tokenizer, kind)

    def scheduler(self) -> Any:
        if self.family.flows:
            return _part(self.path / "scheduler", FlowMatchEulerDiscreteScheduler)
        own = _part(self.path / "scheduler", DDPMScheduler).config
        return DDPMScheduler.from_config({**own, "prediction_type": self.look.objective})


class File:
    """One file as a source of networks."""

    def __init__(self, path: Path, predicts: Objective | None) -> None:
        self.file = base_file.open_file(path, predicts)
        self.family = self.file.family

    def network(self, name: Network, dtype: torch.dtype) -> Any:
        return single_file.network(self.file, name, dtype)

    def tokenizer(self, use: TextEncoder) -> Any:
        return single_file.tokenizer(self.file, use)

    def scheduler(self) -> Any:
        return DDPMScheduler.from_config(self.file.configs["scheduler"])


def _part(folder: Path, kind: Any, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise wrong(folder, f"cannot be used: {error}") from None


def wrong(path: Path, what: str) -> LoraError:
    return LoraError(Code.INVALID_FILE, f"The base {path} {what}.", data={"path": str(path)})
