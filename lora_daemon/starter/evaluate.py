"""How good the bases are, and what a LoRA changed: seeded pictures, judged, with Wilson intervals.

    python -m lora_daemon.starter.evaluate --sheet sheet.png
    python -m lora_daemon.starter.evaluate --base starter-kin --lora creatures.safetensors \\
        --ask creatures
    python -m lora_daemon.starter.evaluate --lora creatures.safetensors --ask creatures \\
        --weights 0 0.2 0.4 0.6 0.8 1
    python -m lora_daemon.starter.evaluate --captioner
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lora_daemon.engine  # noqa: F401  before torch: it says how torch's threads wait

# isort: split
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image, ImageDraw

from lora_daemon.engine import bases, lora_file
from lora_daemon.engine import captioner as captioners
from lora_daemon.engine.mix import applied
from lora_daemon.starter import BASES, base_dir, blip_dir, drawing, world
from lora_daemon.starter.blip import right
from lora_daemon.starter.classifiers import Judge, Verdict

STEPS, GUIDANCE = 20, 5.0
FIRST_SEED = 1000


@dataclass(frozen=True)
class Rate:
    """A share of `number` pictures."""

    hits: int
    number: int

    @property
    def share(self) -> float:
        return self.hits / self.number if self.number else 0.0

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Return the Wilson score interval (Wilson 1927), 95 % by default."""
        n, p = self.number, self.share
        if n == 0:
            return 0.0, 1.0
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - reach), min(1.0, middle + reach)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.share:6.1%} of {self.number} ({low:.1%} … {high:.1%})"


def asked_held_out(number: int, seed: int = 9) -> list[world.Combination]:
    """Return `number` combinations the base was never trained on, in a seeded order."""
    return _turns(world.combinations("held-out"), number, seed)


def asked_creatures(number: int, seed: int = 9) -> list[world.Combination]:
    """Return `number` combinations of creature, colour and background in a seeded order."""
    every = [
        ("creature", colour, ground) for colour in world.COLOURS for ground in world.BACKGROUNDS
    ]
    return _turns(every, number, seed)


def _turns(every: list[world.Combination], number: int, seed: int) -> list[world.Combination]:
    random.Random(seed).shuffle(every)
    return [every[index % len(every)] for index in range(number)]


