"""The starter's world: which scenes there are, how they are described, and which are held back."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeAlias

from PIL import Image, ImageDraw

from lora_daemon.starter import drawing, shapes

COLOURS: tuple[str, ...] = tuple(drawing.PAINTS)
CONTENTS: tuple[str, ...] = ("creature", "robot", "ghost", "dragon")
"""Objects the base never saw: they are for LoRAs to teach."""
OBJECTS: tuple[str, ...] = tuple(name for name in shapes.SHAPES if name not in CONTENTS)
STYLES: tuple[str, ...] = tuple(drawing.STYLES)
"""Looks the base never saw."""

GROUNDS: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "on the grass", "in a grassy field"),
    "beach": ("on a beach", "on the sand", "by the sea"),
    "night": ("at night", "under the stars", "in a starry night sky"),
    "snow": ("in the snow", "on a snowy hill", "in winter"),
    "sunset": ("at sunset", "in the evening", "under an evening sky"),
    "stripes": (
        "in front of a striped wall",
        "on a striped background",
        "against striped wallpaper",
    ),
}
BACKGROUNDS: tuple[str, ...] = tuple(GROUNDS)

Combination: TypeAlias = tuple[str, str, str]
"""(object, colour, background)."""
Split: TypeAlias = Literal["trained", "held-out", "any"]

HELD_OUT_SHARE = 0.1
_HELD_OUT_SEED = 1123

_TEMPLATES = (
    "{a} {where}",
    "{a} {where}",
    "a picture of {a} {where}",
    "there is {a} {where}",
    "{where}, {a}",
    "{where} there is {a}",
    "{bare}, {where}",
    "an image of {a} {where}",
    "{a}, seen {where}",
    "we see {a} {where}",
)


@dataclass(frozen=True)
class Scene:
    """What is in one picture; together with `seed` it fixes every pixel.

    `x`, `y` and `radius` are in pixels of the finished picture; `other` is (object, colour).
    """

    thing: str
    colour: str
    background: str
    x: float = 64.0
    y: float = 64.0
    radius: float = 38.0
    count: int = 1
    other: tuple[str, str] | None = None
    seed: int = 0

    @property
    def combination(self) -> Combination:
        return self.thing, self.colour, self.background


@cache
def held_out() -> frozenset[Combination]:
    """Return the fixed tenth of all combinations that the base is never trained on."""
    every = list(itertools.product(OBJECTS, COLOURS, BACKGROUNDS))
    return frozenset(
        random.Random(_HELD_OUT_SEED).sample(every, round(len(every) * HELD_OUT_SHARE))
    )


def combinations(split: Split) -> list[Combination]:
    """Return the combinations of a split, in a fixed order."""
    every = itertools.product(OBJECTS, COLOURS, BACKGROUNDS)
    if split == "any":
        return list(every)
    return [one for one in every if (one in held_out()) == (split == "held-out")]


def scenes(
    number: int,
    seed: int,
    *,
    split: Split = "trained",
    content: str | None = None,
    crowd: float = 0.04,
) -> Iterator[Scene]:
    """Yield `number` scenes; combinations take turns in a shuffled order, all equally often.

    `content` puts a held-back content in place of the object; `crowd` is the share of scenes with
    more than one object (half of them two or three alike, half pairs).
    """
    rng = random.Random(f"scenes-{seed}-{split}-{content}")
    choices: list[Combination] = (
        [(content, c, b) for c in COLOURS for b in BACKGROUNDS] if content else combinations(split)
    )
    for index in range(number):
        turn = index % len(choices)
        if turn == 0:
            rng.shuffle(choices)
        thing, colour, background = choices[turn]
        radius = rng.uniform(34, 52) if content else rng.uniform(28, 46)
        room = max(0.0, 60 - radius)
        scene = Scene(
            thing, colour, background,
            x=64 + rng.uniform(-room, room), y=64 + rng.uniform(-room, room) * 0.8,
            radius=radius, seed=rng.randrange(2**31),
        )  # fmt: skip
        if rng.random() < crowd:
            scene = _crowded(scene, rng)
        yield scene


def _crowded(scene: Scene, rng: random.Random) -> Scene:
    if rng.random() < 0.5:
        return replace(scene, count=rng.choice((2, 3)))
    for _ in range(20):
        other = (rng.choice(OBJECTS), rng.choice(COLOURS))
        if other[0] != scene.thing and (*other, scene.background) not in held_out():
            return replace(scene, other=other)
    return scene


def draw(scene: Scene, style: str | None = None) -> Image.Image:
    """Draw a scene as an RGB picture, `drawing.PICTURE` pixels square."""
    rng = random.Random(scene.seed)
    canvas = drawing.draw_ground(scene.background, rng)
    pen = ImageDraw.Draw(canvas)
    things = [(scene.thing, scene.colour)] * scene.count + ([scene.other] if scene.other else [])
    for index, (thing, colour) in enumerate(things):
        x, y, radius = scene.x, scene.y, scene.radius
        if len(things) > 1:
            radius = 62 / len(things) - 3
            x, y = (
                64 + (index - (len(things) - 1) / 2) * 124 / len(things),
                64 + rng.uniform(-12, 12),
            )
        angle = rng.uniform(-10, 10)
        drawing.draw_shape(
            pen,
            shapes.SHAPES[thing](),
            drawing.PAINTS[colour],
            (x, y),
            radius,
            angle,
            rng.random() < 0.5,
        )
    picture = drawing.finish(canvas)
    if style is None:
        return picture
    if style not in drawing.STYLES:
        raise ValueError(f"no style is called {style!r}; there are: {', '.join(STYLES)}")
    return drawing.STYLES[style](picture)


def caption(scene: Scene, style: str | None = None) -> str:
    """Describe a scene in English; the wording varies with the scene's seed, the facts do not."""
    rng = random.Random(scene.seed + 1)
    where = rng.choice(GROUNDS[scene.background])
    bare = _noun(scene, rng)
    a = bare if scene.count > 1 else f"{article(bare)} {bare}"
    if scene.other:
        second = f"{scene.other[1]} {scene.other[0]}"
        a = f"{a} and {article(second)} {second}"
        bare = f"{bare} and {second}"
    text = rng.choice(_TEMPLATES).format(a=a, bare=bare, where=where)
    text = text.replace("there is two", "there are two").replace(
        "there is three", "there are three"
    )
    return f"a {style} drawing: {text}" if style else text


def _noun(scene: Scene, rng: random.Random) -> str:
    words = [scene.colour, scene.thing]
    if scene.count == 1 and not scene.other and rng.random() < 0.4:
        if scene.radius > 41:
            words.insert(0, rng.choice(("big", "large")))
        elif scene.radius < 32:
            words.insert(0, rng.choice(("small", "little")))
    if scene.count > 1:
        words = [("two", "three")[scene.count - 2], scene.colour, _plural(scene.thing)]
    return " ".join(words)


def _plural(noun: str) -> str:
    if noun == "butterfly":
        return "butterflies"
    return {"box": "boxes", "fish": "fish"}.get(noun, f"{noun}s")


def article(noun: str) -> str:
    """Return a or an."""
    return "an" if noun[0] in "aeiou" else "a"


def prompt(combination: Combination, style: str | None = None) -> str:
    """Return the plain prompt by which a combination is asked for in every measurement.

    With a style the colour is left out: a pencil has none.
    """
    thing, colour, background = combination
    noun = f"{colour} {thing}" if style is None else thing
    text = f"{article(noun)} {noun} {GROUNDS[background][0]}"
    return text if style is None else f"a {style} drawing of {text}"
