"""A mix: LoRAs at their weights on a base, and what is painted with them; how two changes meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from shared import regions
from shared.distilled import Preview
from shared.pictures import LoraUse, PictureSpec, SecondPass, tag
from shared.recipe import Sampler, Text

MOST = 64  # LoRAs of one mix
Decoder = Literal["auto", "cheap", "full"]  # cheap: an approximation; auto: where it is worth it


class MixLora(LoraUse, frozen=True, kw_only=True):
    """A LoRA of a mix. ``muted``: left out for now. ``solo``: while any is, only those count."""

    muted: bool = False
    solo: bool = False


class MixSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a mix is made of. A LoRA is in it once."""

    base: str = "starter"
    loras: Annotated[list[MixLora], Meta(max_length=MOST)] = []
    prompt: Text = ""
    negative: Text = ""
    sampler: Sampler = "Euler"
    steps: Annotated[int, Meta(ge=1, le=1000)] = 20
    cfg: Annotated[float, Meta(ge=0, le=100)] = 7.0
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 1025
    width: Annotated[int, Meta(ge=0, le=8192)] = 0  # pixels, a multiple of 8; 0: the base's own
    height: Annotated[int, Meta(ge=0, le=8192)] = 0
    second: SecondPass | None = None  # previews are without it
    preview: Preview | None = None  # none: a few steps of a usual sampler
    decoder: Decoder = "auto"  # of previews; the whole picture is always the VAE's


_SETTINGS = [name for name in MixSpec.__struct_fields__ if name != "loras"]
_PAINTED = [name for name in _SETTINGS if name not in ("preview", "decoder")]
_FIELDS = LoraUse.__struct_fields__
_OF_USE = [name for name in LoraUse.__struct_fields__ if name != "lora"]
_OF_LORA = [name for name in MixLora.__struct_fields__ if name != "lora"]


class Clash(Exception):
    """Two changes of the same thing. ``what``: the thing, in words."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def heard(spec: MixSpec) -> list[MixLora]:
    """The LoRAs that count: the soloed ones if there are any, without the muted."""
    alone = any(lora.solo for lora in spec.loras)
    return [lora for lora in spec.loras if not lora.muted and (lora.solo or not alone)]


def picture(spec: MixSpec) -> PictureSpec:
    """The picture that a mix asks for."""
    settings = {name: getattr(spec, name) for name in _PAINTED}
    return PictureSpec(**settings, loras=[use(lora) for lora in heard(spec)])


def of_picture(spec: PictureSpec, live: MixSpec) -> MixSpec:
    """The mix that paints a picture, with previews as they are on the same base. What a mix has not
    is in ``left_of``."""
    mix = MixSpec(**{name: getattr(spec, name) for name in _PAINTED}, decoder=live.decoder)
    if spec.base == live.base:
        mix = replace(mix, preview=live.preview)
    for one in spec.loras:
        mix = with_lora(mix, MixLora(**{name: getattr(one, name) for name in _FIELDS}))
    return mix


def left_of(spec: PictureSpec) -> list[str]:
    """What of a picture a mix has not, in sentences."""
    names = {"variation": "its variation", "start": "the picture it was begun from"}
    left = [words for name, words in names.items() if getattr(spec, name) is not None]
    return [f"The Mixer leaves out {' and '.join(left)}."] if left else []


def use(lora: MixLora) -> LoraUse:
    """The LoRA as a picture has it."""
    return LoraUse(**{name: getattr(lora, name) for name in LoraUse.__struct_fields__})


def remedied(spec: MixSpec, uses: Sequence[LoraUse]) -> MixSpec:
    """The mix with other weights for the LoRAs that count, in their order."""
    for lora, use in zip(heard(spec), uses, strict=True):
        fields = {name: getattr(use, name) for name in _OF_USE}
        spec = with_lora(spec, replace(lora, **fields))
    return spec


def parts_of_steps(use: LoraUse) -> str:
    """The part of the steps that a LoRA takes part in, such as 0.25-1.0, as a tag's ``step=`` reads
    it; empty: all of them."""
    return "" if (use.begin, use.end) == (0, 1) else f"{round(use.begin, 4)}-{round(use.end, 4)}"


def part_of_picture(use: LoraUse) -> str:
    """The region that a LoRA acts in, as ``shared.regions`` reads it; empty: the whole picture."""
    return "" if use.region is None else regions.said(use.region)


def webui(spec: MixSpec) -> str:
    """The prompt as WebUI users write it: words, then a ``<lora:…>`` for each LoRA that counts."""
    tags = [tag(lora, spec.steps) for lora in heard(spec)]
    return " ".join(part for part in (spec.prompt, *tags) if part)


def merged(before: MixSpec, after: MixSpec, present: MixSpec) -> MixSpec:
    """``present`` with what changed from ``before`` to ``after``.

    Changes of different settings, or of different values of one LoRA, do not touch each other.
    Raises Clash where both sides changed the same thing, each in its own way.
    """
    if before == present:
        return after
    settings = {
        name: _one(name, *(getattr(one, name) for one in (before, after, present)))
        for name in _SETTINGS
    }
    rows = [{lora.lora: lora for lora in one.loras} for one in (before, after, present)]
    names = [*rows[2], *(name for name in rows[1] if name not in rows[2])]
    loras = [_row(name, *(found.get(name) for found in rows)) for name in names]
    return MixSpec(**settings, loras=[lora for lora in loras if lora is not None])


def _row(
    name: str, before: MixLora | None, after: MixLora | None, present: MixLora | None
) -> MixLora | None:
    if before is None or after is None or present is None:
        found: MixLora | None = _one(name, before, after, present)
        return found
    values = {
        field: _one(name, *(getattr(one, field) for one in (before, after, present)))
        for field in _OF_LORA
    }
    return replace(present, **values)


def _one(what: str, before: Any, after: Any, present: Any) -> Any:
    if after in (before, present):
        return present
    if present != before:
        raise Clash(what)
    return after


def with_lora(spec: MixSpec, lora: MixLora) -> MixSpec:
    """The mix with this LoRA in it, in place of the one of that name if there is one."""
    rows = {one.lora: one for one in spec.loras} | {lora.lora: lora}
    return replace(spec, loras=list(rows.values()))


def without(spec: MixSpec, names: Sequence[str]) -> MixSpec:
    """The mix without these LoRAs."""
    return replace(spec, loras=[lora for lora in spec.loras if lora.lora not in names])
