"""Bases: a diffusers folder or one file checked, loaded without network, and kept ready to use."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor, nn

from lora_daemon import base_file
from lora_daemon.base_folder import STEMS, weight_files
from lora_daemon.engine import quantized, quick, single_file
from lora_daemon.engine.denoisers import CALLS, Given
from lora_daemon.engine.device import free_cache, out_of_memory, roughly
from lora_daemon.engine.encoders import ORDINARY, Encoder, Reading, together
from lora_daemon.engine.sources import opened, wrong
from lora_daemon.families import Family, Network
from lora_daemon.names import denoiser_names, text_names
from shared.errors import Code, LoraError
from shared.wire import Objective

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(eq=False)
class Base:
    """A loaded base. The denoiser, and a T5, are in ``dtype``; CLIP and the VAE stay in fp32: they
    run seldom, and a half-precision VAE overflows on some pictures. (On a GPU its convolutions are
    in TF32, which has fp32's range.)

    ``alphas_cumprod``: ᾱ of the noise schedule, float32 (timesteps,), on the CPU; of flow matching
    the ᾱ of the same signal-to-noise ratio. ``unet_names``: module path → name in LoRA files of the
    denoiser. ``guidance``: what a guidance-distilled denoiser is told where no picture says.
    ``learnt``: textual inversions at hand, by their names in lower case: vectors of each text
    encoder. ``quantize``: in what the blocks of the denoiser and the text encoders are kept: none,
    fp8 or int8 (``quantized``).
    """

    path: Path
    family: Family
    encoders: list[Encoder]
    denoiser: Any
    vae: AutoencoderKL
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    objective: Objective
    alphas_cumprod: Tensor
    stamp: object = None  # of its files when it was loaded
    unet_names: dict[str, str] = field(default_factory=dict)
    learnt: Mapping[str, list[Tensor]] = field(default_factory=dict)
    guidance: float = 1.0
    quantize: str = quantized.NONE

    # Its networks by the names that ``Network`` has for them.

    @property
    def unet(self) -> Any:
        return self.denoiser

    @property
    def transformer(self) -> Any:
        return self.denoiser

    @property
    def text_encoder(self) -> nn.Module:
        model: nn.Module = self.encoders[0].model
        return model

    @property
    def text_encoder_2(self) -> nn.Module:
        model: nn.Module = self.encoders[1].model
        return model

    @property
    def text_names(self) -> dict[str, str]:
        """Of the first text encoder's modules."""
        return self.encoders[0].names

    @property
    def pixels_per_latent(self) -> int:
        return 1 << (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures the base was made for."""
        if self.family.flows:  # its transformer takes any size, and says none
            return int(self.vae.config.sample_size)
        return int(self.denoiser.config.sample_size) * self.pixels_per_latent

    @property
    def unit(self) -> int:
        """A picture's sides are multiples of so many pixels."""
        return self.pixels_per_latent * self.family.patch

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def block_layers(self) -> int:
        """Layers of a UNet's block, by which blocks are counted; 0 where blocks are single ones."""
        return int(self.denoiser.config.get("layers_per_block", 0))

    @property
    def takes_views(self) -> bool:
        """Whether the denoiser is told how a picture was cropped (SDXL)."""
        return self.family.views

    @property
    def reads_prose(self) -> bool:
        """Whether a T5 reads the prompts."""
        return any(encoder.use.kind == "t5" for encoder in self.encoders)

    @property
    def distilled(self) -> bool:
        """Whether guidance is an input of the denoiser, so that one prediction has it in it."""
        return bool(self.denoiser.config.get("guidance_embeds"))

    @cached_property
    def signal(self) -> Tensor:
        """What of the latents is in a noisy picture at each timestep: √ᾱ, or 1 - σ where it flows
        (https://arxiv.org/abs/2210.02747), float32 (timesteps,)."""
        return 1 - self.spread if self.family.flows else self.alphas_cumprod.sqrt()

    @cached_property
    def spread(self) -> Tensor:
        """What of the noise is in it: √(1-ᾱ), or σ, float32 (timesteps,)."""
        if self.family.flows:
            return flow_sigmas(len(self.alphas_cumprod))
        return (1 - self.alphas_cumprod).sqrt()

    def shift(self, height: int, width: int) -> float:
        """By how much a flow's noise levels are shifted for latents of this size: s in σ' = sσ /
        (1 + (s - 1)σ) (https://arxiv.org/abs/2403.03206, 5.3.2), as its scheduler says."""
        config = self.scheduler_config
        if not config.get("use_dynamic_shifting"):
            return float(config.get("shift", 1.0))
        tokens = (height // self.family.patch) * (width // self.family.patch)
        least, most = config["base_image_seq_len"], config["max_image_seq_len"]
        slope = (config["max_shift"] - config["base_shift"]) / (most - least)
        return math.exp(config["base_shift"] + slope * (tokens - least))

    @property
    def zero_snr(self) -> bool:
        """Whether its noise schedule ends in pure noise (https://arxiv.org/abs/2305.08891)."""
        return bool(self.scheduler_config.get("rescale_betas_zero_snr"))

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied by: in fp16 small gradients would otherwise become zero."""
        return 1024.0 if self.dtype is torch.float16 else 1.0

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 of the denoiser's weights files, or of the one file, hex."""
        if self.path.is_file():
            return _digest([self.path])
        name = self.family.denoiser
        return _digest(weight_files(self.path / name, STEMS[name]))

    @cached_property
    def vae_hash(self) -> str:
        """SHA-256 of the VAE's weights, hex."""
        if self.path.is_file():
            return single_file.digest(base_file.open_file(self.path), "vae")
        return _digest(weight_files(self.path / "vae", STEMS["vae"]))

    @torch.no_grad()
    def encode_text(self, text: str, reading: Reading = ORDINARY) -> Tensor:
        """Text to conditioning: float32 (1, rows, width). One text at a time: a row computed in a
        batch may differ in its last bits from the same row alone."""
        return self.encode_texts([text], reading)

    def encode_texts(self, texts: list[str], reading: Reading = ORDINARY) -> Tensor:
        """Texts to conditioning, float32 (n, rows, width), with gradients where they are recorded.

        The first rows, 77 of one window, are hidden states, those of two encoders side by side. A
        pooled output, which SDXL has, lies in further rows, so that conditioning is always one
        tensor.
        """
        return together([encoder.encode(texts, reading) for encoder in self.encoders])

    def fits(self, text: str, windows: int = 1) -> bool:
        """Whether the text encoder reads the whole text, not only its first 75 tokens a window."""
        return self._reader.fits(text, windows)

    def room(self, windows: int = 1) -> int:
        """Tokens of a text that are read."""
        return self._reader.length if self._reader.use.kind == "t5" else 75 * windows

    @property
    def _reader(self) -> Encoder:
        """The first text encoder whose hidden states are used."""
        return next(one for one in self.encoders if one.width)

    def denoise(
        self, noisy: Tensor, timesteps: Tensor, text: Tensor, views: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:  # fmt: skip
        """The denoiser's prediction, float32 (n, channels, h, w). ``text``: conditioning in
        ``dtype``.

        ``views``: what SDXL is told of the picture, float32 (n, 6): its height and width in pixels
        before it was cropped, the crop's top and left, the height and width that it should have.
        Without them, an uncropped picture of the latents' size. Other families take none.
        ``guidance``: of a guidance-distilled denoiser; None takes the base's own.
        """
        if self.takes_views and views is None:
            height, width = (side * self.pixels_per_latent for side in noisy.shape[2:])
            views = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
            views = views.to(self.device).expand(len(noisy), 6)
        hidden, pooled = text, None
        if rows := self._pooled_rows:
            kept = text[:, text.shape[1] - rows :]
            hidden = text[:, : text.shape[1] - rows]
            pooled = kept.flatten(1)[:, : sum(one.pooled_width for one in self.encoders)]
        told = (self.guidance if guidance is None else guidance) if self.distilled else None
        given = Given(hidden, pooled, views, told)
        predicted = CALLS[self.family.denoiser](
            self.denoiser, noisy.to(self.dtype), timesteps, given
        )
        return predicted.float()

    @cached_property
    def _pooled_rows(self) -> int:
        """How many of the conditioning's rows, the last ones, hold a pooled output."""
        width = sum(one.width for one in self.encoders)
        return sum(-(-one.pooled_width // width) for one in self.encoders)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (n, 3, h, w) in -1 … 1 to mean and deviation of their latents, each float32
        (n, channels, h/8, w/8), scaled to the denoiser's unit variance."""
        with roughly():
            posterior = self.vae.encode(pixels.to(self.device)).latent_dist
        scale = self.vae.config.scaling_factor
        mean = posterior.mean
        if offset := self.vae.config.get("shift_factor"):
            mean = mean - offset
        return mean * scale, posterior.std * scale

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents (n, channels, h, w) to pixels (n, 3, 8h, 8w) in -1 … 1. Where the memory
        is not enough for the whole, tile by tile, with soft seams."""
        plain = latents / self.vae.config.scaling_factor
        if offset := self.vae.config.get("shift_factor"):
            plain = plain + offset
        pixels: Tensor
        with roughly():
            try:
                pixels = self.vae.decode(plain).sample
                return pixels.clamp(-1, 1)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            free_cache()  # only here: the error's frames held on to what they had allocated
            with _tiled(self.vae, max(16, max(plain.shape[2:]) // 2)):
                pixels = self.vae.decode(plain).sample
        return pixels.clamp(-1, 1)


@contextlib.contextmanager
def _tiled(vae: Any, side: int) -> Iterator[None]:
    """The VAE decodes in tiles of so many latents, for as long as the context lasts."""
    before = vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size
    scale = 1 << (len(vae.config.block_out_channels) - 1)
    vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size = True, side, side * scale
    try:
        yield
    finally:
        vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size = before


def ending_in_noise(base: Base) -> Base:
    """The same networks on a noise schedule that is rescaled to end in pure noise
    (https://arxiv.org/abs/2305.08891). Raises LoraError(INVALID_RECIPE) if the base predicts the
    noise, of which there is nothing to learn where all is noise."""
    if base.objective != "v_prediction":
        raise LoraError(
            Code.INVALID_RECIPE,
            "noise.zero_terminal_snr needs a base that predicts v, and this one predicts the "
            "noise. Leave it off, or say what the base predicts with `lora-tui model add`.",
            data={"key": "noise.zero_terminal_snr"},
        )
    scheduler = DDPMScheduler.from_config(base.scheduler_config, rescale_betas_zero_snr=True)
    return replace(
        base,
        scheduler_config=dict(scheduler.config),
        alphas_cumprod=scheduler.alphas_cumprod.float(),
    )


@contextlib.contextmanager
def checkpointed(base: Base, wanted: bool) -> Iterator[None]:
    """The denoiser keeps few activations, if ``wanted``, for as long as the context lasts."""
    if not wanted:
        yield
        return
    base.denoiser.enable_gradient_checkpointing()
    try:
        yield
    finally:
        base.denoiser.disable_gradient_checkpointing()


def best_device() -> torch.device:
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def best_precision(device: torch.device) -> str:
    """What ``auto`` means on a device: fp32 on a CPU, bf16 on a GPU that has it, else fp16."""
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def load(
    path: Path, device: torch.device, precision: str = "auto", predicts: Objective | None = None,
    quantize: str = quantized.NONE,
) -> Base:  # fmt: skip
    """Check and load a base. ``precision``: auto, fp32, bf16 or fp16. ``predicts``: what it
    predicts, where its files do not say or say something else. ``quantize``: none, fp8 or int8.

    Raises LoraError: NOT_FOUND, or INVALID_FILE naming the part and file at fault.
    """
    taken_at = stamp(path)
    dtype = DTYPES[best_precision(device) if precision == "auto" else precision]
    source = opened(path, predicts)
    family = source.family
    encoders = []
    for use in family.encoders:
        kept = dtype if use.kind == "t5" else torch.float32
        model = _settled(path, use.network, source.network(use.network, kept), device, quantize)
        names: dict[str, str] = {}
        if use.kind == "clip":
            prefix = "text_model." if hasattr(model, "text_model") else ""
            names = text_names(model.config.num_hidden_layers, prefix, use.lora_prefix)
        encoders.append(Encoder(use, source.tokenizer(use), model, names))
    name = family.denoiser
    denoiser = _settled(path, name, source.network(name, dtype), device, quantize)
    _fit(path, family, encoders, denoiser.config)
    scheduler = source.scheduler()
    alphas = flow_alphas() if family.flows else scheduler.alphas_cumprod.float()
    return Base(
        path=path,
        family=family,
        encoders=encoders,
        denoiser=denoiser,
        vae=_settled(path, "vae", source.network("vae", torch.float32), device),
        scheduler_config=dict(scheduler.config),
        device=device,
        dtype=dtype,
        objective="flow" if family.flows else scheduler.config.prediction_type,
        alphas_cumprod=alphas,
        stamp=taken_at,
        unet_names=denoiser_names(family, denoiser.config),
        quantize=quantize,
    )


def _fit(path: Path, family: Family, encoders: list[Encoder], config: Any) -> None:
    """Raises LoraError(INVALID_FILE) where the denoiser does not take what its encoders give."""
    width = sum(one.width for one in encoders)
    wanted = config.get("cross_attention_dim") or config.get("joint_attention_dim")
    if width != wanted:
        raise wrong(
            path,
            f"has text encoders {width} wide and a {family.parts[family.denoiser].title} that "
            f"expects {wanted}: they are not of one base",
        )
    pooled = sum(one.pooled_width for one in encoders)
    if (wanted := config.get("pooled_projection_dim")) not in (None, pooled):
        raise wrong(
            path,
            f"has a text encoder that sums a text up in {pooled} numbers and a transformer that "
            f"expects {wanted}: they are not of one base",
        )


def flow_sigmas(timesteps: int = 1000) -> Tensor:
    """The noise level σ at each timestep of a flow, float32 (timesteps,): in thousandths."""
    return torch.arange(timesteps, dtype=torch.float32) / timesteps


def flow_alphas(timesteps: int = 1000) -> Tensor:
    """ᾱ at the signal-to-noise ratio (1 - σ)² / σ² of each timestep, float32 (timesteps,)."""
    sigmas = flow_sigmas(timesteps)
    signal = (1 - sigmas) ** 2
    return signal / (signal + sigmas**2)


def stamp(path: Path) -> object:
    """What tells one state of a base's files from another, without reading them."""
    files = [path] if path.is_file() else sorted(path.glob("*/*"))
    return [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _settled(
    path: Path, name: Network, network: Any, device: torch.device, quantize: str = quantized.NONE
) -> Any:
    """Frozen, and on its device. Raises LoraError(INVALID_FILE) where it holds NaN."""
    for key, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter.sum(dtype=torch.float32))):
            raise wrong(
                path,
                f"is broken: {key} of its {name} holds numbers that are not finite (NaN). "
                "Download it again; if it was merged, the merge went wrong",
            )
    network.requires_grad_(False).eval()
    quantized.settle(network, quantize, device)
    quick.quicken(network)
    return network


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
