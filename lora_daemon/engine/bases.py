"""Bases: a diffusers folder or one file checked, loaded without network, and kept ready to use."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lora_daemon import base_file
from lora_daemon.base_folder import STEMS, weight_files
from lora_daemon.engine import single_file
from lora_daemon.engine.names import text_names, unet_names
from lora_daemon.engine.sources import opened, wrong
from lora_daemon.families import Family, Network, TextEncoder
from shared.errors import Code, LoraError
from shared.wire import Objective

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENS = 77  # CLIP's context, start and end included


@dataclass(frozen=True)
class Reading:
    """How texts are read. ``skip``: the hidden state that many from the last, as kohya and the
    WebUI count (1: the last); ``windows`` of 75 tokens each; their rows ``joined`` as kohya's
    trainers do it, one start and one end for all, or as the WebUI does, one for each."""

    skip: int = 1
    windows: int = 1
    joined: Literal["kohya", "webui"] = "kohya"


ORDINARY = Reading()


@dataclass(eq=False)
class Encoder:
    """A text encoder with its tokenizer. ``names``: module path → name in LoRA files."""

    use: TextEncoder
    tokenizer: CLIPTokenizer
    model: CLIPTextModel | CLIPTextModelWithProjection
    names: dict[str, str]

    def encode(self, texts: list[str], reading: Reading) -> tuple[Tensor, Tensor | None]:
        """Hidden states (n, rows, width), and the pooled output (n, width), of the first window,
        if the family uses it. One window has 77 rows. Raises LoraError(INVALID_RECIPE) if it is
        to skip more layers than there are."""
        return joined(*self.states(self._tokens(texts, reading.windows), reading), reading)

    def states(self, ids: Tensor, reading: Reading) -> tuple[Tensor, Tensor | None]:
        """Hidden states (n, 77, width) of windows, whose tokens are int64 (n, 77), and each one's
        pooled output (n, width), if the family uses it. Raises as ``encode``."""
        layers = int(self.model.config.num_hidden_layers)
        if reading.skip > layers:
            raise LoraError(
                Code.INVALID_RECIPE,
                f"dataset.clip_skip = {reading.skip}, and this base's text encoder has {layers} "
                "layers. 1 reads the last.",
                data={"key": "dataset.clip_skip"},
            )
        found = self.model(
            ids.to(self.model.device),
            output_hidden_states=self.use.hidden != 0 or reading.skip > 1,
        )
        if self.use.hidden:
            hidden = found.hidden_states[self.use.hidden]
        elif reading.skip > 1:
            norm = getattr(self.model, "text_model", self.model).final_layer_norm
            hidden = norm(found.hidden_states[-reading.skip])
        else:
            hidden = found.last_hidden_state
        return hidden, found.text_embeds if self.use.pooled else None

    def _tokens(self, texts: list[str], windows: int) -> Tensor:
        """Int64 (n · windows, 77): each window with its start, its end, and padding."""
        if windows == 1:
            found = self.tokenizer(
                texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
            )
            ids: Tensor = found.input_ids
            return ids
        own, room = self.tokenizer, TOKENS - 2
        rows = []
        for text in texts:
            words = own(text, add_special_tokens=False).input_ids[: windows * room]
            for begin in range(0, windows * room, room):
                body = [own.bos_token_id, *words[begin : begin + room], own.eos_token_id]
                rows.append(body + [own.pad_token_id] * (TOKENS - len(body)))
        return torch.tensor(rows)


def joined(hidden: Tensor, pooled: Tensor | None, reading: Reading) -> tuple[Tensor, Tensor | None]:
    """The windows of each text as one: hidden states (texts, rows, width), the first's pooled
    output. ``hidden``: (texts · windows, 77, width)."""
    if reading.windows == 1:
        return hidden, pooled
    if pooled is not None:
        pooled = pooled[:: reading.windows]
    apart = hidden.reshape(-1, reading.windows, *hidden.shape[1:])
    if reading.joined == "webui":
        return apart.flatten(1, 2), pooled
    ends = apart[:, 0, :1], apart[:, -1, -1:]
    return torch.cat([ends[0], apart[:, :, 1:-1].flatten(1, 2), ends[1]], 1), pooled


def together(found: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """What each text encoder says, as one conditioning: ``Base.encode_texts`` says how."""
    hidden = torch.cat([states for states, _ in found], dim=-1)
    width = hidden.shape[-1]
    pooled = [
        F.pad(one, (0, -one.shape[-1] % width)).reshape(len(one), -1, width)
        for _, one in found
        if one is not None
    ]
    return torch.cat([hidden, *pooled], dim=1)


@dataclass(eq=False)
class Base:
    """A loaded base. The UNet is in ``dtype``; text encoders and VAE stay in fp32: they run seldom,
    and a half-precision VAE overflows on some pictures.

    ``alphas_cumprod``: ᾱ of the noise schedule, float32 (timesteps,), on the CPU. ``learnt``:
    textual inversions at hand, by their names in lower case: vectors of each text encoder.
    """

    path: Path
    family: Family
    encoders: list[Encoder]
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    objective: Objective
    alphas_cumprod: Tensor
    stamp: object = None  # of its files when it was loaded
    unet_names: dict[str, str] = field(default_factory=dict)
    learnt: Mapping[str, list[Tensor]] = field(default_factory=dict)

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
        return int(self.unet.config.sample_size) * self.pixels_per_latent

    @property
    def takes_views(self) -> bool:
        """Whether the UNet is told how a picture was cropped (SDXL)."""
        return any(encoder.use.pooled for encoder in self.encoders)

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
        """SHA-256 of the UNet's weights file, or of the one file, hex."""
        if self.path.is_file():
            return _digest([self.path])
        return _digest(weight_files(self.path / "unet", STEMS["unet"]))

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
        return len(self.encoders[0].tokenizer(text).input_ids) - 2 <= windows * (TOKENS - 2)

    def denoise(
        self, noisy: Tensor, timesteps: Tensor, text: Tensor, views: Tensor | None = None
    ) -> Tensor:
        """The UNet's prediction, float32 (n, 4, h, w). ``text``: conditioning in ``dtype``.

        ``views``: what SDXL is told of the picture, float32 (n, 6): its height and width in pixels
        before it was cropped, the crop's top and left, the height and width that it should have.
        Without them, an uncropped picture of the latents' size. Other families take none.
        """
        seen = noisy.to(self.dtype, memory_format=torch.channels_last)
        predicted: Tensor = self.unet(
            seen, timesteps, encoder_hidden_states=text[:, : text.shape[1] - self._pooled_rows],
            added_cond_kwargs=self._added(noisy, text, views), return_dict=False,
        )[0]  # fmt: skip
        return predicted.float()

    def _added(self, noisy: Tensor, text: Tensor, views: Tensor | None) -> dict[str, Tensor] | None:
        pooled = next((one for one in self.encoders if one.use.pooled), None)
        if pooled is None:
            return None
        if views is None:
            height, width = (side * self.pixels_per_latent for side in noisy.shape[2:])
            views = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
            views = views.to(self.device).expand(len(noisy), 6)
        length = pooled.model.config.projection_dim
        kept = text[:, text.shape[1] - self._pooled_rows :]
        return {"text_embeds": kept.flatten(1)[:, :length], "time_ids": views}

    @cached_property
    def _pooled_rows(self) -> int:
        """How many of the conditioning's rows, the last ones, hold a pooled output."""
        width = int(self.unet.config.cross_attention_dim)
        lengths = [one.model.config.projection_dim for one in self.encoders if one.use.pooled]
        return sum(-(-length // width) for length in lengths)

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


def best_device() -> torch.device:
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def best_precision(device: torch.device) -> str:
    """What ``auto`` means on a device: fp32 on a CPU, bf16 on a GPU that has it, else fp16."""
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def load(
    path: Path, device: torch.device, precision: str = "auto", predicts: Objective | None = None
) -> Base:
    """Check and load a base. ``precision``: auto, fp32, bf16 or fp16. ``predicts``: what it
    predicts, where its files do not say or say something else.

    Raises LoraError: NOT_FOUND, or INVALID_FILE naming the part and file at fault.
    """
    taken_at = stamp(path)
    dtype = DTYPES[best_precision(device) if precision == "auto" else precision]
    source = opened(path, predicts)
    family = source.family
    encoders = []
    for use in family.encoders:
        model = _settled(path, use.network, source.network(use.network, torch.float32), device)
        prefix = "text_model." if hasattr(model, "text_model") else ""
        names = text_names(model.config.num_hidden_layers, prefix, use.lora_prefix)
        encoders.append(Encoder(use, source.tokenizer(use), model, names))
    unet = _settled(path, "unet", source.network("unet", dtype), device)
    width = sum(one.model.config.hidden_size for one in encoders)
    if width != unet.config.cross_attention_dim:
        raise wrong(
            path,
            f"has text encoders {width} wide and a UNet that expects "
            f"{unet.config.cross_attention_dim}: they are not of one base",
        )
    scheduler = source.scheduler()
    return Base(
        path=path,
        family=family,
        encoders=encoders,
        unet=unet,
        vae=_settled(path, "vae", source.network("vae", torch.float32), device),
        scheduler_config=dict(scheduler.config),
        device=device,
        dtype=dtype,
        objective=scheduler.config.prediction_type,
        alphas_cumprod=scheduler.alphas_cumprod.float(),
        stamp=taken_at,
        unet_names=unet_names(unet.config, family.original_lora_names),
    )


def stamp(path: Path) -> object:
    """What tells one state of a base's files from another, without reading them."""
    files = [path] if path.is_file() else sorted(path.glob("*/*"))
    return [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _settled(path: Path, name: Network, network: Any, device: torch.device) -> Any:
    """Frozen, and on its device. Raises LoraError(INVALID_FILE) where it holds NaN."""
    for key, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter.sum(dtype=torch.float32))):
            raise wrong(
                path,
                f"is broken: {key} of its {name} holds numbers that are not finite (NaN). "
                "Download it again; if it was merged, the merge went wrong",
            )
    network.requires_grad_(False).eval()
    return network.to(device=device, memory_format=torch.channels_last)


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
