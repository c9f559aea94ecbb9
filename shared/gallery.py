"""The gallery's filter: which pictures pass, and in what order they are shown.

Words, all of which must occur in what was said of a picture: its prompts, its model, its LoRAs, its
file's name, its tool. ``rating:4`` is 4 or more (``rating:0``: not rated), ``tool:comfyui``,
``model:anything``, ``lora:ink``, ``sampler:"euler a"``, ``seed:1025`` and ``from:imported`` ask one
thing; a word behind ``-`` must not be so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import msgspec

from shared.errors import Code, LoraError
from shared.made_with import Made

Origin = Literal["made", "sample", "grid", "imported"]
Order = Literal["newest", "oldest", "best", "prompt"]
ORIGINS: tuple[Origin, ...] = ("made", "sample", "grid", "imported")
ORDERS: dict[Order, str] = {
    "newest": "newest first", "oldest": "oldest first", "best": "best rated first",
    "prompt": "by prompt and seed",
}  # fmt: skip
BEST = 5

_WORD = re.compile(r'(-?)(?:(\w+):)?("[^"]*"|\S+)')


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A picture of the gallery. ``made``: as its file says, or none. ``rating``: 0 is none."""

    id: str
    path: str
    origin: Origin
    width: int
    height: int
    created: float  # Unix seconds; of an imported one, when its file was changed last
    rating: int = 0
    run: str = ""
    step: int = 0
    made: Made = Made()
    problem: str = ""  # why it cannot be shown; empty if it can
    note: str = ""  # what of its texts was not read


Test = Callable[[Shown], bool]


def reader(text: str) -> Test:
    """Whether a picture passes a filter. Raises LoraError(BAD_REQUEST) saying what can be asked."""
    tests = [_test(*match.groups()) for match in _WORD.finditer(text)]
    return lambda one: all(test(one) for test in tests)


def ordered(pictures: list[Shown], order: Order) -> list[Shown]:
    """The pictures in an order; within it the newest first."""
    newest = sorted(pictures, key=lambda one: (one.created, one.id), reverse=True)
    if order == "oldest":
        return newest[::-1]
    if order == "best":
        return sorted(newest, key=lambda one: -one.rating)
    if order == "prompt":
        return sorted(newest, key=lambda one: (one.made.prompt.lower(), one.made.seed or 0))
    return newest


def _test(minus: str, name: str, value: str) -> Test:
    wanted = value.strip('"').lower()
    test = _FIELDS[name](wanted) if name in _FIELDS else None
    if test is None:
        if name and not value.startswith("//"):
            known = ", ".join(f"{one}:" for one in _FIELDS)
            raise LoraError(
                Code.BAD_REQUEST,
                f"A picture has no {name}:. There are {known} and plain words; put words with a "
                "colon into quotes.",
            )
        test = _anywhere(f"{name}:{wanted}" if name else wanted)
    return (lambda one: not test(one)) if minus else test


def _anywhere(wanted: str) -> Test:
    return lambda one: wanted in _said(one)


def _said(one: Shown) -> str:
    made = one.made
    loras = " ".join(use.lora for use in made.loras)
    name = one.path.rsplit("/", 1)[-1]
    return f"{made.prompt}\n{made.negative}\n{made.model}\n{loras}\n{made.tool}\n{name}".lower()


def _rating(wanted: str) -> Test:
    if wanted not in {str(number) for number in range(BEST + 1)}:
        raise LoraError(Code.BAD_REQUEST, f"rating:{wanted}: a rating is 1 to {BEST}, or 0: none.")
    least = int(wanted)
    return lambda one: one.rating >= least if least else not one.rating


def _origin(wanted: str) -> Test:
    if wanted not in ORIGINS:
        raise LoraError(Code.BAD_REQUEST, f"from:{wanted}: it is one of {', '.join(ORIGINS)}.")
    return lambda one: one.origin == wanted


def _seed(wanted: str) -> Test:
    if not wanted.isdecimal():
        raise LoraError(Code.BAD_REQUEST, f"seed:{wanted}: a seed is a whole number.")
    return lambda one: one.made.seed == int(wanted)


_FIELDS: dict[str, Callable[[str], Test]] = {
    "rating": _rating,
    "from": _origin,
    "tool": lambda wanted: lambda one: wanted in one.made.tool.lower(),
    "model": lambda wanted: lambda one: wanted in one.made.model.lower(),
    "sampler": lambda wanted: lambda one: wanted == one.made.sampler.lower(),
    "seed": _seed,
    "run": lambda wanted: lambda one: wanted == one.run.lower(),
    "lora": lambda wanted: lambda one: any(wanted in use.lora.lower() for use in one.made.loras),
}
