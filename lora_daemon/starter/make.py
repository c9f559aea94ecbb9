"""Make the starter again from nothing: `python -m lora_daemon.starter.make`.

Stages, each resumable after a kill, in this order:

- `base`: autoencoder → latents → text encoder and UNet;
- `refine`: its autoencoder, taken on to pencil drawings;
- `judge`: the network that measures the others;
- `kin`: the base, trained on in another look;
- `foreign`: the base's world by weights begun from nothing: a stranger to its LoRAs;
- `captioner`: the tiny BLIP;
- `datasets`: creatures and pencil drawings; checksums over everything.

Named stages alone are made anew from what is packaged: `make kin captioner`. Steps, not minutes,
set the schedules, so a busy machine changes nothing but the wait.
"""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from lora_daemon.starter import (
    BASES,
    autoencoder,
    blip,
    classifiers,
    datasets,
    denoiser,
    drawing,
    evaluate,
    text,
    world,
    write_checksums,
)
from lora_daemon.starter.loop import Schedule

HELD_OUT_PICTURES = 200
PICTURES_SEED, KIN_SEED, FOREIGN_SEED = 4, 44, 21


def main() -> None:
    """Run the stages, or go on where the last run stopped."""
    parser = argparse.ArgumentParser(
        prog="lora_daemon.starter.make", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)}; without any: all"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="where base/ and the others go"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/starter"), help="where states are kept"
    )
    parser.add_argument("--pictures", type=int, default=9000, help="how many the UNet learns from")
    parser.add_argument("--autoencoder-steps", type=int, default=4500)
    parser.add_argument("--base-steps", type=int, default=10000)
    parser.add_argument("--refine-steps", type=int, default=750)
    parser.add_argument("--judge-steps", type=int, default=2200)
    parser.add_argument("--kin-steps", type=int, default=KIN_STEPS)
    parser.add_argument("--foreign-steps", type=int, default=FOREIGN_STEPS)
    parser.add_argument("--captioner-steps", type=int, default=CAPTIONER_STEPS)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    if unknown := set(chosen.stages) - set(STAGES):
        parser.error(f"no stage is called {', '.join(sorted(unknown))}: {', '.join(STAGES)}")
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    chosen.work.mkdir(parents=True, exist_ok=True)
    for name in chosen.stages or STAGES:
        STAGES[name](chosen)
    write_checksums(chosen.out)


def make_base(chosen: Namespace) -> None:
    """The autoencoder, and text encoder and UNet on its latents."""
    network = autoencoder.fit(chosen.work / "autoencoder.pt", steps=chosen.autoencoder_steps)
    autoencoder.normalise(network, autoencoder.training_pixels(400, seed=2))
    drawn = autoencoder.to_bytes(
        [world.draw(scene) for scene in world.scenes(HELD_OUT_PICTURES, 3, split="held-out")]
    )
    say(f"autoencoder: {autoencoder.psnr(network, drawn):.2f} dB on held-out drawings")
    tokenizer = text.build_tokenizer()
    latents, captions = denoiser.cached_latents(
        network, chosen.work / "latents.pt", pictures=chosen.pictures, seed=PICTURES_SEED
    )
    both = denoiser.fit(
        chosen.work / "denoiser.pt", denoiser.build(tokenizer, 1), latents, captions, tokenizer,
        schedule=Schedule(chosen.base_steps), title="base",
    )  # fmt: skip
    denoiser.save(denoiser.pipeline(network, both, tokenizer), chosen.out / "base")


def make_refined(chosen: Namespace) -> None:
    """The base's autoencoder trained on, half of it on pencil drawings."""
    base = _base(chosen)
    drawn = [
        autoencoder.to_bytes([world.draw(scene, style) for scene in world.scenes(100, 33)])
        for style in (None, "pencil")
    ]
    before = [autoencoder.psnr(base.vae, pixels) for pixels in drawn]
    base.vae = autoencoder.refine(base.vae, chosen.work / "refined.pt", steps=chosen.refine_steps)
    after = [autoencoder.psnr(base.vae, pixels) for pixels in drawn]
    for name, then, now in zip(("plain", "pencil"), before, after, strict=True):
        say(f"autoencoder: {then:.2f} → {now:.2f} dB on new {name} drawings")
    denoiser.save(base, chosen.out / "base")


