"""The families of bases that lora-tui trains and paints with, as data. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import msgspec

from lora_daemon import original_layout
from lora_daemon.original_layout import Row
from shared.wire import FAMILIES as FAMILY_TITLES
from shared.wire import Objective

Network = Literal["unet", "transformer", "vae", "text_encoder", "text_encoder_2"]
Config = Mapping[str, Any]


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole base is, seen from its headers and configurations.

    ``guessed``: why what it predicts is only a guess; empty if it is known. ``carried``: what is in
    a file and is not used, in words, with the number of its tensors.
    """

    family: str
    layout: Literal["folder", "file"]
    resolution: int  # pixels, the side of the pictures it was made for
    size: int  # bytes of its weights
    objective: Objective
    guessed: str = ""
    zero_snr: bool = False  # its noise schedule ends in pure noise (zero terminal SNR)
    precision: list[str] = []  # number formats of its weights, as safetensors names them
    carried: dict[str, int] = {}


@dataclass(frozen=True)
class Part:
    """One network of a family: where a file in the original layout has it, and under what names."""

    title: str
    prefix: str
    rows: Callable[[Config], list[Row]]


@dataclass(frozen=True)
class TextEncoder:
    """How a family uses one of its text encoders.

    ``lora_prefix``: of its modules' names in LoRA files. ``padding``: what fills up a short text.
    ``hidden``: which hidden state conditions the denoiser: 0 is the last, after the final norm; -2
    the one before the last layer, without it; None: none does. ``pooled``: which pooled output is
    used too, the projected one or the plain one. ``length``: tokens that are read; 0: CLIP's 77.
    """

    network: Network
    tokenizer: str  # folder
    lora_prefix: str
    padding: str
    hidden: int | None = 0
    pooled: Literal["", "projected", "plain"] = ""
    kind: Literal["clip", "t5"] = "clip"
    length: int = 0

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        return ("vocab.json", "merges.txt") if self.kind == "clip" else ("tokenizer.json",)


@dataclass(frozen=True, eq=False)
class Family:
    """What distinguishes one kind of base from another.

    ``unet_marks``: what the denoiser's diffusers configuration must say. ``base_versions`` and
    ``architectures``: by what it predicts, as kohya's metadata has them; so what is in neither, the
    family never predicts. ``original_lora_names``: whether LoRA files call the denoiser's modules
    as the original code does. ``denoiser``: the network that is trained, and how it is called
    (``engine.denoisers``). ``patch``: latents are taken so many by so many at a time. ``views``:
    whether the denoiser is told how a picture was cropped. ``targets``: the recipe's names for what
    a LoRA can be on.
    """

    name: str
    base_versions: Mapping[Objective, str]
    architectures: Mapping[Objective, str]
    implementation: str  # modelspec's
    unet_marks: Config
    parts: Mapping[Network, Part]
    encoders: tuple[TextEncoder, ...]
    resolutions: Mapping[Objective, int]  # of a single file, which does not tell, in pixels
    original_lora_names: bool = False
    denoiser: Network = "unet"
    patch: int = 1
    latent_channels: int = 4
    views: bool = False
    lora_module: str = "networks.lora"  # kohya's network_module
    single_files: bool = True  # whether one file can hold all of it
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "ff", "proj", "conv")

    @property
    def flows(self) -> bool:
        """Whether it is trained by flow matching."""
        return "flow" in self.base_versions

    @property
    def title(self) -> str:
        return FAMILY_TITLES[self.name]

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The diffusers configurations of its networks and scheduler, at full size."""
        return _configs(self.name)

    def rows(self, network: Network, config: Config) -> list[Row]:
        """A network's tensors, with their whole names in the original layout."""
        part = self.parts[network]
        return [row._replace(original=part.prefix + row.original) for row in part.rows(config)]


@cache
def _configs(name: str) -> dict[str, dict[str, Any]]:
    text = (files("lora_daemon") / "family_configs" / f"{name}.json").read_text(encoding="utf-8")
    configs: dict[str, dict[str, Any]] = json.loads(text)
    return configs


_UNET = Part("UNet", "model.diffusion_model.", original_layout.unet)
_VAE = Part("VAE", "first_stage_model.", original_layout.vae)
_END, _ZERO = "<|endoftext|>", "!"  # "!" is token 0
_GENERATIVE_MODELS = "https://github.com/Stability-AI/generative-models"

