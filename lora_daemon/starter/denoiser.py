"""The starter's text encoder and UNet, trained together on cached latents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch import nn
from transformers import CLIPTokenizer

from lora_daemon.starter import text, world
from lora_daemon.starter.autoencoder import SCALING, encode, to_bytes
from lora_daemon.starter.loop import Average, Schedule, train

BATCH = 16
NO_CAPTION = 0.1
"""Share of captions left empty, for guidance."""
MIN_SNR = 5.0


def build_unet() -> UNet2DConditionModel:
    """Return an untrained UNet, SD 1.5's blocks at widths 64 and 128, 4.28 M parameters."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=text.WIDTH, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def build_scheduler() -> EulerDiscreteScheduler:
    """Return Euler over SD 1.5's noise schedule (scaled linear, 1000 steps, epsilon)."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="epsilon", steps_offset=1,
    )  # fmt: skip


def cached_latents(
    network: AutoencoderKL,
    cache: Path,
    *,
    pictures: int,
    seed: int,
    look: Callable[[Image.Image], Image.Image] = lambda picture: picture,
) -> tuple[torch.Tensor, list[str]]:
    """Draw and encode the training pictures once, each as `look` changes it.

    Returns scaled latents (n, 4, 16, 16) and their captions; the latents are kept in `cache`.
    """
    scenes = list(world.scenes(pictures, seed))
    if cache.exists():
        latents: torch.Tensor = torch.load(cache, weights_only=True)
    else:
        parts = []
        for start in range(0, pictures, 256):
            drawn = [look(world.draw(scene)) for scene in scenes[start : start + 256]]
            parts.append(encode(network, to_bytes(drawn)))
        latents = torch.cat(parts) * SCALING
        torch.save(latents, cache)
    return latents, [world.caption(scene) for scene in scenes]


def build(tokenizer: CLIPTokenizer, seed: int) -> nn.ModuleDict:
    """Return untrained `unet` and `text`, their weights drawn from `seed`."""
    torch.manual_seed(seed)
    unet = build_unet().to(memory_format=torch.channels_last)
    return nn.ModuleDict({"unet": unet, "text": text.build_encoder(tokenizer)})


def fit(
    state_file: Path,
    both: nn.ModuleDict,
    latents: torch.Tensor,
    captions: list[str],
    tokenizer: CLIPTokenizer,
    *,
    schedule: Schedule,
    seed: int = 1,
    batch: int = BATCH,
    teacher: nn.ModuleDict | None = None,
    title: str = "denoiser",
) -> nn.ModuleDict:
    """Train `unet` and `text` together: epsilon, min-SNR 5, EMA; returns the averaged weights.

    With a `teacher` (another such pair) the target is its guess instead of the noise: distillation
    (Hinton et al. 2015), which spares a short training the noise in its gradients.
    """
    average = Average(both)
    ids, empty = text.tokenize(tokenizer, captions), text.tokenize(tokenizer, [""])
    kept = build_scheduler().alphas_cumprod
    ratio = kept / (1 - kept)
    weights = ratio.clamp(max=MIN_SNR) / ratio

    def loss_at(rng: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (batch,), generator=rng)
        strata = torch.arange(batch) + torch.rand(batch, generator=rng)
        times = (strata / batch * len(kept)).long().clamp(max=len(kept) - 1)
        blank = torch.rand(batch, generator=rng) < NO_CAPTION
        noise = torch.randn((batch, *latents.shape[1:]), generator=rng)
        share = kept[times][:, None, None, None]
        noisy = share.sqrt() * latents[rows] + (1 - share).sqrt() * noise
        noisy = noisy.to(memory_format=torch.channels_last)
        asked = torch.where(blank[:, None], empty, ids[rows])
        target = noise
        if teacher is not None:
            with torch.no_grad():
                target = _guess(teacher, noisy, times, asked)
        errors = (_guess(both, noisy, times, asked) - target).square().mean(dim=(1, 2, 3))
        loss: torch.Tensor = (errors * weights[times]).mean()
        return loss

    train(title, both, schedule, loss_at, state_file, seed=seed, average=average)
    both.load_state_dict(average.weights)
    return both.eval()


def _guess(
    both: nn.ModuleDict, noisy: torch.Tensor, times: torch.Tensor, asked: torch.Tensor
) -> torch.Tensor:
    """Return the noise (n, 4, h, w) that `both` sees in `noisy` at `times` under the token ids."""
    words = both["text"](asked).last_hidden_state
    guess: torch.Tensor = both["unet"](noisy, times, words).sample
    return guess


def pipeline(
    network: AutoencoderKL, both: nn.ModuleDict, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """Put the parts together as diffusers knows them."""
    return StableDiffusionPipeline(
        vae=network, text_encoder=both["text"], tokenizer=tokenizer, unet=both["unet"],
        scheduler=build_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def save(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline in half precision; `pipe` is left in half precision too.

    `vocab.json` and `merges.txt` are written as well, for readers older than `tokenizer.json`.
    """
    pipe.to(torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True)
    for part in ("unet", "vae"):  # where it was loaded from is nobody's business
        config = folder / part / "config.json"
        table = json.loads(config.read_text())
        table.pop("_name_or_path", None)
        config.write_text(json.dumps(table, indent=2) + "\n")
    bpe = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(bpe["vocab"], ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in bpe["merges"])]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(lines) + "\n")
