"""A base of the Stable Diffusion shape with random weights, built in a second: for tests only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

Size = Literal["tiny", "starter"]
Kind = Literal["sd1", "sd2", "sdxl"]
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def build(path: Path, size: Size = "tiny", seed: int = 0, family: Kind = "sd1") -> Path:
    """Write a diffusers folder at ``path`` and return it.

    ``tiny``: 0.3 M parameters, 64 px pictures. ``starter``: the starter's shape, a UNet of 4.28 M
    parameters at 16 × 16 latents (128 px), for benchmarks. ``sd2`` predicts v and has linear
    projections; ``sdxl`` has two text encoders, a pooled output and time ids. Both are tiny only.
    """
    torch.manual_seed(seed)
    width = {"tiny": 32, "starter": 128}[size]
    unet, vae = (_tiny if size == "tiny" else _starter)(width, **_UNETS[family])
    encoders = {"sdxl": ("text_encoder", "text_encoder_2")}.get(family, ("text_encoder",))
    for number, name in enumerate(encoders):
        vocabulary = _write_tokenizer(
            path / ("tokenizer", "tokenizer_2")[number],
            padding="!" if number or family == "sd2" else _EOS,
        )
        config = CLIPTextConfig(
            vocab_size=len(vocabulary), hidden_size=(width, 48)[number], num_hidden_layers=2,
            intermediate_size=4 * width, num_attention_heads=4, max_position_embeddings=77,
            bos_token_id=vocabulary[_BOS], eos_token_id=vocabulary[_EOS], projection_dim=48,
            pad_token_id=vocabulary[_EOS], hidden_act="gelu" if family == "sd2" else "quick_gelu",
        )  # fmt: skip
        kind = CLIPTextModelWithProjection if number else CLIPTextModel
        kind(config).save_pretrained(path / name)
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        skip_prk_steps=True, set_alpha_to_one=False,
        prediction_type="v_prediction" if family == "sd2" else "epsilon",
    )  # fmt: skip
    unet.save_pretrained(path / "unet")
    vae.save_pretrained(path / "vae")
    scheduler.save_pretrained(path / "scheduler")
    index = {
        "_class_name": f"StableDiffusion{'XL' * (family == 'sdxl')}Pipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "PNDMScheduler"],
    }
    if family == "sdxl":
        index |= {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        }
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def build_flux(path: Path, seed: int = 0, *, schnell: bool = False, blocks: int = 2) -> Path:
    """Write a diffusers folder of the FLUX shape at ``path``: 64 px pictures, two text encoders, a
    transformer with ``blocks`` blocks of two streams and as many of one; dev, or ``schnell``."""
    torch.manual_seed(seed)
    vocabulary = _write_tokenizer(path / "tokenizer", padding=_EOS)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, intermediate_size=48,
        num_attention_heads=4, max_position_embeddings=77, bos_token_id=vocabulary[_BOS],
        eos_token_id=vocabulary[_EOS], pad_token_id=vocabulary[_EOS], hidden_act="quick_gelu",
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(path / "text_encoder")
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0)]
    letters += [(chr(code), -3.0) for code in range(33, 127)]
    T5Tokenizer(vocab=letters, extra_ids=0, model_max_length=24).save_pretrained(
        path / "tokenizer_2"
    )
    t5 = T5Config(
        vocab_size=len(letters), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, dropout_rate=0.0,
    )  # fmt: skip
    T5EncoderModel(t5).save_pretrained(path / "text_encoder_2")
    FluxTransformer2DModel(
        in_channels=64, num_layers=blocks, num_single_layers=blocks, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=24,
        guidance_embeds=not schnell, axes_dims_rope=(4, 6, 6),
    ).save_pretrained(path / "transformer")  # fmt: skip
    _vae(
        (8, 8, 16, 16), sample_size=64, latent_channels=16, scaling_factor=0.3611,
        shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    ).save_pretrained(path / "vae")  # fmt: skip
    FlowMatchEulerDiscreteScheduler(
        shift=1.0 if schnell else 3.0, use_dynamic_shifting=not schnell
    ).save_pretrained(path / "scheduler")
    index = {
        "_class_name": "FluxPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (path / "model_index.json").write_text(json.dumps(index))
    return path


_UNETS: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": {"use_linear_projection": True, "attention_head_dim": (2, 4)},
    "sdxl": {
        "use_linear_projection": True, "attention_head_dim": (2, 4), "cross_attention_dim": 80,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 48 + 6 * 8,
    },
}  # fmt: skip


def _tiny(width: int, **own: Any) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    options = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": width,
        "attention_head_dim": 4,
        **own,
    }
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8,
        **options,
    )  # fmt: skip
    return unet, _vae((8, 8, 16, 16), sample_size=64)


def _starter(width: int, **_: Any) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width, attention_head_dim=4,
    )  # fmt: skip
    return unet, _vae((16, 32, 64, 64), sample_size=128)


def _vae(channels: tuple[int, ...], **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=channels, layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False, **{"latent_channels": 4, "scaling_factor": 0.18215, **more},
    )  # fmt: skip


def _write_tokenizer(path: Path, padding: str) -> dict[str, int]:
    """CLIP's byte-level BPE without merges: one token a byte. Returns the vocabulary."""
    path.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    words = [*letters, *(letter + "</w>" for letter in letters), _BOS, _EOS]
    vocabulary = {word: number for number, word in enumerate(words)}
    (path / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (path / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77,
        "bos_token": _BOS, "eos_token": _EOS, "unk_token": _EOS, "pad_token": padding,
    }  # fmt: skip
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return vocabulary