def make_judge(chosen: Namespace) -> None:
    """The judge, on drawings of which half went through the base's autoencoder."""
    network = _base(chosen).vae
    judge = classifiers.fit(chosen.work / "judge.pt", network, steps=chosen.judge_steps)
    judge.save(chosen.out / "judge.safetensors")
    pictures, labels = classifiers.lessons(600, seed=10)
    passed = autoencoder.to_pictures(
        autoencoder.decode(network, autoencoder.encode(network, autoencoder.to_bytes(pictures)))
    )
    for name, share in classifiers.accuracy(judge, passed, labels).items():
        say(f"judge: {name} {share:.1%} right on new drawings passed through the autoencoder")


def make_kin(chosen: Namespace) -> None:
    """The base's weights, trained on in the look of `drawing.dusk`."""
    base = _base(chosen)
    latents, captions = denoiser.cached_latents(
        base.vae, chosen.work / "kin-latents.pt", pictures=chosen.pictures // 4, seed=KIN_SEED,
        look=drawing.dusk,
    )  # fmt: skip
    both = denoiser.fit(
        chosen.work / "kin.pt", _pair(base), latents, captions, base.tokenizer,
        schedule=Schedule(chosen.kin_steps, rate=KIN_RATE), seed=KIN_SEED, title="kin",
    )  # fmt: skip
    denoiser.save(
        denoiser.pipeline(base.vae, both, base.tokenizer), chosen.out / BASES["starter-kin"]
    )


def make_foreign(chosen: Namespace) -> None:
    """The same world by weights begun from nothing, taught by the base.

    The text encoder first learns to say what the base's says, its channels in another order; then
    it and the UNet, which begins as noise, learn the base's guesses.
    """
    base = _base(chosen)
    latents, captions = denoiser.cached_latents(
        base.vae, chosen.work / "latents.pt", pictures=chosen.pictures, seed=PICTURES_SEED
    )
    teacher = _pair(base).requires_grad_(False).eval()
    both = denoiser.build(base.tokenizer, FOREIGN_SEED)
    order = torch.randperm(text.WIDTH, generator=torch.Generator().manual_seed(FOREIGN_SEED))
    text.imitate(
        both["text"], teacher["text"], order, base.tokenizer, captions,
        chosen.work / "foreign-words.pt", steps=WORDS_STEPS, seed=FOREIGN_SEED,
    )  # fmt: skip
    denoiser.fit(
        chosen.work / "foreign.pt", both, latents, captions, base.tokenizer,
        schedule=Schedule(chosen.foreign_steps, rate=FOREIGN_RATE), seed=FOREIGN_SEED,
        batch=FOREIGN_BATCH, teacher=teacher, title="foreign",
    )  # fmt: skip
    denoiser.save(
        denoiser.pipeline(base.vae, both, base.tokenizer), chosen.out / BASES["starter-foreign"]
    )


def make_captioner(chosen: Namespace) -> None:
    """The tiny BLIP."""
    judge = classifiers.Judge.load(chosen.out / "judge.safetensors")
    network, processor = blip.fit(chosen.work / "captioner.pt", judge, steps=chosen.captioner_steps)
    blip.save(network, processor, chosen.out / "blip")


def make_datasets(chosen: Namespace) -> None:
    """The two data sets of the package."""
    datasets.write_creatures(chosen.out / "datasets" / "creatures")
    datasets.write_pencils(chosen.out / "datasets" / "pencil")


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(line, file=sys.stderr, flush=True)


def _base(chosen: Namespace) -> StableDiffusionPipeline:
    """Load the base that the other stages stand on, as it is packaged: in half precision."""
    return evaluate.load_base(chosen.out / "base")


def _pair(base: StableDiffusionPipeline) -> nn.ModuleDict:
    unet = base.unet.to(memory_format=torch.channels_last)
    return nn.ModuleDict({"unet": unet, "text": base.text_encoder})


KIN_STEPS, KIN_RATE = 700, 3e-4
WORDS_STEPS, FOREIGN_STEPS, FOREIGN_BATCH, FOREIGN_RATE = 360, 8000, 8, 1e-3
CAPTIONER_STEPS = 4800
STAGES: dict[str, Callable[[Namespace], None]] = {
    "base": make_base,
    "refine": make_refined,
    "judge": make_judge,
    "kin": make_kin,
    "foreign": make_foreign,
    "captioner": make_captioner,
    "datasets": make_datasets,
}

if __name__ == "__main__":
    main()
