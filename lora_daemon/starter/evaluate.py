"""How good the base is, and what a LoRA changed: seeded pictures, judged, with Wilson intervals.

`python -m lora_daemon.starter.evaluate --sheet sheet.png` measures the packaged base.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from lora_daemon.starter import base_dir, drawing, world
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


def main() -> None:
    """Measure a base on held-out combinations and print its rates."""
    parser = argparse.ArgumentParser(prog="lora_daemon.starter.evaluate", description=__doc__)
    parser.add_argument("--base", type=Path, default=base_dir())
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet here")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    asked = asked_held_out(chosen.number)
    pictures = generate(load_base(chosen.base), [world.prompt(one) for one in asked])
    measured, verdicts = rates(pictures, asked, Judge.load())
    for name, rate in measured.items():
        print(f"{name:<11}{rate}")
    if chosen.sheet:
        labels = [label(a, v) for a, v in zip(asked, verdicts, strict=True)]
        contact_sheet(pictures, labels, chosen.sheet)


if __name__ == "__main__":
    main()
