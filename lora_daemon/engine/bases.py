"""Bases: a diffusers folder checked part by part, loaded without network, and kept ready to use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from lora_daemon.base_folder import look, weight_files
from lora_daemon.engine.names import text_names, unet_names
from shared.errors import Code, LoraError

diffusers_logging.set_verbosity_error()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

Objective = Literal["epsilon", "v_prediction"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WEIGHTS = "diffusion_pytorch_model"  # of UNet and VAE, without suffix
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
        "in_channels": 4,
        "out_channels": 4,
        "addition_embed_type": None,
        "use_linear_projection": False,
    },
    names=unet_names,
)
FAMILIES = (SD1,)


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
    stamp: object = None  # of the folder when it was loaded
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
        return _digest(weight_files(self.path / "unet", _WEIGHTS))

    @cached_property
    def vae_hash(self) -> str:
        """SHA-256 of the VAE's weights file, hex."""
        return _digest(weight_files(self.path / "vae", _WEIGHTS))

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
        """Text to conditioning: float32 (1, 77, width). One text at a time: a row computed in a
        batch may differ in its last bits from the same row alone."""
        return self.encode_texts([text])

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Texts to conditioning, float32 (n, 77, width), with gradients where they are recorded."""
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
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
    taken_at = stamp(path)
    look(path)  # the loaders below make up what is missing: vocabularies, weights
    dtype = DTYPES[best_precision(device) if precision == "auto" else precision]
    family = _family(path, UNet2DConditionModel.load_config(path / "unet", local_files_only=True))
    unet = _network(path / "unet", UNet2DConditionModel, device, dtype)
    text_encoder = _network(path / "text_encoder", CLIPTextModel, device, torch.float32)
    vae = _network(path / "vae", AutoencoderKL, device, torch.float32)
    scheduler = _part(path / "scheduler", DDPMScheduler)
    objective = scheduler.config.prediction_type
    if objective not in ("epsilon", "v_prediction"):
        raise _wrong(path / "scheduler", f"predicts {objective!r}, which lora-tui does not know")
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
        tokenizer=_part(path / "tokenizer", CLIPTokenizer),
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        scheduler_config=dict(scheduler.config),
        device=device,
        dtype=dtype,
        objective=objective,
        alphas_cumprod=scheduler.alphas_cumprod.float(),
        stamp=taken_at,
        unet_names=family.names(unet.config),
        text_names=text_names(text_encoder.config.num_hidden_layers, prefix),
    )


def stamp(path: Path) -> object:
    """What tells one state of a base's folder from another, without reading its files."""
    files = sorted(path.glob("*/*"))
    return [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _family(path: Path, config: Mapping[str, Any]) -> Family:
    for family in FAMILIES:
        wanted = family.unet_config.items()
        if all((config.get(key) or None) == (value or None) for key, value in wanted):
            return family  # an option left out means no
    known = " or ".join(family.title for family in FAMILIES)
    raise _wrong(path, f"is not of a family that can be trained yet ({known})")


def _part(folder: Path, kind: Any, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _wrong(folder, f"cannot be used: {error}") from None


def _network(folder: Path, kind: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Load one network, frozen. Every weight must be in the file, at the right shape."""
    transformer = kind is CLIPTextModel
    files = weight_files(folder, "model" if transformer else _WEIGHTS)
    network, report = _part(
        folder, kind, use_safetensors=True, output_loading_info=True,
        variant="fp16" if ".fp16" in files[0].name else None,
        **{"dtype" if transformer else "torch_dtype": dtype},
    )  # fmt: skip
    absent = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
    if absent:
        raise _wrong(folder, f"lacks {len(absent)} weights, among them {min(absent)}")
    for parameter in network.parameters():  # out of the mapped file, into memory of fixed alignment
        parameter.data = parameter.data.clone()
    network.requires_grad_(False).eval()
    return network.to(device=device, memory_format=torch.channels_last)


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _wrong(path: Path, what: str) -> LoraError:
    return LoraError(Code.INVALID_FILE, f"The base {path} {what}.", data={"path": str(path)})