def load_base(folder: Path | None = None) -> StableDiffusionPipeline:
    """Load a base in float32, offline and without a progress bar."""
    pipe = StableDiffusionPipeline.from_pretrained(
        folder or base_dir(), torch_dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    first_seed: int = FIRST_SEED,
    batch: int = 25,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[Image.Image]:
    """Make one picture a prompt; picture i has seed `first_seed` + i whatever the batch."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        seeds = range(first_seed + start, first_seed + start + len(part))
        made = pipe(
            part, width=drawing.PICTURE, height=drawing.PICTURE, num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )  # fmt: skip
        pictures += made.images
    return pictures


def rates(
    pictures: Sequence[Image.Image], asked: Sequence[world.Combination], judge: Judge
) -> tuple[dict[str, Rate], list[Verdict]]:
    """Judge pictures against what was asked.

    Returns the rates `object`, `colour`, `background`, `all` (the three at once), `creature`,
    `pencil`, and the verdicts.
    """
    verdicts = judge(pictures)
    pairs = list(zip(verdicts, asked, strict=True))
    hits = {
        "object": sum(v.object == a[0] for v, a in pairs),
        "colour": sum(v.colour == a[1] for v, a in pairs),
        "background": sum(v.background == a[2] for v, a in pairs),
        "all": sum((v.object, v.colour, v.background) == a for v, a in pairs),
        "creature": sum(v.creature for v in verdicts),
        "pencil": sum(v.pencil for v in verdicts),
    }
    return {name: Rate(count, len(pairs)) for name, count in hits.items()}, verdicts


def contact_sheet(
    pictures: Sequence[Image.Image], labels: Sequence[str], file: Path, columns: int = 10
) -> None:
    """Write pictures in rows, each with its label beneath."""
    side, strip = drawing.PICTURE, 26
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + strip)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = index % columns * (side + 4), index // columns * (side + strip)
        sheet.paste(picture, (x, y))
        pen.multiline_text((x + 2, y + side), label, fill="black", spacing=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def label(asked: world.Combination, verdict: Verdict) -> str:
    """Return two short lines: what was asked, and what the judge saw where that differs."""
    seen = (verdict.object, verdict.colour, verdict.background)
    wrong = [s for s, a in zip(seen, asked, strict=True) if s != a]
    return (
        " ".join((asked[1], asked[0], asked[2]))[:22]
        + "\n"
        + ("✗ " + " ".join(wrong) if wrong else "")
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share the mean of their ranks."""
    a, b = _ranks(first), _ranks(second)
    mean = (len(a) + 1) / 2
    both = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    spread = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    return both / spread if spread else math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def captioned(number: int, folder: Path | None = None, style: str | None = None) -> dict[str, Rate]:
    """Return how often a captioner is right about `number` new drawings of combinations that it was
    never trained on: `object`, `colour`, `both` of these, `background`."""
    asked = list(world.scenes(number, 12, split="held-out", crowd=0))
    captioner = captioners.load(folder or blip_dir(), torch.device("cpu"))
    said: list[str] = []
    for start in range(0, number, captioners.BATCH):
        part = asked[start : start + captioners.BATCH]
        said += captioner([world.draw(scene, style) for scene in part])
    return {name: Rate(hits, number) for name, hits in right(said, asked).items()}


ASKED: dict[str, tuple[Callable[[int], list[world.Combination]], str | None, str]] = {
    "objects": (asked_held_out, None, "all"),
    "creatures": (asked_creatures, None, "creature"),
    "pencils": (asked_held_out, "pencil", "pencil"),
}
"""What can be asked for: which combinations, in which style, and the rate that matters."""


def main() -> None:
    """Measure a base, or what a LoRA makes of one, or the captioner."""
    parser = argparse.ArgumentParser(
        prog="lora_daemon.starter.evaluate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--base", default="starter", help=f"{', '.join(BASES)}, or a diffusers folder")
    add("--lora", type=Path, help="a LoRA file to put on it")
    add("--weights", type=float, nargs="+", default=[1.0], help="of the LoRA, one after another")
    add("--ask", choices=ASKED, default="objects", help="what to ask for")
    add("--captioner", action="store_true", help="measure the captioner, not a base")
    add("--number", type=int, default=200, help="of pictures")
    add("--sheet", type=Path, help="write a contact sheet here; {} stands for the weight")
    add("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.captioner:
        for name, rate in captioned(chosen.number).items():
            print(f"{name:<11}{rate}")
        return
    choose, style, name = ASKED[chosen.ask]
    asked, judge = choose(chosen.number), Judge.load()
    prompts = [world.prompt(one, style) for one in asked]
    folder = base_dir(chosen.base) if chosen.base in BASES else Path(chosen.base)
    shares: list[float] = []
    for weight in chosen.weights if chosen.lora else [0.0]:
        pictures = _with_lora(folder, chosen.lora, weight, prompts)
        measured, verdicts = rates(pictures, asked, judge)
        shares.append(measured[name].share)
        if chosen.lora:
            print(f"weight {weight:g}")
        for key, rate in measured.items():
            print(f"{key:<11}{rate}", flush=True)
        if chosen.sheet:
            labels = [label(a, v) for a, v in zip(asked, verdicts, strict=True)]
            contact_sheet(pictures, labels, Path(str(chosen.sheet).format(f"{weight:g}")))
    if len(shares) > 2:
        print(f"{name} against weight: Spearman {spearman(chosen.weights, shares):.3f}")


def _with_lora(
    folder: Path, lora: Path | None, weight: float, prompts: Sequence[str]
) -> list[Image.Image]:
    """Make one picture a prompt, by the engine's own mixing where there is a LoRA."""
    if lora is None:
        return generate(load_base(folder), prompts)
    base = bases.load(folder, torch.device("cpu"), "fp32")
    pipe = StableDiffusionPipeline(
        vae=base.vae, text_encoder=base.text_encoder, unet=base.unet,
        tokenizer=base.encoders[0].tokenizer,
        scheduler=EulerDiscreteScheduler.from_config(base.scheduler_config), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    weights = lora_file.load(lora, base)
    with applied(base, [(weights.modules, weight)]):
        return generate(pipe, prompts)


if __name__ == "__main__":
    main()
