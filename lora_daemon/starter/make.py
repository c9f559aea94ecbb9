"""Make the starter again from nothing: `python -m lora_daemon.starter.make`.

Stages, each resumable after a kill: autoencoder → latents → text encoder and UNet → judges →
data sets → checksums. Steps, not minutes, set the schedules, so a busy machine changes nothing but
the wait.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from lora_daemon.starter import (
    autoencoder,
    classifiers,
    datasets,
    denoiser,
    text,
    world,
    write_checksums,
)

HELD_OUT_PICTURES = 200


def main() -> None:
    """Run all stages, or go on where the last run stopped."""
    parser = argparse.ArgumentParser(prog="lora_daemon.starter.make", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="where base/ and datasets/ go"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/starter"), help="where states are kept"
    )
    parser.add_argument("--autoencoder-steps", type=int, default=4500)
    parser.add_argument("--denoiser-steps", type=int, default=10000)
    parser.add_argument("--pictures", type=int, default=9000, help="how many the UNet learns from")
    parser.add_argument("--judge-steps", type=int, default=2200)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    work: Path = chosen.work
    work.mkdir(parents=True, exist_ok=True)

    network = autoencoder.fit(work / "autoencoder.pt", steps=chosen.autoencoder_steps)
    autoencoder.normalise(network, autoencoder.training_pixels(400, seed=2))
    drawn = autoencoder.to_bytes(
        [world.draw(scene) for scene in world.scenes(HELD_OUT_PICTURES, 3, split="held-out")]
    )
    say(f"autoencoder: {autoencoder.psnr(network, drawn):.2f} dB on held-out drawings")

    tokenizer = text.build_tokenizer()
    latents, captions = denoiser.cached_latents(
        network, work / "latents.pt", pictures=chosen.pictures, seed=4
    )
    say(f"latents: {tuple(latents.shape)}, deviation {latents.std():.3f}")
    both = denoiser.fit(
        work / "denoiser.pt", latents, captions, tokenizer, steps=chosen.denoiser_steps
    )

    judge = classifiers.fit(work / "judge.pt", network, steps=chosen.judge_steps)
    judge.save(chosen.out / "judge.safetensors")
    pictures, labels = classifiers.lessons(600, seed=10)
    passed = autoencoder.to_pictures(
        autoencoder.decode(network, autoencoder.encode(network, autoencoder.to_bytes(pictures)))
    )
    for name, share in classifiers.accuracy(judge, passed, labels).items():
        say(f"judge: {name} {share:.1%} right on new drawings passed through the autoencoder")

    denoiser.save(denoiser.pipeline(network, both, tokenizer), chosen.out / "base")
    datasets.write_creatures(chosen.out / "datasets" / "creatures")
    datasets.write_pencils(chosen.out / "datasets" / "pencil")
    write_checksums(chosen.out)


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
