"""What the campaign trains and asks for, fixed before anything was measured.

A pair is a LoRA of a content and one of a style, and both are asked for in the same pictures ("a
neon drawing of a red ghost at night"), so that each picture says of both what is left. No LoRA of
the development part is in the test part, which is not looked at while a formula is being chosen.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Literal

from lora_daemon.starter import world

Part = Literal["development", "test"]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LINEAR = (*ATTENTION, "ff", "proj")
LOCON = (*LINEAR, "conv")

ROUND = 40  # pictures that every arm is given before any is given more
STRENGTHS = ((1.0, 1.0), (0.7, 0.7), (1.0, 0.7), (0.7, 1.0))
"""At which a pair's losses are measured: of the content, of the style."""
PLAIN = (*STRENGTHS, (1.3, 1.0), (1.0, 1.3), (1.3, 1.3))
"""Pairs of plain weights that a remedy for (1, 1) has to beat."""

JUDGED: dict[str, tuple[str, ...]] = {
    "pencil": ("object",), "neon": ("object",), "watercolour": ("object",),
    "mosaic": ("object", "colour", "background"),
}  # fmt: skip
"""What the judge can tell of a drawing in a style: is right about in three of four or more of 200
true ones, passed through the autoencoder."""


@dataclass(frozen=True)
class Taught:
    """A LoRA, and how it is trained. ``shows``: a content or a style of the world. ``rate`` and
    ``text_rate``: of the denoiser and the text encoder (0: left alone)."""

    name: str
    shows: str
    kind: str = "lora"
    rank: int = 16
    targets: tuple[str, ...] = ATTENTION
    rate: float = 2e-3
    text_rate: float = 0.0
    steps: int = 400
    pictures: int = 80

    @property
    def content(self) -> bool:
        return self.shows in world.CONTENTS


LORAS: dict[Part, tuple[Taught, ...]] = {
    "development": (
        Taught("creature-r8", "creature", rank=8),
        Taught("robot-linear", "robot", rank=32, targets=LINEAR, rate=1e-3),
        Taught("ghost-dora", "ghost", kind="dora", rank=8),
        Taught("dragon-locon", "dragon", rank=8, targets=LOCON, rate=1e-3),
        Taught("pencil-r16", "pencil"),
        Taught("neon-loha", "neon", kind="loha", rank=4),
        Taught("mosaic-text", "mosaic", rank=8, text_rate=5e-4),
    ),
    "test": (
        Taught("creature-text", "creature", rank=16, text_rate=5e-4, steps=350),
        Taught("robot-loha", "robot", kind="loha", rank=4, targets=LINEAR),
        Taught("ghost-r32", "ghost", rank=32, targets=LINEAR, rate=1e-3, steps=300),
        Taught("dragon-r4", "dragon", rank=4, steps=500),
        Taught("robot-locon", "robot", rank=16, targets=LOCON, rate=7e-4),
        Taught("pencil-locon", "pencil", rank=8, targets=LOCON, rate=1e-3, steps=300),
        Taught("neon-r4", "neon", rank=4, steps=300),
        Taught("mosaic-r32", "mosaic", rank=32, targets=LINEAR, rate=1e-3),
        Taught("watercolour-dora", "watercolour", kind="dora", rank=16, steps=350),
        Taught("watercolour-text", "watercolour", rank=8, text_rate=5e-4, steps=250),
    ),
}


@dataclass(frozen=True)
class Pair:
    """A LoRA of a content and one of a style."""

    content: Taught
    style: Taught

    @property
    def name(self) -> str:
        return f"{self.content.name} × {self.style.name}"

    @property
    def both(self) -> tuple[Taught, Taught]:
        return self.content, self.style

    @property
    def group(self) -> Group:
        return Group(self.content.shows, self.style.shows)


@dataclass(frozen=True)
class Group:
    """The prompts that arms are painted to: a thing of the world in a style. Without a ``thing``:
    objects that the base knows, another in each prompt."""

    thing: str
    style: str

    def asked(self, number: int) -> list[tuple[str, world.Combination]]:
        """The first prompts and what each asks for, in an order that does not depend on how many.
        A pencil has no colours, so none is asked of it."""
        every = list(
            itertools.product([self.thing], world.COLOURS, world.BACKGROUNDS)
            if self.thing
            else world.combinations("held-out")
        )
        random.Random(f"pairs-{self.thing}-{self.style}").shuffle(every)
        turns = (every[turn % len(every)] for turn in range(number))
        return [(prompt(one, self.style), one) for one in turns]


def prompt(wanted: world.Combination, style: str) -> str:
    """A combination asked for in a style, as its LoRA's captions name it."""
    if style == "pencil":
        return world.prompt(wanted, style)
    plain = world.prompt(wanted)
    return f"{world.article(style)} {style} drawing of {plain}"


def pairs(part: Part) -> list[Pair]:
    """Each content with each style of a part."""
    loras = LORAS[part]
    return [
        Pair(content, style)
        for content, style in itertools.product(loras, loras)
        if content.content and not style.content
    ]