SD1 = Family(
    name="sd1",
    base_versions={"epsilon": "sd_v1", "v_prediction": "sd_v1_v"},
    architectures=dict.fromkeys(("epsilon", "v_prediction"), "stable-diffusion-v1/lora"),
    implementation="diffusers",
    unet_marks={"addition_embed_type": None, "use_linear_projection": False},
    parts={
        "unet": _UNET,
        "vae": _VAE,
        "text_encoder": Part("text encoder", "cond_stage_model.transformer.", original_layout.clip),
    },
    encoders=(TextEncoder("text_encoder", "tokenizer", "lora_te", _END),),
    resolutions={"epsilon": 512, "v_prediction": 512},
)
SD2 = Family(
    name="sd2",
    base_versions={"epsilon": "sd_v2", "v_prediction": "sd_v2_v"},
    architectures={
        "epsilon": "stable-diffusion-v2-512/lora",
        "v_prediction": "stable-diffusion-v2-768-v/lora",
    },
    implementation="diffusers",
    unet_marks={"addition_embed_type": None, "use_linear_projection": True},
    parts={
        "unet": _UNET,
        "vae": _VAE,
        "text_encoder": Part("text encoder", "cond_stage_model.model.", original_layout.open_clip),
    },
    encoders=(TextEncoder("text_encoder", "tokenizer", "lora_te", _ZERO),),
    resolutions={"epsilon": 512, "v_prediction": 768},
)
SDXL = Family(
    name="sdxl",
    base_versions=dict.fromkeys(("epsilon", "v_prediction"), "sdxl_base_v1-0"),
    architectures=dict.fromkeys(("epsilon", "v_prediction"), "stable-diffusion-xl-v1-base/lora"),
    implementation=_GENERATIVE_MODELS,
    unet_marks={"addition_embed_type": "text_time", "use_linear_projection": True},
    parts={
        "unet": _UNET,
        "vae": _VAE,
        "text_encoder": Part(
            "first text encoder", "conditioner.embedders.0.transformer.", original_layout.clip
        ),
        "text_encoder_2": Part(
            "second text encoder", "conditioner.embedders.1.model.", original_layout.open_clip
        ),
    },
    encoders=(
        TextEncoder("text_encoder", "tokenizer", "lora_te1", _END, hidden=-2),
        TextEncoder(
            "text_encoder_2", "tokenizer_2", "lora_te2", _ZERO, hidden=-2, pooled="projected"
        ),
    ),
    resolutions={"epsilon": 1024, "v_prediction": 1024},
    original_lora_names=True,
    views=True,
)
# Kohya's trainer reads 512 tokens for dev and 256 for schnell, which was distilled with so many.
_FLUX_CLIP = TextEncoder("text_encoder", "tokenizer", "lora_te1", _END, hidden=None, pooled="plain")
_FLUX_T5 = TextEncoder("text_encoder_2", "tokenizer_2", "lora_te3", "<pad>", kind="t5", length=512)
FLUX = Family(
    name="flux",
    base_versions={"flow": "flux1"},
    architectures={"flow": "flux-1-dev/lora"},
    implementation="https://github.com/black-forest-labs/flux",
    unet_marks={
        "_class_name": "FluxTransformer2DModel",
        "in_channels": 64,
        "guidance_embeds": True,
    },
    parts={
        "transformer": Part("transformer", "", original_layout.flux),
        "vae": Part("VAE", "", original_layout.vae),
        "text_encoder": Part("CLIP text encoder", "", original_layout.clip),
        "text_encoder_2": Part("T5 text encoder", "", original_layout.t5),
    },
    encoders=(_FLUX_CLIP, _FLUX_T5),
    resolutions={"flow": 1024},
    original_lora_names=True,
    denoiser="transformer",
    patch=2,
    latent_channels=16,
    lora_module="networks.lora_flux",
    single_files=False,
    targets=("to_q", "to_k", "to_v", "to_out.0", "ff", "mod"),
)
FLUX_SCHNELL = replace(
    FLUX,
    name="flux_schnell",
    architectures={"flow": "flux-1-schnell/lora"},
    unet_marks={**FLUX.unet_marks, "guidance_embeds": False},
    encoders=(_FLUX_CLIP, replace(_FLUX_T5, length=256)),
)
FAMILIES = (SD1, SD2, SDXL, FLUX, FLUX_SCHNELL)
IN_ONE_FILE = tuple(one for one in FAMILIES if one.single_files)
