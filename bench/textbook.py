"""The frozen reference for our speed: LoRA training as the field's example scripts write it.

VAE and text encoder in every step, peft's layers as they come, ``.item()`` each step, contiguous
memory. Same base, dtype, threads, seeds, batch and pictures as ours. Do not make it faster.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from PIL import Image, ImageOps
from transformers import CLIPTextModel, CLIPTokenizer


def textbook(
    base: Path, pictures: list[tuple[Path, str]], *, resolution: int, rank: int, seed: int
) -> Iterator[float]:
    """Train for ever at batch 1, yielding each step's loss."""
    torch.manual_seed(seed)
    random.seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
    text_encoder = CLIPTextModel.from_pretrained(
        base / "text_encoder", local_files_only=True, dtype=torch.float32
    )
    vae = AutoencoderKL.from_pretrained(
        base / "vae", local_files_only=True, torch_dtype=torch.float32
    )
    unet = UNet2DConditionModel.from_pretrained(
        base / "unet", local_files_only=True, torch_dtype=torch.float32
    )
    noise_scheduler = DDPMScheduler.from_pretrained(base / "scheduler", local_files_only=True)
    for frozen in (text_encoder, vae, unet):
        frozen.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian",
            target_modules=["to_k", "to_q", "to_v", "to_out.0"],
        )
    )  # fmt: skip
    lora = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(lora, lr=1e-4, weight_decay=1e-2)

    while True:
        order = list(pictures)
        random.shuffle(order)
        for path, caption in order:
            pixels = _load(path, resolution)
            tokens = tokenizer(
                caption, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
            ).input_ids
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (1,)).long()
            noisy = noise_scheduler.add_noise(latents, noise, timesteps)
            with torch.no_grad():
                encoded = text_encoder(tokens)[0]
            predicted = unet(noisy, timesteps, encoder_hidden_states=encoded).sample
            loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(lora, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            yield loss.detach().item()


def _load(path: Path, resolution: int) -> torch.Tensor:
    """The picture as (1, 3, resolution, resolution), flipped half of the time."""
    with Image.open(path) as opened:
        picture = ImageOps.fit(opened.convert("RGB"), (resolution, resolution))
    if random.random() < 0.5:
        picture = ImageOps.mirror(picture)
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32).copy())
    return (pixels / 127.5 - 1).permute(2, 0, 1)[None].contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of .png")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    pictures = [(path, path.stem) for path in sorted(chosen.pictures.glob("*.png"))]
    steps = textbook(chosen.base, pictures, resolution=chosen.resolution, rank=8, seed=42)
    for _ in range(5):
        next(steps)
    began = time.perf_counter()
    for _ in range(chosen.steps):
        next(steps)
    seconds = time.perf_counter() - began
    print(json.dumps({"steps_per_second": chosen.steps / seconds}))


if __name__ == "__main__":
    main()
