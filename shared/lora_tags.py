"""The WebUI's way to name a LoRA inside a prompt: ``<lora:name:weight>``, read and written.

``<lora:name:te:unet>`` gives the text encoder its own weight; ``te=``, ``unet=`` and the block
weight extension's ``lbw=``, ``start=``, ``stop=`` and ``step=5-10`` may be named. A weight left out
is 1, the UNet's is the text encoder's. A step with a point in it is a share of the steps, as in the
WebUI's ``[from:to:0.5]``. Ours are ``where=left``, the region of ``shared.regions`` it acts in, and
``guide=2``, how much further each step goes along what it adds (``shared.pictures.LoraUse``).
"""

from __future__ import annotations

import re

from shared import blocks, regions
from shared.errors import Code, LoraError
from shared.pictures import LoraUse

_TAG = re.compile(r"\s*<lora:([^<>]+)>")
STEPS = 20  # of a picture, where nobody says
_NAMES = {"te", "unet", "lbw", "start", "stop", "step", "where", "guide"}


def taken(prompt: str, steps: int = STEPS) -> tuple[str, list[LoraUse]]:
    """The prompt without its LoRA tags, and what they ask for. ``steps``: those of the picture.
    Raises LoraError(BAD_REQUEST)."""
    uses = [read(match[1], steps) for match in _TAG.finditer(prompt)]
    return (_TAG.sub("", prompt).strip(), uses) if uses else (prompt, [])


def read(text: str, steps: int = STEPS) -> LoraUse:
    """``name:0.8``, ``name:0.8:0.6`` or ``name:te=0.8:unet=0.6:lbw=OUTD:start=5``, what stands
    between ``<lora:`` and ``>``. Raises LoraError(BAD_REQUEST)."""
    text = text.removeprefix("<lora:").removesuffix(">")
    name, *parts = text.split(":")
    positional = [part for part in parts if "=" not in part]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    if not name.strip() or len(positional) > 2 or named.keys() - _NAMES:
        raise _wrong(text)
    try:
        text_weight = float(named.get("te") or (positional[0] if positional else 1.0))
        weight = float(named.get("unet") or (positional[1] if len(positional) > 1 else text_weight))
        guidance = float(named.get("guide") or 0.0)
    except ValueError:
        raise _wrong(text) from None
    first, _, last = named.get("step", "").partition("-")
    begin, end = span(f"{named.get('start') or first}-{named.get('stop') or last}", steps)
    return LoraUse(
        lora=name.strip(),
        weight=weight,
        text_weight=None if text_weight == weight else text_weight,
        blocks=blocks.read(named["lbw"]) if "lbw" in named else [],
        begin=begin,
        end=end,
        region=regions.read(named["where"]) if "where" in named else None,
        guidance=guidance,
    )


def span(text: str, steps: int) -> tuple[float, float]:
    """What part of the steps 5-15, 0.25-0.75 or 5- means. Raises LoraError(BAD_REQUEST)."""
    first, _, last = text.partition("-")
    try:
        begin, end = _share(first.strip(), steps, 0.0), _share(last.strip(), steps, 1.0)
    except ValueError:
        begin = end = 0.0
    if not begin < end:
        raise LoraError(
            Code.BAD_REQUEST,
            f"{text} is no part of {steps} steps: write 5-15, or shares such as 0.25-0.75.",
        )
    return begin, end


def _share(text: str, steps: int, default: float) -> float:
    """A step by its number, or a share of them by its point. Raises ValueError."""
    if not text:
        return default
    share = float(text) if "." in text else int(text) / steps
    return min(max(share, 0.0), 1.0)


def _wrong(text: str) -> LoraError:
    return LoraError(
        Code.BAD_REQUEST,
        f"<lora:{text}> cannot be read; write <lora:name:0.8>, <lora:name:0.8:0.6> (text encoder, "
        "UNet) or <lora:name:0.8:lbw=OUTD:start=5:stop=15:where=left:guide=2>.",
    )
