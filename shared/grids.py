"""A grid of pictures: one picture varied along up to three axes, as users of the WebUI's X/Y/Z plot
know it.

An axis is written ``NAME=VALUES``. Names: ``seed``, ``steps``, ``cfg``, ``sampler``, ``base``,
``size``, ``weight`` (of every LoRA), ``weight:LORA``, likewise ``text-weight`` and ``guidance``,
``lora:LORA`` (others in its place, such as the checkpoints of a run), ``prompt`` (the first value,
wherever it stands in the prompt or the negative prompt, is replaced by each). Values stand between
commas, in quotes where they hold one; numbers also as ranges: ``1-5``, ``0-1 (+0.25)``,
``0-1 [5]``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import msgspec
from msgspec.structs import replace

from shared.errors import Code, LoraError, in_words
from shared.pictures import LoraUse, PictureSpec, sampler_named, stem

MOST = 400  # cells

_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)"
_RANGE = re.compile(
    rf"({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*\+?({_NUMBER})\s*\)|\[\s*(\d+)\s*\])?"
)
_OF_LORA = {"weight": "weight", "text-weight": "text_weight", "guidance": "guidance"}  # its fields
_NUMBERS = {"seed": int, "steps": int, "cfg": float, **dict.fromkeys(_OF_LORA, float)}
_WORDS = ("sampler", "base", "size", "lora", "prompt")


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """What varies, and the values it takes, in words."""

    kind: str
    lora: str = ""  # which LoRA it is about; empty: every one
    values: list[str]

    def label(self, value: str) -> str:
        """What stands beside the value's row or column."""
        if self.kind in ("prompt", "lora", "sampler", "base"):
            return stem(value) if self.kind == "lora" else value
        of = f" {stem(self.lora)}" if self.lora else ""
        return f"{self.kind}{of} {value}"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One picture of a grid."""

    at: tuple[int, ...]  # its place along each axis
    labels: tuple[str, ...]
    spec: PictureSpec


def read(text: str) -> Axis:
    """An axis as a person writes it. Raises LoraError(BAD_REQUEST)."""
    name, equals, values = text.partition("=")
    kind, _, lora = name.strip().partition(":")
    known = [*_NUMBERS, *_WORDS]
    if not equals or kind not in known:
        raise _bad(f"{text!r} is not an axis. Write NAME=VALUES; names are {', '.join(known)}.")
    if lora and kind not in (*_OF_LORA, "lora"):
        raise _bad(f"{kind} is not a LoRA's: write {kind}=…, without :{lora}.")
    if kind == "lora" and not lora:
        raise _bad("Say which LoRA is to be replaced: lora:NAME=OTHER,ANOTHER.")
    parts = [part.strip() for part in next(csv.reader([values], skipinitialspace=True), [])]
    if kind in _NUMBERS:
        parts = [one for part in parts for one in _numbers(part, _NUMBERS[kind])]
    elif kind == "sampler":
        parts = [sampler_named(part) for part in parts]
    if not parts or not all(parts):
        raise _bad(f"{name}= has no values, or an empty one.")
    return Axis(kind=kind, lora=lora, values=parts)


def cells(spec: PictureSpec, axes: list[Axis]) -> list[Cell]:
    """Every picture of the grid, the last axis varying fastest. Raises LoraError(BAD_REQUEST)."""
    number = 1
    for axis in axes:
        number *= len(axis.values)
    if number > MOST:
        raise _bad(f"That would be {number} pictures; a grid has at most {MOST}.")
    made = []
    for at in product(*(range(len(axis.values)) for axis in axes)):
        varied = spec
        for axis, place in sorted(
            zip(axes, at, strict=True), key=lambda pair: pair[0].kind == "lora"
        ):  # a LoRA is replaced last: the other axes name the one that was there
            varied = _APPLY[axis.kind](varied, axis, axis.values[place])
        labels = tuple(a.label(a.values[place]) for a, place in zip(axes, at, strict=True))
        try:
            varied = msgspec.convert(msgspec.to_builtins(varied), PictureSpec)
        except msgspec.ValidationError as error:
            raise _bad(f"{', '.join(labels)}: that cannot be painted: {in_words(error)}.") from None
        made.append(Cell(at=at, labels=labels, spec=varied))
    return made


def _numbers(part: str, kind: Callable[[float], float]) -> list[str]:
    """One number, or the range that ``part`` stands for, both ends in it."""
    match = _RANGE.fullmatch(part)
    if not match:
        if not re.fullmatch(_NUMBER, part):
            raise _bad(f"{part!r} is neither a number nor a range such as 0-1 (+0.25) or 0-1 [5].")
        return [f"{float(part):.10g}" if kind is float else part]
    first, last = float(match[1]), float(match[2])
    if match[4]:
        number = int(match[4])
        step = (last - first) / (number - 1) if number > 1 else 0.0
    else:
        step = abs(float(match[3] or 1)) * (1 if last >= first else -1)
        if not step:
            raise _bad(f"{part!r} has a step of 0.")
        number = int((last - first) / step + 1e-9) + 1
    if number > MOST:
        raise _bad(f"{part!r} has {number} values; a grid has at most {MOST} pictures.")
    values = [first + step * index for index in range(number)]
    return [f"{kind(round(value)) if kind is int else round(value, 10):.12g}" for value in values]


def _field(spec: PictureSpec, axis: Axis, value: str) -> PictureSpec:
    """Set what is called like the axis."""
    kind = _NUMBERS.get(axis.kind, str)
    try:
        changed: dict[str, Any] = {axis.kind: kind(value)}
    except ValueError:
        raise _bad(f"{axis.kind}={value}: that is not a whole number.") from None
    return replace(spec, **changed)


def _size(spec: PictureSpec, axis: Axis, value: str) -> PictureSpec:
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", value)
    if not match:
        raise _bad(f"{value!r} is not a size; write it as 512x512.")
    return replace(spec, width=int(match[1]), height=int(match[2]))


def _prompt(spec: PictureSpec, axis: Axis, value: str) -> PictureSpec:
    wanted = axis.values[0]
    if wanted not in spec.prompt and wanted not in spec.negative:
        raise _bad(
            f"{wanted!r} is in neither prompt: the first value of a prompt axis is what the others "
            "replace."
        )
    return replace(
        spec,
        prompt=spec.prompt.replace(wanted, value),
        negative=spec.negative.replace(wanted, value),
    )


def _lora(spec: PictureSpec, axis: Axis, value: str) -> PictureSpec:
    name = _OF_LORA.get(axis.kind, axis.kind)
    new: Any = value if axis.kind == "lora" else float(value)
    meant = [use for use in spec.loras if not axis.lora or _is(use, axis.lora)]
    if not meant:
        there = ", ".join(stem(use.lora) for use in spec.loras) or "none"
        raise _bad(
            f"The picture has no LoRA{f' {axis.lora!r}' if axis.lora else ''} to vary; "
            f"there: {there}."
        )
    loras = [replace(use, **{name: new}) if use in meant else use for use in spec.loras]
    return replace(spec, loras=loras)


def _is(use: LoraUse, name: str) -> bool:
    return name in (use.lora, stem(use.lora))


def _bad(message: str) -> LoraError:
    return LoraError(Code.BAD_REQUEST, message)


_APPLY: dict[str, Callable[[PictureSpec, Axis, str], PictureSpec]] = {
    **dict.fromkeys(("seed", "steps", "cfg", "sampler", "base"), _field),
    **dict.fromkeys((*_OF_LORA, "lora"), _lora),
    "size": _size,
    "prompt": _prompt,
}
