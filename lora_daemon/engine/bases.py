"""Bases: a diffusers folder checked part by part, loaded without network, and kept ready to use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from lora_daemon.engine.names import text_names, unet_names
from shared.errors import Code, LoraError
from shared.safetensors_file import read_header

diffusers_logging.set_verbosity_error()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

Objective = Literal["epsilon", "v_prediction"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENS = 77  # CLIP's context, start and end included


@dataclass(frozen=True)
class Family:
    """What distinguishes one kind of base from another, as data.

    ``unet_config``: what the UNet's configuration must say. ``names``: its LoRA table.
    """

    title: str
    base_version: str  # ss_base_model_version
    architecture: str  # modelspec.architecture
    unet_config: Mapping[str, Any]
    names: Callable[[Mapping[str, Any]], dict[str, str]]
    text_dropped_layers: int = 0  # "clip skip" the base was made with


SD1 = Family(
    title="Stable Diffusion 1.x",
    base_version="sd_v1",
    architecture="stable-diffusion-v1/lora",
    unet_config={
        "_class_name": "UNet2DConditionModel",
        "in_channels": 4,
        "out_channels": 4,
        "addition_embed_type": None,
        "use_linear_projection": False,
    },
    names=unet_names,
)
FAMILIES = (SD1,)


@dataclass(frozen=True)
class _Part:
    """One sub-folder: the files it needs, any of ``weights`` if it has weights."""

    folder: str
    title: str
    files: tuple[str, ...]
    weights: str = ""


_PARTS = (
    _Part("text_encoder", "text encoder", ("config.json",), "model"),
    _Part("unet", "UNet", ("config.json",), "diffusion_pytorch_model"),
    _Part("vae", "VAE", ("config.json",), "diffusion_pytorch_model"),
    _Part("scheduler", "scheduler", ("scheduler_config.json",)),
    # The loader makes an empty vocabulary of missing files, without a word.
    _Part("tokenizer", "tokenizer", ("vocab.json", "merges.txt")),
)


@dataclass(eq=False)
class Base:
    """A loaded base. The UNet is in ``dtype``; text encoder and VAE stay in fp32: both run seldom,
    and a half-precision VAE overflows on some pictures.

    ``alphas_cumprod``: ᾱ of the noise schedule, float32 (timesteps,), on the CPU.
    """

    path: Path
    family: Family
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    objective: Objective
    alphas_cumprod: Tensor
    unet_names: dict[str, str] = field(default_factory=dict)
    text_names: dict[str, str] = field(default_factory=dict)

    @property
    def pixels_per_latent(self) -> int:
        return 1 << (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures the base was made for."""
        return int(self.unet.config.sample_size) * self.pixels_per_latent

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied by: in fp16 small gradients would otherwise become zero."""
        return 1024.0 if self.dtype is torch.float16 else 1.0

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 of the UNet's weights file, hex."""
        return _digest(_weights_files(self.path, _PARTS[1]))

    @cached_property
    def vae_hash(self) -> str:
        """SHA-256 of the VAE's weights file, hex."""
        return _digest(_weights_files(self.path, _PARTS[2]))

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
        """Text to conditioning: float32 (1, 77, width). One text at a time: a row computed in a
        batch may differ in its last bits from the same row alone."""
        tokens = self.tokenizer(
            text, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        )
        hidden: Tensor = self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
        return hidden

    def fits(self, text: str) -> bool:
        """Whether the text encoder reads the whole text, not only its first 75 tokens."""
        return len(self.tokenizer(text).input_ids) <= TOKENS

    def denoise(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The UNet's prediction, float32 (n, 4, h, w). ``text``: (n, 77, width) in ``dtype``."""
        seen = noisy.to(self.dtype, memory_format=torch.channels_last)
        predicted: Tensor = self.unet(
            seen, timesteps, encoder_hidden_states=text, return_dict=False
        )[0]
        return predicted.float()

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (n, 3, h, w) in -1 … 1 to mean and deviation of their latents, each float32
        (n, 4, h/8, w/8), scaled to the denoiser's unit variance."""
        posterior = self.vae.encode(pixels.to(self.device)).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents (n, 4, h, w) to pixels (n, 3, 8h, 8w) in -1 … 1."""
        pixels: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return pixels.clamp(-1, 1)


def best_device() -> torch.device:
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def best_precision(device: torch.device) -> str:
    """What ``auto`` means on a device: fp32 on a CPU, bf16 on a GPU that has it, else fp16."""
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def load(path: Path, device: torch.device, precision: str = "auto") -> Base:
    """Check and load a diffusers folder. ``precision``: auto, fp32, bf16 or fp16.

    Raises LoraError: NOT_FOUND, or INVALID_FILE naming the part and file at fault.
    """
    family = check(path)
    dtype = DTYPES[best_precision(device) if precision == "auto" else precision]
    scheduler = DDPMScheduler.from_pretrained(path / "scheduler", local_files_only=True)
    objective = scheduler.config.prediction_type
    if objective not in ("epsilon", "v_prediction"):
        raise _wrong(path / "scheduler", f"predicts {objective!r}, which lora-tui does not know")
    text_encoder = _module(path, _PARTS[0], CLIPTextModel, device, torch.float32)
    unet = _module(path, _PARTS[1], UNet2DConditionModel, device, dtype)
    vae = _module(path, _PARTS[2], AutoencoderKL, device, torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True)
    width = text_encoder.config.hidden_size
    if width != unet.config.cross_attention_dim:
        raise _wrong(
            path,
            f"has a text encoder {width} wide and a UNet that expects "
            f"{unet.config.cross_attention_dim}: they are not of one base",
        )
    prefix = "text_model." if hasattr(text_encoder, "text_model") else ""
    return Base(
        path=path,
        family=family,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        scheduler_config=dict(scheduler.config),
        device=device,
        dtype=dtype,
        objective=objective,
        alphas_cumprod=scheduler.alphas_cumprod.float(),
        unet_names=family.names(unet.config),
        text_names=text_names(text_encoder.config.num_hidden_layers, prefix),
    )


def check(path: Path) -> Family:
    """See that no part of a base is missing or torn, and tell its family. Loads no weights.

    Raises LoraError: NOT_FOUND, or INVALID_FILE naming the part and file at fault.
    """
    if not path.is_dir():
        raise LoraError(Code.NOT_FOUND, f"There is no base at {path} (a diffusers folder).")
    for part in _PARTS:
        folder = path / part.folder
        for name in part.files:
            file = folder / name
            if not file.is_file() or file.stat().st_size == 0:
                raise _wrong(path, f"is not complete: its {part.title} lacks {file}")
            if name.endswith(".json"):
                _read_json(file)
        if part.weights:
            for file in _weights_files(path, part):
                read_header(file)
    config = _read_json(path / "unet" / "config.json")
    for family in FAMILIES:
        if all(config.get(key) == value for key, value in family.unet_config.items()):
            return family
    known = " or ".join(family.title for family in FAMILIES)
    raise _wrong(path, f"is not of a family that lora-tui can train yet ({known})")


def _weights_files(path: Path, part: _Part) -> list[Path]:
    """The safetensors files of a part: whole, in half precision, or in shards."""
    folder = path / part.folder
    for variant in ("", ".fp16"):
        whole = folder / f"{part.weights}{variant}.safetensors"
        if whole.is_file():
            return [whole]
        index = folder / f"{part.weights}.safetensors.index{variant}.json"
        if index.is_file():
            shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
            for shard in shards:
                if not (folder / shard).is_file():
                    raise _wrong(path, f"is not complete: its {part.title} lacks {folder / shard}")
            return [folder / shard for shard in shards]
    pickles = [*folder.glob("*.bin"), *folder.glob("*.ckpt"), *folder.glob("*.pt")]
    if pickles:
        raise _wrong(
            path,
            f"keeps its {part.title} in {pickles[0].name}, a pickle, which can run any program "
            "when opened: lora-tui reads .safetensors only. Convert it first",
        )
    raise _wrong(
        path, f"is not complete: its {part.title} lacks {folder / part.weights}.safetensors"
    )


def _module(path: Path, part: _Part, kind: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Load one network, frozen. Every weight must be in the file, at the right shape."""
    variant = "fp16" if ".fp16" in _weights_files(path, part)[0].name else None
    folder = path / part.folder
    try:
        module, report = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=variant,
            output_loading_info=True, **{_dtype_word(kind): dtype},
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _wrong(folder, f"does not hold a usable {part.title}: {error}") from None
    absent = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
    if absent:
        raise _wrong(
            folder, f"lacks {len(absent)} weights of the {part.title}, among them {min(absent)}"
        )
    for parameter in module.parameters():  # out of the mapped file, into memory of fixed alignment
        parameter.data = parameter.data.clone()
    module.requires_grad_(False).eval()
    frozen: nn.Module = module.to(device=device, memory_format=torch.channels_last)
    return frozen


def _dtype_word(kind: Any) -> str:
    return "dtype" if kind is CLIPTextModel else "torch_dtype"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _wrong(path, f"cannot be read ({error})") from None
    if not isinstance(table, dict):
        raise _wrong(path, "is not a JSON table")
    return table


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _wrong(path: Path, what: str) -> LoraError:
    return LoraError(Code.INVALID_FILE, f"The base {path} {what}.", data={"path": str(path)})
