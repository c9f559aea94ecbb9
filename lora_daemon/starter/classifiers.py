"""The judge: a small network, independent of the generator, that says what a picture shows."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from lora_daemon.starter import drawing, shapes, world
from lora_daemon.starter.autoencoder import decode, encode, from_bytes, to_bytes
from lora_daemon.starter.loop import Schedule, train

NONE = "none"
"""The answer for what is none of the things this world knows."""
LABELS: dict[str, tuple[str, ...]] = {
    "object": (*world.OBJECTS, *world.CONTENTS, NONE),
    "colour": (*world.COLOURS, NONE),
    "background": (*world.BACKGROUNDS, NONE),
    "style": ("plain", *world.STYLES),
}
FACED = ("creature", "robot", "ghost")
"""Contents that are nothing without their faces."""
FILE = Path(__file__).parent / "judge.safetensors"
SIDE, BATCH = 64, 48
IGNORE = -100


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in one picture; `sure` is the least of its four probabilities."""

    object: str
    colour: str
    background: str
    style: str
    sure: float

    @property
    def creature(self) -> bool:
        return self.object == "creature"

    @property
    def pencil(self) -> bool:
        return self.style == "pencil"


class Network(nn.Module):
    """Five convolutions and a linear layer an attribute, 0.2 M parameters; sees (n, 3, 64, 64)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 72, 96, 112)
        blocks: list[nn.Module] = []
        for into, out in itertools.pairwise(widths):
            stride = 1 if into == 3 else 2
            blocks += [
                nn.Conv2d(into, out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*blocks)
        features = widths[-1] * 2
        self.heads = nn.ModuleDict(
            {name: nn.Linear(features, len(of)) for name, of in LABELS.items()}
        )

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return logits (n, classes) for each attribute."""
        maps = self.trunk(pixels)
        features = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        return {name: head(features) for name, head in self.heads.items()}


class Judge:
    """Looks at pictures and says what is in them."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval()

    @classmethod
    def load(cls, file: Path = FILE) -> Judge:
        """Read the packaged weights."""
        network = Network()
        network.load_state_dict({name: value.float() for name, value in load_file(file).items()})
        return cls(network)

    def save(self, file: Path = FILE) -> None:
        """Write the weights, in half precision."""
        state = self.network.state_dict()
        save_file({name: value.half().contiguous() for name, value in state.items()}, file)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[Verdict]:
        """Judge RGB pictures of any one size."""
        if not pictures:
            return []
        same = [picture.convert("RGB").resize((drawing.PICTURE,) * 2) for picture in pictures]
        logits = self.network(shrink(from_bytes(to_bytes(same))))
        best = {name: values.softmax(dim=1).max(dim=1) for name, values in logits.items()}
        verdicts = []
        for row in range(len(same)):
            words = {name: LABELS[name][int(found.indices[row])] for name, found in best.items()}
            verdicts.append(
                Verdict(**words, sure=min(float(found.values[row]) for found in best.values()))
            )
        return verdicts


def shrink(pixels: torch.Tensor) -> torch.Tensor:
    """Average pixels (n, 3, 128, 128) down to the judge's (n, 3, 64, 64)."""
    return F.avg_pool2d(pixels, drawing.PICTURE // SIDE)


def _decoy(scene: world.Scene, rng: random.Random) -> Image.Image:
    """Draw a blob of the scene's colour, jagged or round, plain or with pale and dark spots on it,
    as an unfinished generator would."""
    canvas = drawing.draw_ground(scene.background, rng)
    pen = ImageDraw.Draw(canvas)
    jagged, lobes, turn = rng.random() < 0.5, rng.randint(2, 5), rng.uniform(0, 6.3)
    corners = rng.randint(5, 12) if jagged else 40
    wobble = rng.uniform(0, 0.25)
    points = []
    for i in range(corners):
        angle = 2 * math.pi * i / corners
        reach = rng.uniform(0.35, 1.1) if jagged else 0.85 + wobble * math.sin(lobes * angle + turn)
        points.append((reach * math.cos(angle), reach * math.sin(angle)))
    parts = [shapes.Part(tuple(points), outlined=rng.random() < 0.5)]
    for _ in range(rng.randint(0, 5)):
        x, y = rng.uniform(-0.7, 0.7), rng.uniform(-0.8, 0.6)
        shade: shapes.Shade = rng.choice(("white", "light", "black", "dark"))
        oval = shapes.oval(x, y, rng.uniform(0.08, 0.3), rng.uniform(0.08, 0.3))
        parts.append(shapes.Part(oval, shade, outlined=False))
    drawing.draw_shape(
        pen, parts, drawing.PAINTS[scene.colour], (scene.x, scene.y), scene.radius, 0, False
    )
    return drawing.finish(canvas)


def _faceless(scene: world.Scene, rng: random.Random) -> Image.Image:
    """Draw a content without its white parts, or without its black ones: nearly, but not it."""
    lost = rng.choice(("white", "black"))
    parts = [part for part in shapes.SHAPES[rng.choice(FACED)]() if part.shade != lost]
    canvas = drawing.draw_ground(scene.background, rng)
    drawing.draw_shape(
        ImageDraw.Draw(canvas), parts, drawing.PAINTS[scene.colour], (scene.x, scene.y),
        scene.radius, rng.uniform(-10, 10), rng.random() < 0.5,
    )  # fmt: skip
    return drawing.finish(canvas)


def _jumbled(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Cut a picture into 16 tiles and shuffle them: its colours remain, its objects do not."""
    tiles = [
        picture.crop((x, y, x + 32, y + 32)) for y in range(0, 128, 32) for x in range(0, 128, 32)
    ]
    rng.shuffle(tiles)
    jumbled = Image.new("RGB", picture.size)
    for i, tile in enumerate(tiles):
        jumbled.paste(tile, (i % 4 * 32, i // 4 * 32))
    return jumbled


def lessons(
    number: int, seed: int, split: world.Split = "any"
) -> tuple[list[Image.Image], torch.Tensor]:
    """Draw pictures and their labels, int64 (n, 4) in `LABELS`' order; `IGNORE`: not asked."""
    rng = random.Random(f"lessons-{seed}")
    few = number // 24
    every = list(world.scenes(number - few * len(world.CONTENTS), seed, split=split, crowd=0))
    for content in world.CONTENTS:
        every += world.scenes(few, seed, content=content, crowd=0)
    pictures, labels = [], []
    for drawn in every:
        kind = rng.random()
        radius = rng.uniform(22, 56) if rng.random() < 0.5 else drawn.radius
        scene = replace(drawn, radius=radius)
        names = {"object": scene.thing, "colour": scene.colour, "background": scene.background}
        style, ignored = "plain", set[str]()
        if kind < 0.08:
            picture, names["object"] = _decoy(scene, rng), NONE
        elif kind < 0.12:
            picture, names["object"] = _faceless(scene, rng), NONE
        elif kind < 0.16:
            picture = drawing.finish(drawing.draw_ground(scene.background, rng))
            names |= {"object": NONE, "colour": NONE}
        elif kind < 0.2:
            picture = _jumbled(world.draw(scene), rng)
            names |= {"object": NONE, "background": NONE}
            ignored = {"colour"}
        elif kind < 0.4:
            style = rng.choice(world.STYLES)
            picture, ignored = world.draw(scene, style), {"colour", "background"}
        else:
            picture = world.draw(scene)
        if style == "pencil":
            names["colour"], ignored = NONE, {"background"}
        elif style == "mosaic":  # nobody could tell what its tiles show
            ignored |= {"object"}
        names["style"] = style
        pictures.append(picture)
        labels.append(
            [IGNORE if name in ignored else of.index(names[name]) for name, of in LABELS.items()]
        )
    return pictures, torch.tensor(labels)


def fit(
    state_file: Path, network: AutoencoderKL, *, steps: int, pictures: int = 9000, seed: int = 6
) -> Judge:
    """Train a judge on drawings, half passed through the autoencoder, all roughened a little."""
    torch.manual_seed(seed)
    judge = Network()
    drawn, labels = lessons(pictures, seed)
    pixels = to_bytes(drawn)
    half = len(pixels) // 2
    passed = decode(network, encode(network, pixels[:half]))
    small = shrink(torch.cat([passed, from_bytes(pixels[half:])]))

    def loss_at(rng: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(small), (BATCH,), generator=rng)
        batch = _roughened(small[rows], rng)
        logits = judge(batch)
        losses = [
            F.cross_entropy(
                logits[name], labels[rows, column], ignore_index=IGNORE, label_smoothing=0.02
            )
            for column, name in enumerate(LABELS)
        ]
        return torch.stack(losses).sum()

    train("judge", judge, Schedule(steps, rate=3e-3), loss_at, state_file, seed=seed)
    return Judge(judge)


def _roughened(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Shift, blur, tint and add noise, as an imperfect generator might; float32 (n, 3, 64, 64)."""
    shift_y, shift_x = torch.randint(-4, 5, (2,), generator=rng).tolist()
    batch = F.pad(batch, (4, 4, 4, 4), mode="replicate")[
        :, :, 4 + shift_y : 68 + shift_y, 4 + shift_x : 68 + shift_x
    ]
    share = torch.rand(len(batch), 1, 1, 1, generator=rng)
    batch = batch.lerp(F.avg_pool2d(batch, 3, 1, 1), share)
    tint = torch.randn(len(batch), 3, 1, 1, generator=rng) * 0.04
    gain = 1 + torch.randn(len(batch), 1, 1, 1, generator=rng) * 0.06
    noise = (
        torch.randn(batch.shape, generator=rng)
        * torch.rand(len(batch), 1, 1, 1, generator=rng)
        * 0.12
    )
    return batch * gain + tint + noise


def accuracy(
    judge: Judge, pictures: Sequence[Image.Image], labels: torch.Tensor
) -> dict[str, float]:
    """Return the share judged right, for each attribute, where a right answer exists."""
    verdicts = judge(pictures)
    shares = {}
    for column, (name, of) in enumerate(LABELS.items()):
        asked = [
            (v, int(row[column]))
            for v, row in zip(verdicts, labels, strict=True)
            if row[column] >= 0
        ]
        shares[name] = sum(getattr(v, name) == of[label] for v, label in asked) / len(asked)
    return shares
